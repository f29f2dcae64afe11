"""One call measures a network: its numbers, the page, the file, what it does with bad input, and the command line."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.linalg import null_space
from state import network, snapshot
from torch import nn

from collide_utils import __main__ as command
from collide_utils import _data, claims, counting, models, report
from collide_utils.report import sections
from collide_utils.search import NullSpaceSearch

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"steps": 20}


class Patch(nn.Module):
    """Windows side by side, a null space, class scores."""

    input_size, categories = 16, ["a", "b", "c"]

    def __init__(self, window=4, stride=4, filters=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, filters, window, stride)
        self.relu, self.conv2 = nn.ReLU(), nn.Conv2d(filters, 6, 2)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.flatten(self.pool(self.conv2(self.relu(self.conv1(x))))))


class Dense(Patch):
    """A label for each window."""

    def forward(self, x):
        return self.conv2(self.relu(self.conv1(x)))


class Boxes(Patch):
    """A list of dicts, as detectors return it."""

    def forward(self, x):
        corners = self.conv1(x).flatten(1)[:, :8].view(-1, 2, 4)
        return [{"boxes": one, "labels": torch.tensor([1, 2]), "scores": one[:, 0]} for one in corners]


class Failing(Patch):
    """Fails on an even grey."""

    def forward(self, x):
        if bool((x == 0.5).flatten(1).all(1).any()):
            raise RuntimeError("too grey")
        return super().forward(x)


def pictures(count=3, shape=(3, 16, 16)):
    return [torch.rand(shape, generator=torch.Generator().manual_seed(k)) for k in range(count)]


@pytest.fixture(scope="module")
def patch():
    torch.manual_seed(0)
    model = Patch()
    return model, report.check(model, pictures(), **QUICK)


@pytest.fixture
def folder(tmp_path):
    for k in range(19):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / f"{k:02}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    return tmp_path


def test_every_section_is_measured_and_every_claim_has_an_answer_or_a_reason(patch):
    _, found = patch
    assert found.done and not found.interrupted and list(found.data["sections"]) == list(sections.SECTIONS)
    assert set(found.data["claims"]) == set(claims.ledger())
    for claim in found.data["claims"].values():
        assert (claim["here"] == "not measured") == (not claim["numbers"]) == bool(claim["why"])
    here = {name: claim["here"] for name, claim in found.data["claims"].items()}
    assert here["mosaic-collides"] == here["resnets-collide"] == here["gradient-maps-equal-after"] == "holds here"
    assert here["gradient-maps-differ-before"] == here["grad-cam-differs-at-conv1"] == "fails here"
    assert here["lemma-square"] == "not measured"


def test_the_count_is_that_of_counting(patch):
    model, found = patch
    section = found.data["sections"]["count"]
    for row, rtol in zip(section["sweep"], (None, 1e-6, 1e-4, 1e-2), strict=True):
        expected = counting.count(model, rtol)
        assert (row["nu"], row["nu_layers"], row["total_nullity"], row["first_nullity"]) == (
            *(expected.nu, expected.nu_layers, expected.total_nullity, expected.first_nullity),
        )
    stem = null_space(model.conv1.weight.detach().flatten(1).double().numpy()).shape[1]
    assert found.data["sections"]["stem"]["nullity"] == section["sweep"][0]["first_nullity"] == stem == 40


def test_the_curves_are_those_of_running_the_network_image_by_image(patch):
    model, found = patch
    section, exact = found.data["sections"]["curves"], Patch().double()
    exact.load_state_dict(model.state_dict())
    x = pictures()[1].double()
    generator = torch.Generator().manual_seed(1)
    mosaic = NullSpaceSearch(model).random(generator)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    noise *= mosaic.norm() / noise.norm()
    with torch.no_grad():
        for place, beta in enumerate(sections.BETAS):
            y = x + beta / 255 * noise
            a, b = exact.conv1(x[None]), exact.conv1(y[None])
            change, kept = float((a - b).norm() / a.norm()), float(exact(x[None]).argmax() == exact(y[None]).argmax())
            curve = section["photographs"]["image 2"]["noise"]
            assert curve["change"][place] == pytest.approx(change, rel=1e-9) and curve["kept"][place] == kept
    assert (
        section["betas"] == [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
        and max(section["mosaic"]["most"]) < 1e-10
    )
    assert section["mosaic"]["kept"] == [1.0] * 11
    singles = [one["noise"]["change"] for one in section["photographs"].values()]
    assert section["noise"]["most"] == [max(values) for values in zip(*singles, strict=True)]
    assert section["noise"]["least"] == [min(values) for values in zip(*singles, strict=True)]


def test_the_quietest_image_of_an_overlapping_stem_is_the_smallest_singular_value_of_its_matrix():
    from reference import layer_matrix

    torch.manual_seed(0)
    model = Patch(window=4, stride=2, filters=32)
    found = report.check(model, pictures(), **QUICK).data
    matrix = layer_matrix(model.conv1, (3, 16, 16))
    gain = float(torch.linalg.svdvals(matrix.T @ matrix)[-1]) ** 0.5 / (float(matrix.norm()) / 768**0.5)
    stem = found["sections"]["stem"]
    assert stem["overlapping"] and stem["quietest"] == pytest.approx(gain, rel=0.15)  # noise is one draw
    assert "overlap" in " ".join(found["sections"]["curves"]["words"])
    assert found["claims"]["mosaic-collides"]["here"] == "fails here"
    assert found["claims"]["null-space-of-weight-is-of-layer"]["here"] == "fails here"


def test_the_level_set_pair_collides_when_it_is_run(patch):
    model, found = patch
    section = found.data["sections"]["level_set"]
    (_, x), _, (_, y) = found.pictures["level_set"]
    exact = Patch().double()
    exact.load_state_dict(model.state_dict())
    a, b = (exact(image.double()[None]).detach() for image in (x, y))
    assert float((a - b).norm() / a.norm()) < 1e-12 and y.min() >= 0 and y.max() <= 1
    assert section["apart"] == pytest.approx(float((x - y).square().mean().sqrt())) and section["apart"] > 0.05


def test_the_file_of_numbers_is_read_back_equal_and_the_page_stands_alone(patch, tmp_path):
    _, found = patch
    for name in ("a.toml", "a.html"):
        found.save(tmp_path / name)
    assert tomllib.loads((tmp_path / "a.toml").read_text(encoding="utf-8")) == found.data
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|http|url\(|src=\"(?!data:)", page)
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(pictures) == 8 and all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)
    assert found._repr_html_() in page and found.headline in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.toml"]
    assert all(section["title"] in repr(found) for section in found.data["sections"].values())


def test_names_from_files_cannot_write_into_the_page(tmp_path):
    model = Patch()
    model.categories = ["<b>a</b>", "<script>b</script>", "c&"]
    Image.new("RGB", (16, 16)).save(tmp_path / "<img src=x>.png")
    page = report.check(model, tmp_path, **QUICK)._repr_html_()
    assert "<script" not in page and "<b>" not in page and "<img src=x>" not in page


@pytest.mark.parametrize("model", [Dense, Boxes])
def test_networks_of_other_tasks_have_a_report(model):
    found = report.check(model(), pictures(), **QUICK)
    section = found.data["sections"]["curves"]
    assert section["done"] and section["mosaic"]["kept"] == [1.0] * 11 and min(section["noise"]["kept"]) < 1
    assert found.data["claims"]["any-task"]["here"] == "holds here"
    assert found.data["claims"]["prediction-kept"]["here"] == "not measured"


def test_without_a_null_space_a_section_says_so_and_the_others_go_on():
    found = report.check(Patch(filters=48), pictures(), **QUICK)
    assert "has no null space" in found.data["sections"]["curves"]["error"] and not found.done
    assert "has no null space" in repr(found) and "has no null space" in found._repr_html_()
    for name in ("count", "stem", "guaranteed", "level_set"):
        assert found.data["sections"][name]["done"]


def test_a_level_set_that_takes_too_much_work_says_so_and_how_to_ask_for_it(monkeypatch, patch):
    model, whole = patch
    monkeypatch.setattr(sections, "_WORK", 1)
    found = report.check(model, pictures(), **QUICK).data["sections"]
    assert "within 1 products with the Jacobian; collide_at='logits' sets no bound" in found["level_set"]["error"]
    assert found["maps"]["done"]
    asked = report.check(model, pictures(), collide_at="logits", **QUICK)
    assert torch.equal(asked.pictures["level_set"][2][1], whole.pictures["level_set"][2][1])


def test_ablation_is_left_out_where_it_takes_too_many_runs(monkeypatch, patch):
    """At conv1 of two images: 4×4 blocks of the image of 16×16 and one of its output of 4×4, 34 runs; at conv2 4."""
    model, whole = patch
    assert {row["layer"] for row in whole.data["sections"]["maps"]["maps"] if row["method"] == "ablation"} == {
        *("conv1", "conv2")
    }
    once = 2 * (8 * 16 * 48 + 6 * 9 * 32 + 3 * 6)  # a multiplication and an addition for each weight and place
    monkeypatch.setattr(sections, "_ABLATION", 33 * once)
    section = report.check(model, pictures(), **QUICK).data["sections"]["maps"]
    assert section["done"] and "Ablation at conv1 is left out: it would run the network 34 times." in section["words"]
    assert {row["layer"] for row in section["maps"] if row["method"] == "ablation"} == {"conv2"}
    monkeypatch.setattr(sections, "_ABLATION", 34 * once)
    again = report.check(model, pictures(), **QUICK).data["sections"]["maps"]
    assert again == whole.data["sections"]["maps"]


def test_a_broken_file_is_named_skipped_and_counted(folder):
    found = report.check(Patch(), folder, **QUICK)
    assert len(found.data["photographs"]["used"]) == 19 and list(found.data["photographs"]["skipped"]) == ["broken.jpg"]
    assert "1 of 20 files were skipped" in repr(found) and "broken.jpg" in found._repr_html_()


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("empty", FileNotFoundError, "no file that ends in .jpg"),
        ("not there", NotADirectoryError, "not there: not a folder"),
        (["gone.png"], ValueError, r"no image can be read \(the first of 1: .*gone.png"),
        ([], ValueError, "there is none"),
        ([torch.rand(3, 8, 8)], ValueError, r"image 1 must have shape \(3, 16, 16\)"),
        ([torch.rand(3, 16, 16) + 1], ValueError, r"image 1 must lie in \[0, 1\]"),
        ([torch.full((3, 16, 16), torch.nan)], ValueError, "NaN"),
    ],
)
def test_bad_photographs_are_refused_before_anything_is_measured(tmp_path, monkeypatch, source, error, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=text):
        report.check(Patch(), source)


def test_bad_networks_and_shapes_are_refused():
    with pytest.raises(TypeError, match="must be a torch.nn.Module"):
        report.check(3)
    with pytest.raises(ValueError, match="no network called 'resnet19'; near matches: resnet1"):
        report.check("resnet19")
    with pytest.raises(ValueError, match="no input_size; give input_shape"):
        report.check(nn.Sequential(nn.Conv2d(3, 2, 4, 4)))
    with pytest.raises(ValueError, match=r"three positive whole numbers, .* not \(3, 16\)"):
        report.check(Patch(), input_shape=(3, 16))


def test_an_image_smaller_than_the_window_is_said():
    found = report.check(Patch(), pictures(shape=(3, 3, 16)), input_shape=(3, 3, 16)).data["sections"]
    assert "3" in found["stem"]["error"] and found["count"]["done"]


def test_what_was_done_before_the_network_failed_on_an_image_is_kept():
    first, third = pictures(2)
    found = report.check(Failing(), [first, torch.full((3, 16, 16), 0.5), third], **QUICK)
    section = found.data["sections"]["curves"]
    assert list(section["photographs"]) == ["image 1", "image 3"] and section["skipped"] == {"image 2": "too grey"}
    assert "failed on image 2" in " ".join(section["words"])


def test_after_an_interrupt_the_report_goes_on_where_it_was(monkeypatch, tmp_path):
    calls, original = [], sections._curve

    def curve(found, photograph, number):
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(found, photograph, number)

    monkeypatch.setattr(sections, "_curve", curve)
    found = report.check(Patch(), pictures(), **QUICK)
    assert found.interrupted and not found.done and list(found.data["sections"]["curves"]["photographs"]) == ["image 1"]
    found.save(tmp_path / "part.toml")
    assert tomllib.loads((tmp_path / "part.toml").read_text()) == found.data
    assert "interrupted" in found._repr_html_()
    assert found.resume() is found and found.done and not found.interrupted
    assert calls == [0, 1, 1, 2] and "error" not in found.data["sections"]["curves"]


def test_nothing_half_written_is_left(patch, tmp_path, monkeypatch):
    _, found = patch
    path = tmp_path / "a.toml"
    path.write_text("before")

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_data.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        found.save(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"saved as \.html or \.toml, not as 'x\.pdf'"):
        found.save("x.pdf")


def test_it_leaves_everything_as_it_was():
    model, images = network(), pictures()
    before = snapshot(model, *images)
    assert report.check(model, images, **QUICK).done
    assert snapshot(model, *images) == before


@pytest.fixture
def shell(monkeypatch, folder, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    monkeypatch.setattr(models, "load", lambda name, weights="DEFAULT": Patch().eval())

    def run(*arguments):
        code = command.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_writes_a_report(shell, tmp_path):
    code, said, _ = shell("report", "patch", "--images", tmp_path, "--out", "a.html", "--out", "a.toml")
    assert code == 0 and "19 photographs" in said and "broken.jpg" in said
    assert tomllib.loads((tmp_path / "a.toml").read_text())["network"]["name"] == "patch"
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_the_command_makes_a_collision_and_a_picture_of_it(shell, tmp_path, suffix):
    code, said, _ = shell("collide", "patch", "00.png", "--toward", "01.png", "--out", f"y{suffix}")
    path = tmp_path / f"y{suffix}"
    exact = torch.from_numpy(np.load(path)) if suffix == ".npy" else load_file(path)["image"]
    assert code == 0 and "collide from conv1 on" in said and "8 bits, which is not exact" in said
    shown = np.asarray(Image.open(tmp_path / "y.png")) / 255
    assert np.abs(shown - exact.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-9 and exact.dtype == torch.float64


def test_the_command_counts(shell, tmp_path):
    code, said, _ = shell("count", "resnet18")
    assert code == 0 and re.search(r"resnet18 +21 +17 +\d+ +17 +26,771 +83", said)
    code, said, _ = shell("count", ROOT / "data" / "models" / "patchnet.safetensors")
    assert code == 0 and len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("report", "patch", "--images", "gone", "--out", "a.html"), "gone: not a folder"),
        (("report", "patch", "--out", "a.pdf"), "a.pdf must end in .html or .toml"),
        (("report", "patch", "--out", "gone/a.html"), "gone: not a folder"),
        (("collide", "patch", "gone.png", "--toward", "00.png", "--out", "a.npy"), "gone.png"),
        (
            ("collide", "patch", "broken.jpg", "--toward", "00.png", "--out", "a.npy"),
            "broken.jpg: not a readable image",
        ),
        (("count", "resnet19"), "no network called 'resnet19'"),
    ],
)
def test_errors_are_one_line_and_code_2(shell, tmp_path, arguments, text):
    code, said, error = shell(*arguments)
    assert code == 2 and said == "" and text in error and len(error.splitlines()) == 1


def test_an_interrupt_is_one_line(shell, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "check", interrupted)
    assert shell("report", "patch", "--out", "a.html") == (130, "", "interrupted\n")


def test_the_module_runs_from_a_shell_without_a_traceback(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "collide_utils", "count", "resnet19"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2 and ran.stderr.startswith("collide_utils: no network called") and not ran.stdout
    assert "Traceback" not in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_a_network_that_says_one_thing_of_everything_proves_nothing():
    model = Patch().double()
    nn.init.zeros_(model.fc.weight)
    data = report.check(model, pictures(), **QUICK).data
    words = " ".join(data["sections"]["curves"]["words"] + data["sections"]["maps"]["words"])
    assert "under white noise, too" in words and "two different images alike" in words
    assert all("why" in data["claims"][claim] for claim in ("prediction-kept", "gradient-maps-differ-before"))
