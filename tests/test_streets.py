"""The two street networks, and the script that trains and measures them."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_streets as script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from collide_utils import NullSpaceSearch, _data, checkpoints, compare, images, models, streets

NAMES = ["streetnet", "streetboxes"]
CAMVID = Path(__file__).resolve().parent.parent.parent / "shared" / "camvid"
SHOWN = [(frame, frame.with_suffix(".png")) for frame in sorted((_data.FOLDER / "street").glob("*.jpg"))]


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    return models.load(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def street():
    return list(images.streets(streets.INPUT_SIZE).values())[-1]


# The networks ---------------------------------------------------------------------------------------------------------


def test_files_are_small_and_both_have_one_stem():
    stems = [models.load(name).backbone.conv1.weight for name in NAMES]
    assert torch.equal(*stems) and stems[0].shape == (64, 3, 7, 7)
    for name in NAMES:
        assert (_data.FOLDER / "models" / f"{name}.safetensors").stat().st_size <= 4e6


@pytest.mark.parametrize("shape", [(252, 336), (37, 60), (7, 7)])
def test_every_pixel_gets_logits(shape):
    model = models.load("streetnet")
    with torch.no_grad():
        logits = model(torch.rand(2, 3, *shape))
    assert logits.shape == (2, len(streets.LABELS), *shape)
    rows, columns = (7 * (n // 7) for n in shape)
    for row in range(rows, shape[0]):  # no window sees them
        assert torch.equal(logits[:, :, row], logits[:, :, rows - 1])
    for column in range(columns, shape[1]):
        assert torch.equal(logits[:, :, :, column], logits[:, :, :, columns - 1])


def test_the_detector_takes_lists_and_batches_and_sees_images_as_they_are(street):
    model = models.load("streetboxes")
    with torch.no_grad():
        one, other = model([street]), model(street[None])
        assert one[0].keys() == {"boxes", "labels", "scores"} and len(one[0]["boxes"])
        for key, value in one[0].items():
            assert torch.equal(value, other[0][key])
    seen = []
    model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model([torch.rand(3, 61, 83)])
    assert seen[0].shape == (1, 3, 61, 83)


@pytest.mark.parametrize("seed", range(2))
def test_features_collide_from_the_stem_on(network, street, seed):
    search = NullSpaceSearch(network)
    assert search.basis.shape == (147, 83) and search.geometry.grid == (36, 48)
    mosaic = search.random(torch.Generator().manual_seed(seed))
    for beta in (8, 256, 8192):
        pair = compare(network, street, search.collide(street, mosaic, beta))
        names = list(pair.changes)
        start = names.index(search.layer.name)
        assert pair.collides_from == search.layer.name
        assert max(pair.changes[name] for name in names[start:]) <= 1e-10
        assert start and pair.changes[names[start - 1]] > 1e-3  # the pixels do differ


@pytest.mark.parametrize("frame", range(3))
def test_label_maps_are_equal_in_float64_and_but_for_ties_in_float32(frame):
    image = list(images.streets(streets.INPUT_SIZE).values())[frame]
    search = NullSpaceSearch(models.load("streetnet"))
    fooled = search.collide(image, search.random(torch.Generator().manual_seed(frame)), 8192)
    for dtype, allowed in ((torch.float64, 0), (torch.float32, 1e-3)):
        model = models.load("streetnet", dtype=dtype)
        with torch.no_grad():
            logits, other = model(image.to(dtype)[None])[0], model(fooled.to(dtype)[None])[0]
        changed = logits.argmax(0) != other.argmax(0)
        assert changed.double().mean() <= allowed
        lead = logits.topk(2, 0).values.diff(dim=0).abs()[0]
        assert (lead[changed] <= 2 * (logits - other).abs().amax(0)[changed]).all()  # ties


@pytest.mark.parametrize("frame", range(3))
def test_boxes_are_equal_in_float64_and_nearly_all_in_float32(frame):
    image = list(images.streets(streets.INPUT_SIZE).values())[frame]
    search = NullSpaceSearch(models.load("streetboxes"))
    fooled = search.collide(image, search.random(torch.Generator().manual_seed(frame)), 8192)
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 0.5)):
        model = models.load("streetboxes", dtype=dtype)
        with torch.no_grad():
            (found,), (other,) = model(image.to(dtype)[None]), model(fooled.to(dtype)[None])
        if dtype == torch.float64:
            assert torch.equal(found["labels"], other["labels"])
            torch.testing.assert_close(found["boxes"], other["boxes"], rtol=0, atol=tolerance)
            torch.testing.assert_close(found["scores"], other["scores"], rtol=0, atol=tolerance)
        else:  # a score near the threshold, or an overlap near that of the suppression, may fall on either side
            near = (found["boxes"][:, None] - other["boxes"]).abs().amax(-1) <= tolerance
            near &= found["labels"][:, None] == other["labels"]
            assert near.any(1).sum() >= len(near) - 2 and near.any(0).sum() >= near.shape[1] - 2


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    whole = (_data.FOLDER / "models" / "streetboxes.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:5000])
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"architecture": "streetcar", "categories": "[]"})
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=f"{name}.safetensors: not a whole"):
            checkpoints.load_checkpoint(tmp_path / f"{name}.safetensors")


# Measures -------------------------------------------------------------------------------------------------------------


def table(name):
    with open(_data.FOLDER / "models" / name, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["shown", "test"])
def test_the_scores_are_those_of_the_weights(name, part):
    pairs = SHOWN if part == "shown" else script.files(CAMVID, "test")
    if not pairs:
        pytest.skip("CamVid is not at hand")
    rows = [row for row in table("street_scores.csv") if row["network"] == name and row["part"] == part]
    found = script.score_rows(name, models.load(name), part, pairs)
    assert [(row["measure"], row["of"]) for row in found] == [(row["measure"], row["of"]) for row in rows] != []
    for measured, row in zip(found, rows, strict=True):
        assert measured["value"] == pytest.approx(float(row["value"]), abs=2e-3, nan_ok=True), row


def test_the_networks_are_as_good_as_the_course_promises_and_the_card_says_so():
    values = {
        (row["network"], row["measure"], row["of"]): float(row["value"])
        for row in table("street_scores.csv")
        if row["part"] == "test"
    }
    assert values["streetnet", "pixels", "all"] >= 0.83 and values["streetnet", "IoU", "mean"] >= 0.45
    assert values["streetboxes", "AP50", "car"] >= 0.35
    card = (_data.FOLDER / "models" / "README.md").read_text(encoding="utf-8")
    for (_, measure, of), value in values.items():
        if measure != "pixels" and of != "mean":
            assert f"| {of} | {100 * value:.1f} % |" in card, of
    assert f"{100 * values['streetnet', 'pixels', 'all']:.1f} % of the labelled pixels" in card
    assert f"{100 * values['streetnet', 'IoU', 'mean']:.1f} % mean" in card


def test_scores_are_what_their_words_say():
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 0]])
    found = torch.tensor([[0, 1, 1, 1], [2, 2, 0, 0]])
    counts = torch.zeros(11, 11, dtype=torch.int64)
    for truth, guess in zip(labels.flatten(), found.flatten(), strict=True):
        counts[truth, guess] += 1
    share, each = script.scores(counts)
    assert share == 6 / 8
    for label in range(3):
        truth, guess = labels == label, found == label
        assert each[label] == pytest.approx(float((truth & guess).sum() / (truth | guess).sum()))


class Oracle(nn.Module):
    """A detector that gives each frame the boxes that it was told, at the input's size."""

    input_size = (180, 240)

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, x):
        boxes, labels, scores = next(self.answers)
        return [dict(boxes=boxes / 2, labels=labels, scores=scores)]


def test_average_precision_of_known_answers():
    truth = [script.boxes(script.read_labels(labels)) for _, labels in SHOWN]
    perfect = [(corners, kinds, torch.linspace(1, 0.5, len(kinds))) for corners, kinds in truth]
    assert script.average_precision(Oracle(perfect), SHOWN) == [1.0, 1.0]
    twice = [
        (corners.repeat(2, 1), kinds.repeat(2), torch.linspace(1, 0.5, 2 * len(kinds))) for corners, kinds in truth
    ]  # a second box of a car is false, but comes later
    assert script.average_precision(Oracle(twice), SHOWN) == [1.0, 1.0]
    shifted = [(corners + 1000, kinds, scores) for corners, kinds, scores in perfect]
    assert script.average_precision(Oracle(shifted), SHOWN) == [0.0, 0.0]
    cars = sum(int((kinds == 0).sum()) for _, kinds in truth)
    first = [(corners[kinds == 0][:1], kinds[kinds == 0][:1], torch.ones(1)) for corners, kinds in truth]
    assert script.average_precision(Oracle(first), SHOWN)[0] == pytest.approx(len(first) / cars)
    # One false box before them all: the precision at the k-th is k/(k + 1), and the best from there on is the last's.
    late = [
        (torch.cat([corners + 1000, corners])[:2], kinds.repeat(2)[:2], torch.tensor([0.9, 0.5]))
        if place == 0
        else (corners, kinds, torch.full((len(kinds),), 0.4))
        for place, (corners, kinds) in enumerate((c[k == 0][:1], k[k == 0][:1]) for c, k in truth)
    ]
    count = len(late)
    assert script.average_precision(Oracle(late), SHOWN)[0] == pytest.approx(count / cars * count / (count + 1))


@given(st.integers(0, 2**32 - 1))
def test_boxes_surround_connected_components(seed):
    """Against a flood fill by hand."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((30, 40)) < 0.5, 8, 3).astype(np.uint8)
    labels[rng.random((30, 40)) < 0.2] = 9
    corners, kinds = script.boxes(torch.from_numpy(labels))
    expected = set()
    for kind, value in enumerate((8, 9)):
        left = {tuple(place) for place in np.argwhere(labels == value)}
        while left:
            todo, part = [left.pop()], []
            while todo:
                row, column = todo.pop()
                part.append((row, column))
                around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
                left -= around
                todo += around
            if len(part) >= script.SMALLEST_BOX:
                rows, columns = zip(*part, strict=True)
                expected.add((min(columns), min(rows), max(columns) + 1, max(rows) + 1, kind))
    assert {(*map(int, box), int(kind)) for box, kind in zip(corners, kinds, strict=True)} == expected


# Training -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_boxes_stay_around_their_cars_when_a_frame_is_cut_scaled_and_mirrored(seed):
    rng = np.random.default_rng(seed)
    labels = torch.full((360, 480), 3, dtype=torch.uint8)
    top, left = int(rng.integers(0, 260)), int(rng.integers(0, 380))
    labels[top : top + 90, left : left + 70] = 8
    frame = labels.expand(3, -1, -1) * 10
    image, cut, (corners, kinds) = script.augment(
        frame, labels, script.boxes(labels), torch.Generator().manual_seed(seed)
    )
    assert image.shape == (3, *script.CROP) and cut.shape == script.CROP and image.min() >= 0 and image.max() <= 1
    rows, columns = (cut == 8).nonzero(as_tuple=True)
    if len(kinds):
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert kinds.tolist() == [0] and (corners[0] - seen).abs().max() <= 1.5
    else:
        assert len(rows) <= 0.35 * 90 * 70  # little of it is left


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    for part in ("train", "val", "test"):
        for place, (frame, labels) in enumerate(SHOWN[:2]):
            for source, folder in ((frame, part), (labels, f"{part}annot")):
                (tmp_path / "camvid" / folder).mkdir(parents=True, exist_ok=True)
                with Image.open(source) as image:
                    image.save(tmp_path / "camvid" / folder / f"{place}{source.suffix}")
    monkeypatch.setattr(script, "BATCH", 2)
    monkeypatch.setattr(script, "CROP", (140, 168))
    monkeypatch.setattr(script.streets, "INPUT_SIZE", (84, 112))
    for recipe in script.RECIPES.values():
        monkeypatch.setitem(recipe, "leave", 0)
        monkeypatch.setitem(recipe, "epochs", 2)
    threads, update = torch.get_num_threads(), script.AveragedModel.update_parameters

    def run(work, stop=None):
        calls = []

        def stopping(self, model):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            update(self, model)

        monkeypatch.setattr(script.AveragedModel, "update_parameters", stopping)
        monkeypatch.setattr(script, "OUT", tmp_path / f"out of {work}")
        script.OUT.mkdir(exist_ok=True)
        monkeypatch.setattr(
            sys, "argv", ["train_streets.py", f"--camvid={tmp_path / 'camvid'}", f"--work={tmp_path / work}"]
        )
        script.main()

    try:
        run("whole")
        for stop in (2, 2, 3, 1):  # an epoch is one step: in the second of `first`, and in the first of the others
            with pytest.raises(KeyboardInterrupt):
                run("parts", stop)
        run("parts")
    finally:
        torch.set_num_threads(threads)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "out of whole/street_training.csv").open())]
    assert len(losses) == 6 and min(losses) > 0.1  # there is something to learn
    for name in ("street_training.csv", "street_scores.csv"):
        first, second = ((tmp_path / f"out of {work}" / name).read_bytes() for work in ("whole", "parts"))
        assert first == second, name
    start = checkpoints.load_checkpoint(tmp_path / "whole" / "first.safetensors").backbone
    for name in NAMES:
        first, second = (
            checkpoints.load_checkpoint(tmp_path / f"out of {work}" / f"{name}.safetensors")
            for work in ("whole", "parts")
        )
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(first.backbone.conv1.weight, start.conv1.weight)
        assert torch.equal(first.backbone.bn1.running_mean, start.bn1.running_mean)
        blocks = [body.layer3[0].conv1.weight for body in (first.backbone, start)]
        assert torch.equal(*blocks) == (name == "streetboxes")
