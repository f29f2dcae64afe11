"""The training script of the classifiers, on a handful of tiny pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_models
import training
from PIL import Image
from safetensors.torch import load_file

from collide_utils import _data, models

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
NAME = "patchnet-l2"  # the one with an attack in its recipe; here with all that the others have, too


@pytest.fixture
def script(monkeypatch):
    """The script with a short recipe and small batches."""
    for name, value in dict(VIEWS=2, BANKS={48: 50, 64: 66}, BATCH=32, LABELLED=24, TEST_STEPS=1).items():
        monkeypatch.setattr(train_models, name, value)
    short = dict(epochs=(1, 1, 1), mixed=0.5, averaged=(0.9, 0.8))
    monkeypatch.setitem(train_models.RECIPES, NAME, train_models.RECIPES[NAME] | short)
    threads = torch.get_num_threads()
    yield train_models
    torch.set_num_threads(threads)


def picture(seed, size=(50, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folders(tmp_path, script):
    """Five pictures in each folder of Caltech-101 that has a class, four in one other; ten cats; four photographs."""
    caltech, cats, photos = (tmp_path / name for name in ("caltech", "cats", "photos"))
    counts = {caltech / folder: 5 for folders, _ in script.CLASSES.values() for folder in folders}
    for place, (folder, count) in enumerate({**counts, caltech / "ant": 4, cats: 10, photos: 4}.items()):
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            picture([place, number]).save(folder / f"image_{number:04d}.jpg")
    return dict(caltech=caltech, cats=cats, photos=photos)


def run(script, folders, work, out, monkeypatch):
    """Run the script as a person would; the teacher's answers are those of a fixed random map."""

    def teach(bank, path):
        weight = torch.randn(3, 1000, generator=torch.Generator().manual_seed(5))
        return (bank.float().mean((1, 2)) / 64 @ weight).softmax(1).half()

    monkeypatch.setattr(script, "teach", teach)
    monkeypatch.setattr(script, "OUT", out)
    out.mkdir(exist_ok=True)
    arguments = [f"--{key}={folder}" for key, folder in folders.items()]
    monkeypatch.setattr(sys, "argv", ["train_models.py", *arguments, f"--work={work}", NAME])
    script.main()


def test_an_interrupted_training_ends_with_the_same_bits(script, folders, tmp_path, monkeypatch):
    class Interruption(Exception):
        pass

    original, calls, stop = script.forward, [], None

    def forward(model, x):
        calls.extend([None] * model.training)
        if len(calls) == stop:
            raise Interruption
        return original(model, x)

    monkeypatch.setattr(script, "forward", forward)
    run(script, folders, tmp_path / "work", tmp_path / "whole", monkeypatch)
    an_epoch = len(calls) // 3
    (tmp_path / "work" / f"{NAME}.pt").unlink()  # the views stay
    for stop in (an_epoch + 2, an_epoch + an_epoch // 2, an_epoch // 2):  # in the second epoch, the third, the third
        calls.clear()
        torch.manual_seed(stop)  # whatever random state it starts from
        with pytest.raises(Interruption):
            run(script, folders, tmp_path / "work", tmp_path / "resumed", monkeypatch)
    stop = None
    run(script, folders, tmp_path / "work", tmp_path / "resumed", monkeypatch)
    whole, resumed = (load_file(tmp_path / out / f"{NAME}.safetensors") for out in ("whole", "resumed"))
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    for file in ("training.csv", "accuracy.csv"):
        assert (tmp_path / "resumed" / file).read_text() == (tmp_path / "whole" / file).read_text()
    assert [row["epoch"] for row in _data.table(str(tmp_path / "whole" / "training.csv"))] == [1, 2, 3]


def parts(script, folders, path):
    script.make_split(folders["caltech"], folders["cats"], path)
    return {row["source"]: row["part"] for row in _data.table(str(path))}


def test_photographs_near_each_other_are_on_one_side(script, folders, tmp_path):
    before = parts(script, folders, tmp_path / "before.csv")
    held_out = next(source for source, part in before.items() if part == "held-out" and source.startswith("cat="))
    other = next(source for source, part in before.items() if part == "train" and source.startswith("cat="))
    twin = Image.open(folders["cats"] / held_out[4:]).resize((75, 60))
    twin.save(folders["cats"] / other[4:], quality=60)
    after = parts(script, folders, tmp_path / "after.csv")
    assert after == before | {held_out: "train"}


def test_a_photograph_near_a_held_out_one_teaches_nothing(script, folders, tmp_path):
    script.make_split(folders["caltech"], folders["cats"], tmp_path / "split.csv")
    files, _ = script.read_split(tmp_path / "split.csv", "held-out", folders["caltech"], folders["cats"])
    found = script.find_others(folders["caltech"], folders["photos"], files)
    assert len(found) == 8
    Image.open(files[0]).resize((60, 60)).save(folders["photos"] / "image_0001.jpg")
    assert set(found) - set(script.find_others(folders["caltech"], folders["photos"], files)) == {
        folders["photos"] / "image_0001.jpg"
    }


def test_a_class_without_photographs_is_named(script, folders, tmp_path):
    for file in (folders["caltech"] / "bonsai").iterdir():
        file.unlink()
    with pytest.raises(SystemExit, match="'bonsai'"):
        script.make_split(folders["caltech"], folders["cats"], tmp_path / "split.csv")
    assert not (tmp_path / "split.csv").exists()


@pytest.mark.skipif(not (SHARED / "caltech101").is_dir(), reason="needs the training photographs")
def test_the_split_comes_out_of_the_photographs_again(script, tmp_path):
    script.make_split(SHARED / "caltech101" / "101_ObjectCategories", SHARED / "cats", tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text() == (_data.FOLDER / "models" / "split.csv").read_text()


def test_an_attack_stays_in_its_ball_and_raises_the_loss(script):
    model = models.load("patchnet")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 3, 224, 224, generator=generator), torch.tensor([0, 5, 9])
    attacked = script.attack(model, x, y, 2.0, 5, generator)
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert (attacked - x).flatten(1).norm(dim=1).max() <= 2 * (1 + 1e-5)
    with torch.no_grad():
        loss = [torch.nn.functional.cross_entropy(model(z), y, reduction="none") for z in (x, attacked)]
    assert (loss[1] > loss[0]).all()


def test_mixing_keeps_pixels_and_targets_in_step(script):
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(6, 3)
    for _ in range(20):  # one colour an image: the mean colour of a mixture is the same mixture of the colours
        mixed, (y,) = script.mix(colours.view(6, 3, 1, 1).expand(6, 3, 32, 32), [torch.eye(6)], generator)
        torch.testing.assert_close(mixed.mean((2, 3)), y @ colours)
        torch.testing.assert_close(y.sum(1), torch.ones(6))


def test_photographs_without_a_label_count_by_the_teachers_share(script):
    answers = torch.zeros(4, 1000)
    answers[:2, 3] = 1  # of the labelled photograph: not looked at
    names = script._IMAGENET_CATEGORIES
    answers[2, names.index("tabby")], answers[2, names.index("Persian cat")] = 0.5, 0.25
    answers[3, names.index("tench")] = 1
    classes = list(script.CLASSES)
    expected = torch.zeros(4, len(classes))
    expected[:2, 7] = 1
    expected[2, classes.index("cat")] = 0.75
    assert torch.equal(script.targets(torch.tensor([7]), answers), expected)


def test_the_heads_of_both_tasks_share_a_layer_that_rounds_to_float32(script):
    head = script.Head(4, 3)
    x = torch.rand(2, 4)
    plain = torch.nn.functional.linear(x.bfloat16().float(), head.weight, head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x.bfloat16()), plain)


@pytest.mark.parametrize("name", ["patchnet", "stridenet", "patchnet-l2"])  # patchnet-b is older than the script
def test_weight_decay_alone_moves_the_sum_of_the_class_rows(name):
    """The record of the shipped networks, against SGD with momentum in a direction without a gradient."""
    epochs = train_models.RECIPES[name]["epochs"]
    start = train_models.untrained(name, 1000).fc.weight.detach()[: len(train_models.CLASSES)].double()
    ones = start.sum(0) / len(start) ** 0.5
    velocity = torch.zeros_like(ones)
    record = models.training_record(name)
    assert len(record) == sum(epochs)
    for row in record:
        for step in range(row["steps"]):
            velocity = row["momentum"] * velocity + row["weight_decay"] * ones
            ones = ones - train_models.learning_rate(row["epoch"] - 1 + step / row["steps"], epochs) * velocity
        assert row["head_ones"] == pytest.approx(float(ones.norm()), rel=2e-5)


def test_a_network_that_is_trained_again_replaces_its_own_rows(tmp_path):
    path = tmp_path / "record.csv"
    for name, numbers in (("b", (1, 2)), ("a", (3,)), ("b", (0.25,))):
        training.replace_rows(path, name, [dict(network=name, x=x) for x in numbers], ["a", "b"])
    assert path.read_text() == "network,x\na,3\nb,0.25\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--caltech=nowhere", "--cats=."], "'nowhere' is not a folder"),
        (["--caltech=.", "--cats=.", "patchnot"], "no network called patchnot; there are patchnet, "),
    ],
)
def test_a_wrong_start_is_named_and_makes_no_folder(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_models.py", *arguments, f"--work={tmp_path / 'work'}"])
    with pytest.raises(SystemExit):
        train_models.main()
    assert text in capsys.readouterr().err and not (tmp_path / "work").exists()
