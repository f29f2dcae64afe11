"""Assemble the pages of the site from executed notebooks and ``docs/``, and let Sphinx write it to ``build/``."""

import copy
import io
import re
import shutil
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

import beta_slider
import nbformat
from PIL import Image
from sphinx.cmd.build import build_main

from collide_utils import claims

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
SLIDER_PAGE = "07_turn_up_beta"  # the page whose panel a reader without a kernel moves too
MINUTES_A_WORD, MINUTES_A_LINE = 1 / 180, 1 / 15  # of prose; of code


def title(notebook):
    """Return the title of a notebook, its first heading."""
    return next(line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))[2:]


def write(notebooks, build):
    """Write the site of executed notebooks, a dict from stems to notebooks, to the folder `build`.

    Pages are built in a folder beside `build` and moved there when they are whole. RuntimeError if Sphinx warns.
    """
    with tempfile.TemporaryDirectory(prefix=".site-", dir=build.parent) as folder:
        source, pages = Path(folder, "source"), Path(folder, "pages")
        _assemble(notebooks, source)
        sys.path.insert(0, str(source))  # for the module that conf.py names
        if build_main(["-q", "-W", "--keep-going", "-b", "html", str(source), str(pages)]):
            raise RuntimeError("Sphinx found faults in the site; they are named above")
        shutil.rmtree(pages / ".doctrees")
        shutil.rmtree(build, ignore_errors=True)
        pages.rename(build)


def _assemble(notebooks, source):
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "thumbnails").mkdir()
    shutil.copy(ROOT / "data" / "collision.png", source)
    shutil.copy(ROOT / "data" / "models" / "README.md", source / "models.md")
    slider = beta_slider.write(source)
    for stem, notebook in notebooks.items():
        _thumbnail(notebook, source / "thumbnails" / f"{stem}.png")
        nbformat.write(_for_reading(notebook, slider if stem == SLIDER_PAGE else None), source / f"{stem}.ipynb")
    contents = "\n".join(f"{stem[:2]} {title(page)} <{stem}>" for stem, page in notebooks.items())
    index = (source / "index.md").read_text(encoding="utf-8")
    for key, text in (("cards", _cards(notebooks)), ("contents", contents), ("summary", claims.summary())):
        index = index.replace(f"{{{{{key}}}}}", text)
    (source / "index.md").write_text(index, encoding="utf-8")


def _for_reading(notebook, panel):
    """A copy with solutions and the code of pictures and tables folded, alternative texts, and `panel` for widgets."""
    page = copy.deepcopy(notebook)
    for cell in (cell for cell in page.cells if cell.cell_type == "code"):
        solution = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        tables = [output for output in cell.outputs if "text/markdown" in output.get("data", {})]
        if solution or pictures or tables:
            cell.metadata.setdefault("tags", []).append("hide-cell" if solution else "hide-input")
            words = "Solution" if solution else f"Code of this {'picture' if pictures else 'table'}"
            cell.metadata["mystnb"] = {"code_prompt_show": words, "code_prompt_hide": words}
        if pictures:
            cell.metadata["mystnb"]["image"] = {"alt": pictures[0].metadata.get("image/png", {}).get("alt", "")}
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                output.data = (
                    {"text/html": panel}
                    if panel
                    else {"text/markdown": "*Run `make lab` and this notebook to move the controls of this panel.*"}
                )
    return page


def _thumbnail(notebook, path):
    pictures = (
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    )
    with Image.open(io.BytesIO(b64decode(next(pictures)))) as picture:
        picture.thumbnail((480, 480))
        picture.convert("RGB").save(path, optimize=True)


def _cards(notebooks):
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| \[(\d\d) .*\) \| (.*) \|$", table, re.MULTILINE))  # what "you will" do in each
    cards = []
    for stem, notebook in notebooks.items():
        prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        code = sum(len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code")
        words = sum(len(text.split()) for text in prose)
        line = lines.get(stem[:2], "learn the words, and see every claim with what was measured")
        cards += [
            f":::{{grid-item-card}} {stem[:2]} {title(notebook)}",
            f":link: {stem}",
            ":link-type: doc",
            f":img-top: thumbnails/{stem}.png",
            f":img-alt: First picture of the notebook {title(notebook)}",
            "",
            f"{line[0].upper()}{line[1:]}.",
            "",
            f"*About {round(words * MINUTES_A_WORD + code * MINUTES_A_LINE)} minutes.*",
            ":::",
            "",
        ]
    return "\n".join(cards)
