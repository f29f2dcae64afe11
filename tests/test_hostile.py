"""What people get wrong, one line each: a clear error that names the value, or the right answer; and no trace of it."""

import functools
import io
import math
import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from state import network, snapshot
from torch import nn

from collide_utils import (
    checkpoints,
    claims,
    counting,
    hooks,
    images,
    maps,
    models,
    nullspace,
    randmat,
    symbol,
    weights,
    windows,
)
from collide_utils.comparison import compare
from collide_utils.levelsets import LevelSet
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, panels, pictures

SHAPE = (3, 16, 16)


def made(kind, *args, **options):
    """A layer, without the draws of its weights from the generator that must be left alone."""
    with torch.random.fork_rng(devices=[]):
        return kind(*args, **options)


conv, linear = functools.partial(made, nn.Conv2d), functools.partial(made, nn.Linear)
CASES = {}


def case(name, call, error, text):
    assert name not in CASES, name
    CASES[name] = call, error, text


def right(name, call, answer):
    assert name not in CASES, name
    CASES[name] = call, None, answer


# Images. The last two have the right kind and number of dimensions, and fail where the model or the search sees them.
IMAGES = {
    "None": (lambda: None, TypeError, "NoneType"),
    "a list": (lambda: [[[0.5]]], TypeError, "list"),
    "a name": (lambda: "chelsea", TypeError, "str"),
    "an array": (lambda: np.zeros(SHAPE, np.float32), TypeError, "ndarray"),
    "bytes": (lambda: torch.zeros(SHAPE, dtype=torch.uint8), TypeError, "uint8"),
    "whole numbers": (lambda: torch.zeros(SHAPE, dtype=torch.int64), TypeError, "int64"),
    "booleans": (lambda: torch.zeros(SHAPE, dtype=torch.bool), TypeError, "bool"),
    "complex": (lambda: torch.zeros(SHAPE, dtype=torch.complex64), TypeError, "complex64"),
    "two dimensions": (lambda: torch.zeros(16, 16), ValueError, r"not \(16, 16\)|\(3, 16, 16\) and \(16, 16\)"),
    "a batch": (lambda: torch.zeros(1, *SHAPE), ValueError, r"\(1, 3, 16, 16\)"),
    "NaN": (lambda: torch.full(SHAPE, math.nan), ValueError, "NaN"),
    "infinite": (lambda: torch.full(SHAPE, -math.inf), ValueError, "infinite"),
    "one NaN": (lambda: torch.zeros(SHAPE).index_fill(0, torch.tensor(1), math.nan), ValueError, "NaN"),
    "grey": (lambda: torch.zeros(1, 16, 16), (ValueError, RuntimeError), "1, 16, 16"),
    "empty": (lambda: torch.zeros(3, 0, 0), (ValueError, RuntimeError), r"0, 0|0 x 0"),
}
TAKES_IMAGE = {
    "compare x": lambda m, s, x, bad: compare(m, bad, bad),
    "compare y": lambda m, s, x, bad: compare(m, x, bad),
    "compute": lambda m, s, x, bad: maps.compute("saliency", m, bad),
    "compare_maps": lambda m, s, x, bad: maps.compare_maps(m, x, bad, methods=["saliency"]),
    "collide image": lambda m, s, x, bad: s.collide(bad, x, 8),
    "collide perturbation": lambda m, s, x, bad: s.collide(x, bad, 8),
    "shrink": lambda m, s, x, bad: s.shrink(bad, x, 8),
    "toward image": lambda m, s, x, bad: s.toward(bad, x),
    "toward target": lambda m, s, x, bad: s.toward(x, bad),
    "level set": lambda m, s, x, bad: LevelSet(m, "fc", bad),
    "level set's change": lambda m, s, x, bad: LevelSet(m, "fc", x).change(bad),
    "level set's target": lambda m, s, x, bad: LevelSet(m, "fc", x).nearest(bad, 1),
    "check": lambda m, s, x, bad: images.check(bad, SHAPE),
}
for what, (make, error, text) in IMAGES.items():
    for where, takes in TAKES_IMAGE.items():
        case(f"{where}: {what}", lambda m, s, x, takes=takes, make=make: takes(m, s, x, make()), error, text)

# Numbers of the search.
for beta in (math.nan, math.inf, -1, -0.5):
    case(f"collide β = {beta}", lambda m, s, x, b=beta: s.collide(x, x, b), ValueError, f"at least 0, not {beta}")
    case(f"shrink β = {beta}", lambda m, s, x, b=beta: s.shrink(x, x, b), ValueError, f"at least 0, not {beta}")
for beta in ("8", None, 1j, [8]):
    case(f"collide β = {beta!r}", lambda m, s, x, b=beta: s.collide(x, x, b), TypeError, "real number|convert")
right("collide β = 0", lambda m, s, x: torch.equal(s.collide(x, s.repeat(0), 0), x.double()), True)
for index, error, text in (
    (-1, IndexError, "no basis vector -1"),
    (40, IndexError, "no basis vector 40"),
    (10**6, IndexError, "no basis vector 1000000"),
    (1.5, (ValueError, TypeError), "float"),
):
    case(f"repeat {index}", lambda m, s, x, i=index: s.repeat(i), error, text)
case("mosaic of floats", lambda m, s, x: s.mosaic(torch.zeros(4, 4)), ValueError, "float32")
case("mosaic of another shape", lambda m, s, x: s.mosaic(torch.zeros(3, 4, dtype=torch.int64)), ValueError, r"\(3, 4\)")
case("mosaic out of range", lambda m, s, x: s.mosaic(torch.full((4, 4), 40)), IndexError, "no basis vector 40")
case("shrink outside the box", lambda m, s, x: s.shrink(x + 1, x, 8), ValueError, r"must lie in \[0, 1\]")
case("level set outside the box", lambda m, s, x: LevelSet(m, "fc", x + 1), ValueError, r"\[0, 1\]")
case("level set of a function", lambda m, s, x: LevelSet(torch.relu, "fc", x), TypeError, "builtin_function")
case("toward from outside the box", lambda m, s, x: s.toward(x - 1, x), ValueError, r"must lie in \[0, 1\]")


# Networks.
def sized(model, size):
    model.input_size = size
    return model


NETWORKS = {
    "no weights": (lambda: nn.ReLU(), ValueError, "ReLU has no convolution, linear or attention layer"),
    "a name": (lambda: "resnet18", TypeError, "Module, not str"),
    "None": (lambda: None, TypeError, "Module, not NoneType"),
    "a function": (lambda: torch.relu, TypeError, "Module, not builtin_function_or_method"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(3, 2)), ValueError, "lazy layer that has no weights yet"),
    "size of features": (lambda: sized(nn.Sequential(nn.Flatten(), linear(784, 3)), 784), ValueError, "784"),
    "size a word": (lambda: sized(conv(3, 3, 2), "big"), ValueError, "'big'"),
    "size zero": (lambda: sized(conv(3, 3, 2), 0), ValueError, "input_size = 0"),
    "size negative": (lambda: sized(conv(3, 3, 2), -8), ValueError, "input_size = -8"),
    "size of four": (lambda: sized(conv(3, 3, 2), (1, 3, 8, 8)), ValueError, r"\(1, 3, 8, 8\)"),
    "grey": (lambda: sized(conv(1, 3, 2), 8), ValueError, r"\(3, 8, 8\)"),
}
for what, (make, error, text) in NETWORKS.items():
    case(f"layer_weights: {what}", lambda m, s, x, make=make: weights.layer_weights(make()), error, text)
    case(f"first_weight: {what}", lambda m, s, x, make=make: weights.first_weight(make()), error, text)
case("compare with a function", lambda m, s, x: compare(torch.relu, x, x), TypeError, "builtin_function")
case("compare with a lazy network", lambda m, s, x: compare(nn.LazyConv2d(3, 2), x, x), ValueError, "lazy")
case("compare with one that says nothing", lambda m, s, x: compare(Says("nothing"), x, x), ValueError, "returns str")
case("maps of a function", lambda m, s, x: maps.compute("saliency", torch.relu, x), TypeError, "builtin_function")
case("maps of a dict", lambda m, s, x: maps.compute("saliency", Says({}), x), ValueError, "not a dict: give output")
for bad in (16, (3, 16), (3, -16, 16), "3", (2, 16, 16)):
    case(
        f"layer_weights of shape {bad!r}",
        lambda m, s, x, b=bad: weights.layer_weights(m, b),
        ValueError,
        "does not run on an input of shape",
    )
case("search without a size", lambda m, s, x: NullSpaceSearch(conv(3, 3, 2)), ValueError, "no input_size")
case(
    "search without a null space",
    lambda m, s, x: NullSpaceSearch(conv(3, 12, 2, stride=2), (3, 8, 8)),
    ValueError,
    "has no null space",
)
case("search of a name", lambda m, s, x: NullSpaceSearch("resnet18"), TypeError, "Module, not str")
case(
    "search behind a blur",
    lambda m, s, x: NullSpaceSearch(nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(3, 3, 2, stride=2)), (3, 8, 8)),
    ValueError,
    "not an affine map",
)
right(
    "search among zeros",
    lambda m, s, x: NullSpaceSearch(zeros(conv(3, 3, 2, stride=2)), (3, 8, 8)).basis.shape,
    (12, 12),
)
right("weights of a network without a size", lambda m, s, x: len(weights.layer_weights(conv(3, 3, 2))), 1)
right("half a rank", lambda m, s, x: nullspace.nullity(torch.eye(147, dtype=torch.bfloat16)), 0)


class Says(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.words = words

    def forward(self, x):
        return self.words


def zeros(layer):
    nn.init.zeros_(layer.weight)
    return layer


# Names.
for name, call, text in (
    ("network", lambda m, s, x: models.load("resnet19"), "'resnet19'; near matches: resnet1"),
    ("shipped network", lambda m, s, x: models.load("patchnot"), "'patchnot'; near matches: patchnet"),
    ("number as network", lambda m, s, x: models.load(18), "18"),
    ("nothing as network", lambda m, s, x: models.load(""), "''"),
    ("weights", lambda m, s, x: models.load("resnet18", weights="IMAGENET1K_V1"), "'IMAGENET1K_V1'"),
    ("shipped without weights", lambda m, s, x: models.load("patchnet", weights=None), "patchnet is shipped"),
    ("shapes", lambda m, s, x: models.shapes_only("resnet19"), "'resnet19'"),
    ("count", lambda m, s, x: counting.count("resnet19"), "'resnet19'"),
    ("atlas", lambda m, s, x: counting.atlas(["resnet18", "resnet19"]), "'resnet19'"),
    ("photograph", lambda m, s, x: images.load("chelsie"), "'chelsie'; there are chelsea"),
    ("method", lambda m, s, x: maps.compute("gradcam", m, x), "'gradcam'; near matches: grad_cam"),
    ("layer", lambda m, s, x: maps.compute("grad_cam", m, x, "conv2"), "'conv2'; near matches: conv1"),
    ("side", lambda m, s, x: maps.compute("grad_cam", m, x, "conv1", side="top"), "'top'"),
    ("layer of no map", lambda m, s, x: maps.compute("grad_cam", m, x, "fc"), "'fc' has shape"),
    ("no layer", lambda m, s, x: maps.compute("grad_cam", m, x), "map of a layer: name one"),
    ("layer too many", lambda m, s, x: maps.compute("saliency", m, x, "conv1"), "not even 'conv1'"),
    ("target", lambda m, s, x: maps.compute("saliency", m, x, target=5), "no class 5; there are 5"),
    ("negative target", lambda m, s, x: maps.compute("saliency", m, x, target=-1), "no class -1"),
    ("recorded layer", lambda m, s, x: hooks.record(m, ["conv2"]).__enter__(), "'conv2'; near matches: conv1"),
    ("layer of a level set", lambda m, s, x: LevelSet(m, "conv2", x), "'conv2'; near matches: conv1"),
    ("claim", lambda m, s, x: claims.check("nonsense"), "no claim 'nonsense'"),
    (
        "architecture",
        lambda m, s, x: checkpoints.load_checkpoint(
            s.write("resnet18.pt", torch_file({"a": torch.ones(1)})), "resnet19"
        ),
        "'resnet19'",
    ),
):
    case(f"unknown {name}", call, ValueError, text)
case("recorded layers as one string", lambda m, s, x: hooks.record(m, "conv1").__enter__(), TypeError, "'conv1'")
case("target and a half", lambda m, s, x: maps.compute("saliency", m, x, target=1.5), TypeError, "float")
for size in (0, -1, 1.5, "224", None):
    case(
        f"photograph of size {size!r}",
        lambda m, s, x, n=size: images.load("chelsea", n),
        ValueError,
        "None|1.5|'224'|0|-1",
    )

# Matrices.
MATRICES = {
    "a list": (lambda: [[1.0]], TypeError, "list"),
    "an array": (lambda: np.eye(2), TypeError, "ndarray"),
    "whole numbers": (lambda: torch.eye(2, dtype=torch.int64), TypeError, "int64"),
    "complex": (lambda: torch.eye(2, dtype=torch.complex64), TypeError, "complex64"),
    "a vector": (lambda: torch.ones(3), ValueError, r"\(3,\)"),
    "empty": (lambda: torch.ones(0, 3), ValueError, r"\(0, 3\)"),
    "NaN": (lambda: torch.full((2, 2), math.nan), ValueError, "NaN"),
    "infinite": (lambda: torch.full((2, 2), math.inf), ValueError, "infinite"),
}
for what, (make, error, text) in MATRICES.items():
    for function in (nullspace.matrix_rank, nullspace.nullity, nullspace.null_space, nullspace.shared_null_space):
        case(f"{function.__name__}: {what}", lambda m, s, x, f=function, make=make: f(make()), error, text)
for rtol in (-1, 1, math.nan, math.inf):
    case(f"nullity with rtol {rtol}", lambda m, s, x, r=rtol: nullspace.nullity(torch.eye(2), r), ValueError, str(rtol))
case("nothing shared", lambda m, s, x: nullspace.shared_null_space(), ValueError, "at least one matrix")
case(
    "columns that differ",
    lambda m, s, x: nullspace.shared_null_space(torch.eye(2), torch.eye(3)),
    ValueError,
    r"\(2, 2\), \(3, 3\)",
)
case(
    "angles of spaces that differ",
    lambda m, s, x: nullspace.principal_angles(torch.eye(2), torch.eye(3)),
    ValueError,
    r"\(2, 2\), \(3, 3\)",
)
right("rank of nothing but zeros", lambda m, s, x: nullspace.matrix_rank(torch.zeros(3, 4)), 0)
right("rank of tiny numbers", lambda m, s, x: nullspace.matrix_rank(1e-300 * torch.eye(3, dtype=torch.float64)), 3)

# Convolutions as layers.
for function in (symbol.symbol, symbol.image_nullity, symbol.quietest):
    name = function.__name__
    case(f"{name} of a linear layer", lambda m, s, x, f=function: f(linear(2, 2), 8), ValueError, "Linear")
    case(f"{name} of NaN", lambda m, s, x, f=function: f(spoilt(conv(3, 3, 2)), 8), ValueError, "NaN|finite")
    case(f"{name} of size 0", lambda m, s, x, f=function: f(conv(3, 3, 2), 0), ValueError, "0")
    case(f"{name} of size 7.5", lambda m, s, x, f=function: f(conv(3, 3, 2), 7.5), (ValueError, TypeError), "7.5")
for k in (0, -1, 1.5, 10**6):
    case(f"quietest {k}", lambda m, s, x, k=k: symbol.quietest(conv(3, 3, 2), 8, k), ValueError, f"not {k}")
case("geometry of a ReLU", lambda m, s, x: windows.geometry(nn.ReLU(), SHAPE), ValueError, "ReLU")
case("geometry of other channels", lambda m, s, x: windows.geometry(conv(4, 3, 2), SHAPE), ValueError, "4 chann")
case("geometry that fits nowhere", lambda m, s, x: windows.geometry(conv(3, 3, 17), SHAPE), ValueError, "17")
case(
    "geometry of a reflection",
    lambda m, s, x: windows.geometry(conv(3, 3, 3, padding=1, padding_mode="reflect"), SHAPE),
    ValueError,
    "'reflect'",
)


def spoilt(layer):
    nn.init.constant_(layer.weight, math.nan)
    return layer


# Random matrices.
RNG = np.random.default_rng(0)
for name in ("n", "p", "size"):
    for bad, error in ((0, ValueError), (-3, ValueError), (2.5, TypeError), ("2", TypeError), (None, TypeError)):
        arguments = {"n": 2, "p": 2, "size": 2, "rng": RNG, name: bad}
        case(
            f"eigenvalues of {name} = {bad!r}",
            lambda m, s, x, given=arguments: randmat.sample_smallest_eigenvalues(**given),
            error,
            f"{name} must be .* not {bad!r}",
        )
case("eigenvalues of a seed", lambda m, s, x: randmat.sample_smallest_eigenvalues(2, 2, 2, 0), TypeError, "int")
for q in (-0.1, 1.1, math.nan):
    case(f"quantile {q}", lambda m, s, x, q=q: randmat.limit_quantile(q), ValueError, str(q))
right("quantile 1", lambda m, s, x: float(randmat.limit_quantile(1)), math.inf)
right("density below zero", lambda m, s, x: float(randmat.limit_pdf(-1)), 0.0)


# Files.
def png(mode, size=(4, 4), **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG", **options)
    return buffer.getvalue()


class Evil:
    def __reduce__(self):
        return print, ("this ran",)


def torch_file(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil()))
    return buffer.getvalue()


CHECKPOINTS = {
    "empty": (b"", "not a whole checkpoint"),
    "text": (b"these are not weights", "not a whole checkpoint"),
    "cut": (torch_file({"a": torch.ones(100)})[:300], "not a whole checkpoint"),
    "code": (torch_file({"a": Evil()}), "would run code"),
    "pickle": (pickle.dumps({"a": Evil()}), "not a whole checkpoint|would run code"),
    "zip": (zipped(), "not a whole checkpoint|would run code"),
    "number": (torch_file(3), "no state dict"),
    "nothing": (torch_file({}), "no state dict"),
    "integer keys": (torch_file({1: torch.ones(2)}), "no state dict|not a resnet18"),
    "words": (torch_file({"a": "b"}), "no state dict"),
    "keys of another": (torch_file({"a": torch.ones(2)}), "not a resnet18"),
    "none": (torch_file(None), "no state dict"),
}
for what, (content, text) in CHECKPOINTS.items():
    case(
        f"checkpoint: {what}",
        lambda m, s, x, c=content: checkpoints.load_checkpoint(s.write("resnet18.pt", c)),
        ValueError,
        f"resnet18.pt: .*({text})|({text})",
    )
for what, content in (
    ("safetensors: empty", b""),
    ("safetensors: text", b"not weights"),
    ("safetensors: a long head", (2**40).to_bytes(8, "little") + b"{}"),
):
    case(
        what,
        lambda m, s, x, c=content: checkpoints.load_checkpoint(s.write("resnet18.safetensors", c)),
        ValueError,
        "not a whole checkpoint",
    )
case(
    "our format, broken",
    lambda m, s, x: checkpoints.load_checkpoint(s.ours({"stem": "patch", "categories": "[1"})),
    ValueError,
    "not a whole file of one of our networks",
)
case(
    "our format, another stem",
    lambda m, s, x: checkpoints.load_checkpoint(s.ours({"stem": "bark", "categories": '["a"]', "widths": "[8, 8, 8]"})),
    ValueError,
    "'bark'",
)
case("no checkpoint", lambda m, s, x: checkpoints.load_checkpoint(s.files / "resnet18.gone"), FileNotFoundError, "gone")
case(
    "a folder as checkpoint",
    lambda m, s, x: checkpoints.load_checkpoint(s.files, "resnet18"),
    (IsADirectoryError, ValueError),
    ".",
)
case("no folder", lambda m, s, x: counting.count_folder(s.files / "gone"), NotADirectoryError, "gone: not a folder")
case("a folder of nothing", lambda m, s, x: counting.count_folder(s.empty), FileNotFoundError, "no file that ends in")
IMAGE_FILES = {
    "empty": b"",
    "text": b"<html>",
    "cut": png("RGB", (64, 64))[:60],
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
for what, content in IMAGE_FILES.items():
    case(
        f"image file: {what}",
        lambda m, s, x, c=content: images.from_file(s.write("cat.png", c)),
        ValueError,
        "cat.png: not a readable image file",
    )
case("no image file", lambda m, s, x: images.from_file(s.files / "dog.png"), FileNotFoundError, "dog.png")
right("a transparent picture", lambda m, s, x: float(images.from_file(s.write("c.png", png("RGBA")), 4).min()), 1.0)
right("a grey picture", lambda m, s, x: tuple(images.from_file(s.write("g.png", png("L")), 4).shape), (3, 4, 4))

# Pictures and panels.
case("pictures without titles", lambda m, s, x: pictures.images([x], [], "alt"), ValueError, "not 0 titles")
case("maps without titles", lambda m, s, x: pictures.heatmaps([x[0]], [], "x", "y", "l", "alt"), ValueError, "not 0")
case("a panel of nothing", lambda m, s, x: panels.beta_panel([], x), ValueError, "at least one network")
case("a panel of an unknown network", lambda m, s, x: panels.beta_panel("patchnot", x), ValueError, "'patchnot'")
case("a panel of a flat photograph", lambda m, s, x: panels.beta_panel(m, x[0]), TypeError, r"not \(16, 16\)")
right(
    "a chart of many series",
    lambda m, s, x: type(charts.lines([1, 2], {str(k): [1, 2] for k in range(50)}, "t", "x", "y", "alt")).__name__,
    "Image",
)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    model, files = network(), tmp_path_factory.mktemp("files")

    def write(name, content):
        (files / name).write_bytes(content)
        return files / name

    def ours(metadata):
        path = files / "ours.safetensors"
        save_file({"a": torch.ones(1)}, path, metadata | {"mean": "[0, 0, 0]", "std": "[1, 1, 1]"})
        return path

    search = NullSpaceSearch(model)
    tools = SimpleNamespace(
        files=files,
        empty=tmp_path_factory.mktemp("empty"),
        write=write,
        ours=ours,
        **{name: getattr(search, name) for name in ("collide", "shrink", "toward", "repeat", "mosaic", "basis")},
    )
    return model, tools, torch.rand(SHAPE)


def test_there_are_many():
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_a_clear_error_or_the_right_answer_and_no_trace(name, things, capsys):
    model, tools, x = things
    call, error, expected = CASES[name]
    before = snapshot(model, x, tools.basis)
    if error is None:
        assert call(model, tools, x) == expected
    else:
        with pytest.raises(error, match=expected) as caught:
            call(model, tools, x)
        assert "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert snapshot(model, x, tools.basis) == before
