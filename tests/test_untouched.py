"""Every public function that takes a model or an image leaves both, and the process, as they were."""

import pytest
import torch
from state import network, snapshot
from torch import nn

from collide_utils import (
    answers,
    checkpoints,
    counting,
    hooks,
    images,
    maps,
    models,
    nullspace,
    symbol,
    weights,
    windows,
)
from collide_utils.comparison import Reference, compare
from collide_utils.levelsets import LevelSet
from collide_utils.projection import nearest_in_box
from collide_utils.search import NullSpaceSearch
from collide_utils.show import canvas, panels, pictures

SHAPE = (3, 16, 16)


def drawn(model):
    search = NullSpaceSearch(model)
    return search, search.random(torch.Generator().manual_seed(0))


def recorded(model, x):
    with hooks.record(model):
        pass


def run_quietly(model, x):
    with torch.no_grad(), hooks.untouched(model):
        assert not model.fc.training
        model(hooks.fed(model, x)[None])
        torch.rand(1)


def raising(model, x):
    with pytest.raises(RuntimeError, match="on purpose"), hooks.untouched(model):
        raise RuntimeError("on purpose")


def boxed(x):
    return nearest_in_box(
        x.double().flatten(1),
        x.double().flatten(1),
        torch.eye(2, 256, dtype=torch.float64),
        torch.zeros(1),
        torch.ones(1),
    )


def geometry(model):
    return windows.geometry(model.conv1, SHAPE)


def saved_and_loaded(model, x, folder):
    net = models.SmallResNet("patch", ["a", "b"]).train()
    before = snapshot(net)
    models.save(net, folder / "net.safetensors")
    assert snapshot(net) == before
    torch.save(net.state_dict(), folder / "resnet18.pt")
    with pytest.raises(ValueError, match="resnet18"):
        checkpoints.load_checkpoint(folder / "resnet18.pt")
    checkpoints.load_checkpoint(folder / "net.safetensors")
    counting.count_folder(folder)


CALLS = {
    "compare": lambda m, x, y: compare(m, x, y),
    "compare with itself": lambda m, x, y: compare(m, x, x),
    "compare a collision": lambda m, x, y: compare(m, x, drawn(m)[0].collide(x, drawn(m)[1], 64)),
    "compare with output": lambda m, x, y: compare(m, x, y, output=lambda scores: {"first": scores[:, :2]}),
    "Reference": lambda m, x, y: [Reference(m, x).compare(image) for image in (x, y)],
    "Answer": lambda m, x, y: answers.Answer(m, {"out": x}).said,
    "hooks.record": lambda m, x, y: recorded(m, x),
    "hooks.untouched": lambda m, x, y: run_quietly(m, x),
    "hooks.untouched, raising": lambda m, x, y: raising(m, x),
    "hooks.fed": lambda m, x, y: hooks.fed(m, x).zero_(),
    "layer_weights": lambda m, x, y: weights.layer_weights(m),
    "layer_weights of a shape": lambda m, x, y: weights.layer_weights(m, SHAPE),
    "first_weight": lambda m, x, y: weights.first_weight(m),
    "uncounted_parameters": lambda m, x, y: weights.uncounted_parameters(m),
    "default_shape": lambda m, x, y: weights.default_shape(m),
    "NullSpaceSearch": lambda m, x, y: NullSpaceSearch(m),
    "repeat": lambda m, x, y: drawn(m)[0].repeat(0),
    "mosaic": lambda m, x, y: drawn(m)[0].mosaic(torch.zeros(4, 4, dtype=torch.long)),
    "collide": lambda m, x, y: drawn(m)[0].collide(x, drawn(m)[1], 8),
    "shrink": lambda m, x, y: drawn(m)[0].shrink(x, drawn(m)[1], 2048),
    "toward": lambda m, x, y: drawn(m)[0].toward(x, y),
    "seen": lambda m, x, y: drawn(m)[0].seen(x),
    "per_layer": lambda m, x, y: counting.per_layer(m),
    "count": lambda m, x, y: counting.count(m),
    "first_guaranteed": lambda m, x, y: counting.first_guaranteed(m),
    "active_outputs": lambda m, x, y: counting.active_outputs(m, "relu", x),
    "LevelSet": lambda m, x, y: LevelSet(m, "relu", x).land(x),
    "LevelSet.change": lambda m, x, y: LevelSet(m, "relu", x).change(y),
    "LevelSet.tangent": lambda m, x, y: LevelSet(m, "relu", x).tangent(y),
    "LevelSet.dimension": lambda m, x, y: LevelSet(m, "logits", x).dimension(),
    "LevelSet.walk": lambda m, x, y: list(LevelSet(m, "logits", x).walk(y, 2)),
    "LevelSet.nearest": lambda m, x, y: LevelSet(m, "logits", x).nearest(y, 4),
    "symbol": lambda m, x, y: symbol.symbol(m.conv1, 16),
    "image_nullity": lambda m, x, y: symbol.image_nullity(m.conv1, 16),
    "cell_nullity": lambda m, x, y: symbol.cell_nullity(m.conv1),
    "residues": lambda m, x, y: symbol.residues(m.conv1),
    "quietest": lambda m, x, y: symbol.quietest(m.conv1, 8),
    "geometry": lambda m, x, y: geometry(m),
    "unfold, fold and tile": lambda m, x, y: windows.fold(geometry(m), windows.unfold(geometry(m), x)).zero_(),
    "nullspace": lambda m, x, y: [
        f(m.conv1.weight.flatten(1))
        for f in (nullspace.matrix_rank, nullspace.nullity, nullspace.null_space, nullspace.shared_null_space)
    ],
    "principal_angles": lambda m, x, y: nullspace.principal_angles(x[0], y[0]),
    "nearest_in_box": lambda m, x, y: boxed(x),
    "images.check": lambda m, x, y: images.check(x, SHAPE),
    "images.load": lambda m, x, y: images.load("chelsea", 16),
    "images.from_afar": lambda m, x, y: images.from_afar(x, (4, 4)),
    "models.load": lambda m, x, y: models.load("patchnet"),
    "models.shapes_only": lambda m, x, y: models.shapes_only("resnet18"),
    "canvas.pixels": lambda m, x, y: canvas.pixels(x),
    "pictures.images": lambda m, x, y: pictures.images([x, y], ["x", "y"], "alt"),
    "pictures.perturbation": lambda m, x, y: pictures.perturbation(x),
    "beta_panel": lambda m, x, y: panels.beta_panel(m, x),
    "compare_maps": lambda m, x, y: maps.compare_maps(m, x, drawn(m)[0].collide(x, drawn(m)[1], 64), ["conv1"]),
} | {
    f"maps.compute {name}": lambda m, x, y, name=name, method=method: maps.compute(
        name, m, x, "conv1" if method.at == "layer" else None
    )
    for name, method in maps.METHODS.items()
}


@pytest.mark.parametrize("call", CALLS)
def test_it_leaves_everything_as_it_was(call):
    model, x, y = network(), torch.rand(SHAPE), torch.rand(SHAPE)
    before = snapshot(model, x, y)
    CALLS[call](model, x, y)
    assert snapshot(model, x, y) == before


def test_files_are_written_and_read_without_a_trace(tmp_path):
    before = snapshot()
    random_state = torch.get_rng_state()
    saved_and_loaded(None, None, tmp_path)
    torch.set_rng_state(random_state)  # the network that the test makes is random
    assert snapshot() == before


def test_the_snapshot_sees_what_it_should():
    model, x = network(), torch.rand(SHAPE)
    for change in (
        lambda: model.fc.eval(),
        lambda: model.runs.add_(1),
        lambda: x.mul_(2),
        lambda: torch.rand(1),
        lambda: model.conv1.register_forward_hook(print),
        lambda: model.conv1.weight.requires_grad_(),
        lambda: model.zero_grad(),
        lambda: setattr(model, "conv1", nn.Conv2d(3, 8, 4)),
    ):
        before = snapshot(model, x)
        change()
        assert snapshot(model, x) != before
