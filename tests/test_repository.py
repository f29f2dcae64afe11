"""What the files of the repository promise each other."""

import ast
import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from collide_utils import claims

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
CONDA_NAMES = {"matplotlib": "matplotlib-base", "playwright": "playwright-python", "torch": "pytorch-cpu"}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["site"]]


def test_conda_and_pip_install_the_same():
    expected = {CONDA_NAMES.get(r.name, r.name) + str(r.specifier) for r in WANTED}
    expected |= {"python" + PROJECT["requires-python"], "pip"}
    listed = re.findall(r"^ +- ([a-z\w>=.-]+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    assert set(listed) - {"conda-forge"} == expected


def test_the_oldest_versions_are_those_that_the_project_allows():
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    oldest = {r.name: r.specifier for r in map(Requirement, lines)}
    assert oldest == {r.name: SpecifierSet(str(r.specifier).replace(">=", "==")) for r in WANTED}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_are_paired(script):
    text, notebook = jupytext.read(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [(c.cell_type, c.source, c.metadata) for c in text.cells] == [
        (c.cell_type, c.source, c.metadata) for c in notebook.cells
    ]
    nbformat.validate(notebook)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_were_run_top_to_bottom_and_printed_nothing_private(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr"
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(r"0x[0-9a-f]{6}|/home/|/root/|/tmp/|site-packages", text), text
        if "image/png" in output.get("data", {}):
            assert len(output.metadata["image/png"]["alt"]) > 40


def test_every_notebook_has_its_pair():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks and [n.stem for n in notebooks] == [s.stem for s in SCRIPTS]


def test_every_claim_was_printed_by_its_notebook():
    for name, entry in claims.ledger().items():
        if entry["as_stated"] != "not testable here":
            notebook = nbformat.read(ROOT / "notebooks" / f"{entry['notebook']}.ipynb", as_version=4)
            printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
            assert f"{name}: {entry['as_stated']} as stated. {entry['repaired']}" in printed, name


def test_the_readme_sums_up_the_ledger_and_shows_the_picture_of_notebook_00():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert claims.summary() in " ".join(readme.split())
    notebook = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    (picture,) = [
        o["data"]["image/png"] for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert (ROOT / "data" / "collision.png").read_bytes() == base64.b64decode(picture)
    assert "](data/collision.png)" in readme


def test_a_wheel_carries_what_the_module_needs(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    for part in ("collide_utils", "data"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
            "-w",
            tmp_path,
            source,
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    code = """if True:
        import collide_utils
        from collide_utils import __main__, claims, counting, images, models
        print(collide_utils.__file__)
        print(models.load("patchnet").conv1.weight.shape[0], len(models.training_record("patchnet")) > 0,
              len(counting.published()), len(images.names()) > 0 and len(claims.ledger()) > 0)
        try:
            claims.section(next(iter(claims.ledger())))
        except FileNotFoundError as error:
            print(error)
        """
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, found, error = ran.stdout.splitlines()
    assert where.startswith(str(site)) and found == "64 True 10 True" and error.endswith("run from one")


def test_rooms_import_only_from_their_own_row_and_those_above():
    lines = re.findall(r"^  \| (?!row)[a-z ]+ \| (`.*`) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    row = {room: place for place, line in enumerate(lines) for room in re.findall(r"`(\w+)`", line)}
    assert len(lines) == 7 and set(row.values()) == set(range(7))
    row["images"] = 0  # it imports none of the others, and all rows check images with it
    seen = set()
    for path in (ROOT / "collide_utils").rglob("*.py"):
        room = path.relative_to(ROOT / "collide_utils").parts[0].removesuffix(".py")
        if room.startswith("_"):
            continue  # private files belong to no row; __main__ is the command line, above all
        seen.add(room)
        for module in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(module, ast.ImportFrom) and (module.module or "").split(".")[0] == "collide_utils":
                inside = module.module.split(".")[1:]
                for other in inside[:1] or [name.name for name in module.names]:
                    assert other.startswith("_") or row[other] <= row[room], f"{room} imports {other}"
    assert seen == set(row)


def test_importing_the_module_is_light():
    heavy = "torchvision|captum|skimage|sklearn|matplotlib|IPython"
    code = (
        "import sys, pkgutil, importlib, collide_utils as c\n"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(c.__path__, 'collide_utils.')]\n"
        f"print([m for m in sys.modules if m in {heavy.split('|')!r}])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
