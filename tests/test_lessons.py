"""What the lessons promise: their length, their exercises, and the numbers in their words that no cell prints."""

import contextlib
import io
import re
from pathlib import Path

import jupytext
import lesson_runs
import numpy as np
import pytest
import torch

from collide_utils import counting, models, randmat, weights
from collide_utils.show import exercises

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LESSONS = [script for script in sorted(NOTEBOOKS.glob("[0-9]*.py")) if script.name[:2] != "00"]
# The right answer and two wrong ones to each exercise of a lesson, in order.
ANSWERS = {
    "01": [(6.4, 0.064, 93.6), (961, 960, 900), (0.5, 0.25, 0)],
    "02": [(84_992, 83, 83 * 224 * 224), (False, True)],
    "03": [(147, 64, 146), (12, 4, 147), ((0, 1), (1, 1), 1)],
    "04": [(0.41, 0.9, -1), (1049, 1048, 1050), (0, 1, 147)],
    "05": [((3, 4), (4, 3), 74), (3, 80, 0)],
    "06": [([0.114, 0, -0.299], [0, 0, 0], [1, -1, 0]), (64 / 147, 83 / 147, 44)],
    "07": [(121.24, 10, 1470), (0, 1, -1), (257, 256 * 256, 2)],
    "08": [(7, 1, 28), ("pixels", "gradient", 2)],
    "09": [(5, 4, 6), (9, 0, 12), (7, 3, 14)],
    "10": [(18, 17, 19), (False, True)],
    "11": [(36, 37, 35), (19, 0, 83), (2, 1, 3)],
    "12": [(360 * 480 - 357 * 476, 0, 172_800), (83 * 36 * 48, 83, 3 * 252 * 336), (19, 0, 83)],
}


def cells(script):
    """Return the sources of its markdown cells, and of its code cells with whether they are folded solutions."""
    found = jupytext.read(script).cells
    code = [
        (cell.source, cell.metadata.get("jupyter", {}).get("source_hidden", False))
        for cell in found
        if cell.cell_type == "code"
    ]
    return [cell.source for cell in found if cell.cell_type == "markdown"], code


@pytest.mark.parametrize("script", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_read_in_fifteen_minutes(script):
    words, code = cells(script)
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source, _ in code]
    assert sum(len(text.split()) for text in words) <= 1200
    assert sum(lines) <= 110 and max(lines) <= 15


@pytest.mark.parametrize("script", LESSONS, ids=lambda path: path.stem)
def test_exercises_check_the_readers_answer_and_their_solutions_pass(script):
    """An exercise needs nothing but the first cell of its lesson: whoever jumps to it can run it."""
    _, code = cells(script)
    places = [place for place, (source, _) in enumerate(code) if re.search(r"(?m)^answer = \.\.\.", source)]
    expected = ANSWERS[script.name[:2]]
    assert 2 <= len(places) == len(expected)
    names = {}
    exec(code[0][0], names)
    for place, answers in zip(places, expected, strict=True):
        exercise, (solution, folded) = code[place][0], code[place + 1]
        assert folded and said(exercise, names).startswith("No answer yet")
        verdicts = [said(exercise.replace("answer = ...", f"answer = {answer!r}"), names) for answer in answers]
        assert verdicts[0] == "Right.\n" and not any(verdict == "Right.\n" for verdict in verdicts[1:]), verdicts
        said(exercise, names)
        assert said(solution, names).endswith("Right.\n")
        assert re.search(r"(?m)^# .+\.$", solution)  # the sentence


def said(source, names):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(source, names)
    return out.getvalue()


def test_an_answer_of_a_wrong_kind_is_no_crash(capsys):
    exercises.checker(lambda answer: answer + 1 == 2)("one")
    assert capsys.readouterr().out.startswith("'one' cannot be checked: ")


@pytest.mark.parametrize("seed", range(3))
def test_the_watershed_is_at_root_n(seed):
    rng = np.random.default_rng(seed)
    below, on = (np.median(randmat.sample_smallest_eigenvalues(10_000, 10_000 + more, 12, rng)) for more in (10, 100))
    assert below < 0.01 and 0.2 < on < 0.35


def test_of_torchvisions_networks_without_overlap_only_two_have_a_first_null_space(shapes):
    separate, blind = [], []
    for name, network in shapes.items():
        first = weights.first_weight(network)
        layer = network.get_submodule(first.name)
        if all(step >= size for step, size in zip(layer.stride, layer.kernel_size, strict=True)):
            separate.append(name)
            blind += [name] * (first.matrix.shape[1] < first.matrix.shape[2])
    assert len(separate) == 18 and blind == ["vit_b_32", "vit_l_32"]


def test_a_square_weight_of_64_is_hardly_ever_born_singular_and_one_of_4096_is():
    few, many = (float(randmat.limit_cdf((2 * n**2 * np.finfo(np.float32).eps) ** 2)) for n in (64, 4096))
    assert 0.0005 < few < 0.0015 and many > 0.999


def test_layers_with_a_null_space_are_a_minority_where_weights_are_a_majority():
    found = {name: counting.count(name) for name in ("resnet18", "resnet50", "vgg16_bn")}
    assert [(row.mu, row.nu_layers, row.n) for row in found.values()] == [(17, 6, 21), (33, 22, 54), (14, 2, 16)]


# For each lesson with a network at its top, another that it lists; and some that it cannot use.
OTHERS = {
    "01": "vgg16",
    "02": "patchnet-b",
    "03": "resnet50",
    "04": "stridenet",
    "05": "stridenet",
    "06": "patchnet-b",
    "07": "patchnet-l2",
    "08": "patchnet-l2",
    "09": "resnet18",
    "10": "patchnet",
}
REFUSED = [("02", "stridenet"), ("06", "stridenet"), ("07", "stridenet"), ("08", "stridenet"), ("09", "patchnet")]


@pytest.mark.parametrize("lesson", OTHERS)
def test_a_lesson_runs_with_another_name_at_its_top(lesson, tmp_path, monkeypatch):
    """Nothing below the name may be of one network only, and the ledger's bounds hold for the other, too."""
    if lesson == "09":  # random weights stand in for the pretrained ones, where torch would keep them
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        (tmp_path / "checkpoints").mkdir()
        torch.manual_seed(0)
        torch.save(models.load("resnet18", weights=None).network.state_dict(), models._cached("resnet18"))
    lesson_runs.run(lesson, network=OTHERS[lesson])


@pytest.mark.filterwarnings("ignore::collide_utils.search.OverlapWarning")
@pytest.mark.parametrize(("lesson", "network"), REFUSED)
def test_a_lesson_refuses_a_network_on_which_it_makes_no_sense(lesson, network):
    with pytest.raises(AssertionError, match=f"windows of {network}"):
        lesson_runs.run(lesson, network=network)
