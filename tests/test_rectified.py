"""Collisions behind a ReLU against brute force: the network up to there as one matrix, linear programs and KKT."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import downhill
from scipy.optimize import linprog
from test_windows import layers
from torch import nn

from collide_utils import images, maps, models, nullspace, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch, OverlapWarning

BETAS = (8, 8192)


def normalised(channels, generator):
    """A batch normalisation as training leaves it, one scale negative and one zero."""
    norm = nn.BatchNorm2d(channels).double().eval().requires_grad_(False)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.normal_(generator=generator)
    norm.running_var.uniform_(0.1, 2, generator=generator)
    norm.weight[0], norm.weight[-1] = -norm.weight[0].abs(), 0
    return norm


def network(layer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.requires_grad_(False).parameters():
        parameter.normal_(generator=generator)
    return nn.Sequential(layer.double(), normalised(layer.out_channels, generator), nn.ReLU(inplace=True), nn.Flatten())


def before(model, shape):
    """What the ReLU is given, as a matrix and an offset."""
    units = torch.cat([torch.zeros(1, *shape), torch.eye(int(np.prod(shape))).view(-1, *shape)]).double()
    values = model[1](model[0](units)).flatten(1)
    return (values[1:] - values[0]).T, values[0]


def draw(shape, seed):
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


@settings(max_examples=15)
@given(layers(separate=True), st.integers(0, 2**31))
def test_the_image_behind_a_relu_is_the_nearest_one(case, seed):
    layer, shape = case
    model, (image, target) = network(layer, seed), draw(shape, seed)
    try:
        search = NullSpaceSearch(model, shape)
    except ValueError as error:
        assert "no null space" in str(error)
        return
    found = search.toward(image, target, after="2")
    matrix, offset = before(model, shape)
    value = matrix @ image.flatten() + offset
    now = matrix @ found.flatten() + offset
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(now.clamp(min=0), value.clamp(min=0), atol=1e-11, rtol=0)
    rows = matrix.abs().sum(1) > 0
    low = torch.where(value > 0, value, -torch.inf) - offset
    high = value.clamp(min=0) - offset
    assert downhill(found.flatten(), target.flatten(), matrix[rows], low[rows], high[rows]) < 1e-6
    alike = search.toward(image, target, after="0")
    torch.testing.assert_close(alike, search.toward(image, target), atol=1e-6, rtol=0)
    assert (found - target).norm() <= (alike - target).norm() + 1e-9


@settings(max_examples=15)
@given(layers(separate=True), st.integers(0, 2**31))
def test_directions_go_on_without_end_and_are_missing_only_where_there_is_none(case, seed):
    layer, shape = case
    model, (image, _) = network(layer, seed), draw(shape, seed)
    try:
        search = NullSpaceSearch(model, shape)
        v = search.random(torch.Generator().manual_seed(seed), image, after="2")
    except ValueError as error:
        assert "no null space" in str(error) or "no window" in str(error)
        return
    for beta in BETAS:
        same = model(torch.stack([image, search.collide(image, v, beta)]))
        torch.testing.assert_close(same[0], same[1], atol=1e-11, rtol=0)
    norms = windows.unfold(search.geometry, v).norm(dim=-1)
    assert bool(((norms - 1).abs() < 1e-12).logical_or(norms == 0).all())


def test_where_nothing_is_drawn_the_cone_of_a_window_is_a_point():
    found = 0
    for seed in range(20):
        model = network(nn.Conv2d(3, 11, 2, stride=2), seed)
        image, _ = draw((3, 4, 4), seed)
        search = NullSpaceSearch(model, (3, 4, 4))
        v = search.random(torch.Generator().manual_seed(seed), image, after="2")
        value = model[1](model[0](image[None]))[0].flatten(1).T
        norms = windows.unfold(search.geometry, v).flatten(0, 1).norm(dim=1)
        for norm, here in zip(norms, value, strict=True):
            scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
            rows = (model[0].weight.flatten(1) * scale[:, None]).numpy()
            kept, falling = rows[(here > 0).numpy()], rows[(here <= 0).numpy()]
            reach = 0.0
            for unit in np.vstack([np.eye(12), -np.eye(12)]):
                best = linprog(
                    -unit,
                    A_ub=falling if len(falling) else None,
                    b_ub=np.zeros(len(falling)) if len(falling) else None,
                    A_eq=kept if len(kept) else None,
                    b_eq=np.zeros(len(kept)) if len(kept) else None,
                    bounds=[(-1, 1)] * 12,
                )
                reach = max(reach, -best.fun)
            assert (norm == 0) == (reach < 1e-7)
            found += 1
    assert found == 80


def test_one_relu_lets_a_photograph_come_nearer(patchnet, search, cat):
    coffee = images.load("coffee").double()
    found = search.toward(cat, coffee, after="relu")
    assert compare(patchnet, cat.double(), found).collides_from == "relu"
    assert found.min() >= 0 and found.max() <= 1
    assert (found - coffee).norm() < 0.999 * (search.toward(cat, coffee) - coffee).norm()


def test_three_networks_collide_behind_their_relus_at_every_beta(cat):
    networks = [models.load(name, dtype=torch.float64) for name in ("patchnet", "patchnet-b", "patchnet-l2")]
    first, *others = (NullSpaceSearch(one) for one in networks)
    joint = first.join(*others)
    assert joint.basis.shape == (147, 0) and joint.weight.shape == (192, 147)
    v = joint.random(torch.Generator().manual_seed(0), cat, after="relu")
    for beta in BETAS:
        y = joint.collide(cat, v, beta)
        for one in networks:
            result = compare(one, cat, y)
            assert result.collides_from == "relu" and result.changes["conv1"] > 1e-6
    with pytest.raises(ValueError, match="share no null space"):
        joint.random()
    torch.testing.assert_close(joint.toward(cat, 1 - cat), cat.double(), atol=1e-12, rtol=0)


def test_what_two_networks_share_is_the_null_space_of_the_joined_search(cat):
    model, other = (models.load(name, dtype=torch.float64) for name in ("patchnet", "patchnet-b"))
    joint = NullSpaceSearch(model).join(NullSpaceSearch(other))
    assert joint.basis.shape[1] == 147 - 2 * 64
    y = joint.collide(cat, joint.random(torch.Generator().manual_seed(0)), 512)
    assert compare(model, cat, y).collides_from == compare(other, cat, y).collides_from == "conv1"


class Block(nn.Module):
    """A first layer whose ReLU is a function, and which others may read too."""

    def __init__(self, around):
        super().__init__()
        self.conv, self.around = nn.Conv2d(3, 5, 2, stride=2), around
        self.act, self.head = nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x):
        first = self.conv(x)
        rectified = self.act(first)
        return self.head((rectified + self.around * first).mean((2, 3)))


def test_layers_that_are_no_relu_of_the_first_are_refused_by_name():
    image = torch.rand(3, 8, 8, dtype=torch.float64)

    def toward(activation, after="1", search=None):
        model = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), activation, nn.AvgPool2d(2)).double()
        return NullSpaceSearch(model, image.shape).toward(image, 1 - image, after)

    for activation in (nn.ReLU6(), nn.LeakyReLU(0.01), nn.GELU(), nn.Sigmoid(), nn.Softplus(), nn.Hardswish()):
        with pytest.raises(ValueError, match="'1' is not a layer .* first layer, 0, with a ReLU or without; 0 are"):
            toward(activation)
    for after in ("2", "3"):
        with pytest.raises(ValueError, match=f"'{after}' is not a layer .*; 0, 1 are"):
            toward(nn.ReLU(), after)
    plain = NullSpaceSearch(Block(0.0).double(), image.shape)
    assert plain.toward(image, 1 - image, "act").shape == image.shape
    with pytest.raises(ValueError, match="'act' does not hand on all .* first layer, conv"):
        NullSpaceSearch(Block(1.0).double(), image.shape).toward(image, 1 - image, "act")


def test_a_linear_first_layer_and_a_relu_inside_a_block():
    stem = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.ReLU())
    model, (image, target) = nn.Sequential(stem, nn.Linear(30, 4)).double(), draw((3, 4, 4), 0)
    search = NullSpaceSearch(model, image.shape)
    for after in ("0", "0.2"):
        found = search.toward(image, target, after)
        assert compare(model, image, found).collides_from == "0.2"
    y = search.collide(image, search.random(torch.Generator().manual_seed(0), image, "0"), 8192)
    assert compare(model, image, y).collides_from == "0.2"


def test_the_model_and_the_random_state_are_left_alone(patchnet, search, cat):
    state, modes = torch.get_rng_state(), [module.training for module in patchnet.modules()]
    search.random(torch.Generator().manual_seed(0), cat, after="relu")
    assert torch.equal(torch.get_rng_state(), state) and modes == [one.training for one in patchnet.modules()]
    assert not any(module._forward_hooks for module in patchnet.modules())


def test_bad_calls_are_named(search, cat):
    for bad in ({"image": cat}, {"after": "relu"}):
        with pytest.raises(ValueError, match="image and after go together"):
            search.random(**bad)
    with pytest.raises(ValueError, match=r"one layer, or one for each of 1 networks, not \['relu', 'relu'\]"):
        search.toward(cat, cat, ["relu", "relu"])
    with pytest.raises(ValueError, match="'rleu' is not a layer .*conv1, bn1, relu, pool are"):
        search.toward(cat, cat, "rleu")
    small = NullSpaceSearch(nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.ReLU()), (3, 8, 8))
    with pytest.raises(ValueError, match=r"same windows, not \(7, 7\) of .* and \(2, 2\) of"):
        search.join(small)
    with pytest.warns(OverlapWarning):
        overlapping = NullSpaceSearch(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU()), (3, 9, 9))
    with pytest.raises(ValueError, match=r"overlap \(window \(3, 3\), stride \(2, 2\)\).*LevelSet"):
        overlapping.toward(*draw((3, 9, 9), 0), after="1")


def test_a_residual_block_with_an_identity_shortcut_is_not_closed_behind_its_last_relu():
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock(8, 8)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    model = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    x = torch.rand(8, 6, 6, dtype=torch.float64)
    sums = []
    handle = block.bn2.register_forward_hook(lambda _, __, output: sums.append(output))

    def outputs(flat):
        return block(flat.view(1, *x.shape)).flatten()

    jacobian = torch.autograd.functional.jacobian(outputs, x.flatten())
    assert np.linalg.matrix_rank(jacobian) < x.numel()
    # Without its last ReLU the block is closed.
    whole = torch.autograd.functional.jacobian(lambda flat: (outputs(flat), sums[-1].flatten() + flat)[1], x.flatten())
    handle.remove()
    assert np.linalg.matrix_rank(whole) == x.numel()
    v = nullspace.null_space(jacobian)[:, 0].view(x.shape)
    y = x + 1e-4 * v  # within the region of x
    result = compare(model, x, y)
    assert result.collides_from == "0.relu (2)" and result.changes["0.conv1"] > 1e-6
    rows = maps.compare_maps(model, x, y, layers=["0", "0.conv1"])
    assert {row.verdict for row in rows if row.layer == "0" and row.side == "output"} == {maps.EQUAL}
    assert all(row.verdict == row.theory for row in rows if row.theory == maps.EQUAL)
    assert any(row.verdict == maps.DIFFERENT for row in rows)
