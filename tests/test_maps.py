import copy
import gc
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collide_utils import images, maps, models, nullspace, windows
from collide_utils.comparison import compare
from collide_utils.maps import theory
from collide_utils.maps.theory import Collision
from collide_utils.search import NullSpaceSearch

SIZE = 84  # the shipped networks take any size, and this one is a seventh of the work
PHOTOGRAPHS = ["chelsea", "coffee", "flower"]
PLACES = [
    ("conv1", "input"),
    ("conv1", "output"),
    ("bn1", "input"),
    ("layer1.bn2", "output"),
    ("layer2.conv2", "output"),
    ("layer2", "input"),
    ("layer3", "output"),
]


def small(name):
    model = models.load(name, dtype=torch.float64)
    search = NullSpaceSearch(model, (3, SIZE, SIZE))
    return (
        model,
        search,
        [
            (search.repeat(3), 2048),
            (search.random(torch.Generator().manual_seed(1)), 2048),
            (search.random(torch.Generator().manual_seed(2)), 8192),
        ],
    )


@pytest.fixture(scope="module")
def network():
    return models.load("patchnet", dtype=torch.float64)


@pytest.fixture(scope="module")
def x():
    return images.load("chelsea", size=SIZE).double()


@pytest.fixture(scope="module")
def y(network, x):
    search = NullSpaceSearch(network, (3, SIZE, SIZE))
    return search.collide(x, search.random(torch.Generator().manual_seed(0)), 1024)


def agrees_with_theory(rows):
    """Of pairs drawn at random all that is not forced to be equal is different.

    Nothing says by how much: what `compare_maps` calls different begins at 1.5e-8. Here it is a million times the most
    that rounding leaves of an equal one. Least differs a network that was trained to be steady under small changes.
    """
    for row in rows:
        assert (row.verdict == maps.EQUAL) == (row.theory == maps.EQUAL), row
        assert row.difference < 1e-9 if row.theory == maps.EQUAL else row.difference > 1e-3, row


@pytest.mark.parametrize("name", ["patchnet", "patchnet-l2"])
def test_every_row_is_as_the_theory_says(name):
    model, search, perturbations = small(name)
    for photograph, (v, beta) in zip(PHOTOGRAPHS, perturbations, strict=True):
        image = images.load(photograph, size=SIZE)
        rows = maps.compare_maps(model, image, search.collide(image, v, beta), ["normalize", "conv1", "layer2"])
        assert len(rows) == 5 * 3 * 2 + 7
        agrees_with_theory(rows)


def test_every_row_is_as_the_theory_says_on_a_vision_transformer():
    # Two layers of one, for images of 64×64 pixels. torchvision leaves its head at zero, where every gradient vanishes.
    model = torchvision.models.VisionTransformer(64, 16, 2, 2, 48, 64, num_classes=3).double().eval()
    nn.init.normal_(model.heads.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    search = NullSpaceSearch(model, (3, 64, 64))
    for seed, photograph in enumerate(PHOTOGRAPHS):
        image = images.load(photograph, size=64).double()
        other = search.collide(image, search.random(torch.Generator().manual_seed(seed)), 2048)
        rows = maps.compare_maps(model, image, other, ["conv_proj"])
        agrees_with_theory(rows)
        said = {row.method: row.theory for row in rows}
        assert said["occlusion_28"] == maps.NOT_FORCED and said["occlusion_32"] == maps.EQUAL


def test_the_theory_in_words(network, x, y):
    theory = {row[:3]: row.theory for row in maps.compare_maps(network, x, y, ["normalize", "conv1", "layer1"])}
    for method in ("activation", "grad_cam", "gradient_x_activation", "guided_grad_cam"):
        same = {
            (layer, side)
            for layer in ("normalize", "conv1", "layer1")
            for side in ("input", "output")
            if theory[method, layer, side] == maps.EQUAL
        }
        assert same == {("conv1", "output"), ("layer1", "input"), ("layer1", "output")}
    for method in ("saliency", "guided_backprop", "smoothgrad", "occlusion_28"):
        assert theory[method, None, None] == maps.EQUAL
    for method in ("input_x_gradient", "integrated_gradients", "occlusion_32"):
        assert theory[method, None, None] == maps.NOT_FORCED


def test_maps_are_neither_zero_nor_blind_to_a_perturbation_that_does_not_collide(network, x, y):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise *= (y - x).norm() / noise.norm()
    rows = maps.compare_maps(network, x, x + noise, ["conv1", "layer1"])
    assert all((row.verdict, row.theory) == (maps.DIFFERENT, maps.NOT_FORCED) for row in rows)
    assert min(row.difference for row in rows) > 1e-2


def test_by_default_every_layer_that_has_rows_and_columns(network, x, y):
    rows = maps.compare_maps(network, x, y, methods=["activation"])
    layers = list(dict.fromkeys(row.layer for row in rows))
    assert layers[:5] == ["normalize", "conv1", "bn1", "relu", "pool"] and layers[-1] == "avgpool"
    assert "layer1.relu" not in layers and "layer1" not in layers and len(layers) == 24
    agrees_with_theory(rows)


def test_a_layer_that_holds_the_colliding_one():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU()),
        nn.Conv2d(4, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()
    search = NullSpaceSearch(model, (3, 8, 8))
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    rows = maps.compare_maps(model, x, search.collide(x, search.random(), 512), ["0", "0.1"], ["activation"])
    assert [row.theory for row in rows] == [maps.NOT_FORCED, maps.EQUAL, maps.EQUAL, maps.EQUAL]
    agrees_with_theory(rows)


def test_a_fully_connected_first_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    search = NullSpaceSearch(model, (3, 8, 8))
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    at_image = [name for name, method in maps.METHODS.items() if method.at == "image" and "occlusion" not in name]
    agrees_with_theory(maps.compare_maps(model, x, search.collide(x, search.random(), 2048), methods=at_image))


def said_of(rows):
    """What the theory says, by method and place, after a look that nothing is different that must be equal."""
    for row in rows:
        assert row.theory == maps.NOT_FORCED or (row.verdict == maps.EQUAL and row.difference < 1e-9), row
    return {row[:3]: row.theory == maps.EQUAL for row in rows}


def at(said, method, layers):
    return [said[method, layer, side] for layer in layers for side in ("input", "output")]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.second(self.relu(self.first(x))))


def deep(nonlinear, pool):
    """A stem that does not collide by itself, what stands behind it, and a block with a skip connection."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nonlinear,
        nn.Conv2d(4, 4, 1),
        nn.Tanh(),
        pool,
        Block(),
        nn.Flatten(),
        nn.LazyLinear(3),
    ).double()
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    model(x[None])
    return model, x


def null_direction(layers, x, rows=None):
    """A change of x that the derivative of some layers at x maps to zero, in some of its rows."""
    jacobian = torch.autograd.functional.jacobian(lambda image: layers(image[None]).flatten(), x).flatten(1)
    basis = nullspace.null_space(jacobian if rows is None else jacobian[rows])
    direction = basis @ torch.randn(basis.shape[1], dtype=torch.float64)
    return (direction / direction.abs().max()).view_as(x)


def test_a_pair_that_collides_from_a_relu_on():
    model, x = deep(nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    model[0].bias.data -= 0.3  # so that many responses are negative
    with torch.no_grad():
        active = model[0](x[None]).flatten() > -1e-3
    y = x + 1e-4 * null_direction(model[:1], x, active)
    assert compare(model, x, y).collides_from == "1"
    said = said_of(maps.compare_maps(model, x, y, ["0", "1", "2"]))
    for method in ("activation", "grad_cam", "ablation"):
        assert at(said, method, "012") == [False, False, False, True, True, True]
    assert said["saliency", None, None] and said["guided_backprop", None, None]
    assert not any(said[method, None, None] for method in ("smoothgrad", "input_x_gradient", "occlusion_28"))


def test_a_pair_that_collides_from_a_max_pool_on():
    model, x = deep(nn.MaxPool2d(2), nn.Identity())
    y = x + 1e-4 * null_direction(model[:2], x)
    assert compare(model, x, y).collides_from == "1"
    said = said_of(maps.compare_maps(model, x, y, ["0", "1", "2"]))
    assert at(said, "grad_cam", "012") == [False, False, False, True, True, True]
    assert not said["saliency", None, None]


def test_a_pair_that_collides_from_within_a_network_on():
    model, x = deep(nn.Tanh(), nn.AdaptiveAvgPool2d(4))
    y = x + 0.1 * null_direction(model[:5], x)
    for _ in range(8):  # Newton's method, back to the features of x behind the average pool
        jacobian = torch.autograd.functional.jacobian(lambda image: model[:5](image[None]).flatten(), y).flatten(1)
        with torch.no_grad():
            missing = (model[:5](x[None]) - model[:5](y[None])).flatten()
        y = y + (torch.linalg.pinv(jacobian) @ missing).view_as(y)
    assert compare(model, x, y).collides_from == "4" and (y - x).abs().max() > 0.01
    said = said_of(maps.compare_maps(model, x, y, ["0", "4", "5", "5.first", "5.second"]))
    for method in ("activation", "grad_cam", "gradient_x_activation", "ablation"):
        assert at(said, method, ("0", "4")) == [False, False, False, True]
        assert all(at(said, method, ("5", "5.first", "5.second")))
    assert not any(said[method, None, None] for method in ("saliency", "smoothgrad", "occlusion_28"))


class Bypass(nn.Module):
    """Two convolutions read the image, and what they return meets behind both."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 2, 4, stride=4), nn.Conv2d(3, 2, 4, stride=4)
        self.joined, self.head = nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.joined(self.one(x) * self.two(x)).flatten(1))


def tiles(*weights):
    """An image of 8×8 pixels of which windows of 4×4 pixels, side by side, lie in the null space of all the weights."""
    basis = nullspace.null_space(torch.cat([weight.detach().flatten(1) for weight in weights]))
    windows = basis @ torch.randn(basis.shape[1], 4, dtype=torch.float64)
    return F.fold(windows[None], 8, 4, stride=4)[0]


def test_no_single_layer_before_the_join_decides():
    model, x = Bypass().double(), torch.rand(3, 8, 8, dtype=torch.float64)
    y = x + tiles(model.one.weight, model.two.weight)
    assert compare(model, x, y).collides_from == "one"
    assert Collision(model, x[None], y[None], "one", ["joined"]).cut == "joined"
    said = said_of(maps.compare_maps(model, x, y, ["one", "joined"]))
    assert said["grad_cam", "joined", "output"] and not said["grad_cam", "one", "output"]
    assert not said["saliency", None, None]


class Clamp(nn.Module):
    def forward(self, x):
        return x.clamp(0, 1)


def test_a_network_that_clamps_is_not_affine_though_it_is_between_black_and_white():
    model = nn.Sequential(Clamp(), nn.Conv2d(3, 4, 4, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    x, v = torch.full((3, 8, 8), 0.5, dtype=torch.float64), tiles(model[1].weight)
    said = said_of(maps.compare_maps(model, x, x + 0.4 * v / v.abs().max(), ["1"], ["saliency", "grad_cam"]))
    assert not said["saliency", None, None] and said["grad_cam", "1", "output"]


class Normalise(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, x):
        return x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25


def test_a_network_that_normalises_in_place_has_the_maps_of_one_that_does_not():
    image, found = torch.rand(3, 8, 8), []
    kept = image.clone()
    for in_place in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            Normalise(in_place), nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
        found.append(
            [
                maps.compute(name, model, image, "1" if method.at == "layer" else None, target=1)
                for name, method in maps.METHODS.items()
            ]
        )
    assert torch.equal(image, kept)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_method_works_in_half_precision(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    image = torch.rand(3, 8, 8)
    for name, method in maps.METHODS.items():
        layer = "0" if method.at == "layer" else None
        half = maps.compute(name, copy.deepcopy(model).to(dtype), image, layer, target=1)
        full = maps.compute(name, model, image, layer, target=1)
        assert half.dtype == dtype and float((half.float() - full).norm() / full.norm()) < 0.1, name


class Dictionary(nn.Sequential):
    def forward(self, x):
        return {"out": super().forward(x)}


def test_a_model_that_returns_more_than_logits_is_explained_by_an_output_function():
    layers = nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 3, 1)
    plain, x = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.rand(3, 8, 8)
    found = maps.compute("grad_cam", Dictionary(*layers), x, "0", output=lambda said: said["out"].mean((2, 3)))
    torch.testing.assert_close(found, maps.compute("grad_cam", plain, x, "0"))
    with pytest.raises(ValueError, match="not a dict: give output"):
        maps.compute("grad_cam", Dictionary(*layers), x, "0")


geometries = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3), st.integers(5, 24), st.integers(1, 8)
)


@given(geometries)
@settings(deadline=None)
def test_a_block_cuts_a_window_just_if_some_window_sees_two_blocks(drawn):
    w, stride, padding, dilation, n, block = drawn
    padding = min(padding, w // 2)
    if n + 2 * padding < dilation * (w - 1) + 1:
        return
    layer = nn.Conv2d(1, 1, w, stride=stride, padding=padding, dilation=dilation)
    labels = (torch.arange(n) // block + 1.0).repeat(n, 1)[None, None]
    seen = F.unfold(labels, w, dilation=dilation, padding=padding, stride=stride)
    lowest = seen.masked_fill(seen == 0, math.inf).amin(1)
    sees_two = bool(((seen.amax(1) > 0) & (seen.amax(1) != lowest)).any())
    assert theory.cuts(windows.geometry(layer, (1, n, n)), lambda _: block) == sees_two


def split(model, image, layer, side):
    """The tensor at a place, and the logits as a function of it: an independent way to read and replace it."""
    module, kept = model.get_submodule(layer), []
    pre, post = module.register_forward_pre_hook, module.register_forward_hook
    with (
        (
            pre(lambda _, args: kept.append(args[0].clone()))
            if side == "input"
            else post(lambda _, args, out: kept.append(out.clone()))
        ),
        torch.no_grad(),
    ):
        model(image[None])

    def rest(tensor):
        with pre(lambda _, args: tensor.clone()) if side == "input" else post(lambda _, args, out: tensor.clone()):
            return model(image[None])

    return kept[0], rest


def grad_cam(model, image, layer, side):
    tensor, rest = split(model, image, layer, side)
    tensor.requires_grad_()
    logits = rest(tensor)
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], tensor)
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * tensor).sum(1)[0].relu().detach(), (gradient * tensor).sum(1)[0].detach()


@pytest.mark.parametrize("layer, side", PLACES)
def test_maps_at_a_layer_equal_their_formulas(layer, side, network, x):
    cam, product = grad_cam(network, x, layer, side)
    tensor, rest = split(network, x, layer, side)
    torch.testing.assert_close(maps.compute("grad_cam", network, x, layer, side=side), cam)
    torch.testing.assert_close(maps.compute("gradient_x_activation", network, x, layer, side=side), product)
    torch.testing.assert_close(maps.compute("activation", network, x, layer, side=side), tensor[0].mean(0))
    guided = maps.compute("guided_backprop", network, x)
    upsampled = F.interpolate(cam[None, None], x.shape[1:], mode="bilinear")[0, 0]
    torch.testing.assert_close(maps.compute("guided_grad_cam", network, x, layer, side=side), guided * upsampled)
    torch.testing.assert_close(maps.compute("ablation", network, x, layer, side=side), ablation(tensor, rest))


def ablation(tensor, rest):
    with torch.no_grad():
        logits = rest(tensor)[0]
        target, expected = int(logits.argmax()), torch.zeros(tensor.shape[2:], dtype=torch.float64)
        size = math.ceil(tensor.shape[2] / 4)
        for i in range(0, tensor.shape[2], size):
            for j in range(0, tensor.shape[3], size):
                blanked = tensor.clone()
                blanked[:, :, i : i + size, j : j + size] = 0
                expected[i : i + size, j : j + size] = logits[target] - rest(blanked)[0, target]
    return expected


@pytest.mark.parametrize("layer, side", [("2", "output"), ("2", "input"), ("3", "output"), ("3", "input")])
def test_ablation_runs_a_module_again_that_runs_on_both_sides_of_the_layer(layer, side):
    shared = nn.Conv2d(2, 2, 3, padding=1)
    model = nn.Sequential(
        shared, nn.Tanh(), nn.Sigmoid(), nn.Conv2d(2, 2, 1), shared, nn.Flatten(), nn.Linear(128, 3)
    ).double()
    x = torch.rand(2, 8, 8, dtype=torch.float64)
    expected = ablation(*split(model, x, layer, side))
    torch.testing.assert_close(maps.compute("ablation", model, x, layer, side=side), expected)


def test_maps_at_the_image_equal_their_formulas(network, x):
    image = x.clone().requires_grad_()
    logits = network(image[None])[0]
    (gradient,) = torch.autograd.grad(logits[2], image)
    torch.testing.assert_close(maps.compute("saliency", network, x, target=2), gradient.abs().amax(0))
    torch.testing.assert_close(maps.compute("input_x_gradient", network, x, target=2), (gradient * x).sum(0))
    average = torch.zeros_like(x)
    for node, weight in zip(*np.polynomial.legendre.leggauss(32), strict=True):
        point = ((node + 1) / 2 * x).requires_grad_()
        average += weight / 2 * torch.autograd.grad(network(point[None])[0, 2], point)[0]
    torch.testing.assert_close(
        maps.compute("integrated_gradients", network, x, target=2), (average * x).sum(0), rtol=1e-5, atol=1e-7
    )  # Captum rounds the weights to float32
    blanked = x.clone()
    blanked[:, 28:56, 56:] = 0
    effect = (logits[2] - network(blanked[None])[0, 2]).detach()
    found = maps.compute("occlusion_28", network, x, target=2)[28:56, 56:]
    torch.testing.assert_close(found, effect.expand(28, 28))


def test_guided_backpropagation_lets_only_positive_gradients_through_a_relu():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1), nn.Flatten(), nn.Linear(4, 2)
    ).double()
    x = torch.rand(1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        first, second = model[0].weight[:, 0, 0, 0], model[2].weight[0, :, 0, 0]
        active = model[0](x[None])[0] > 0
        signal = (model[4].weight[1].view(1, 2, 2) * second[:, None, None]).relu()
        expected = (first[:, None, None] * active * signal).sum(0).abs()
    torch.testing.assert_close(maps.compute("guided_backprop", model, x, target=1), expected)


def test_smoothgrad_draws_the_same_noise_each_time_and_leaves_the_generator_alone(network, x):
    state = torch.get_rng_state()
    first, second = (maps.compute("smoothgrad", network, x) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())


def state(model):
    return [
        (
            name,
            type(module),
            module.training,
            getattr(module, "inplace", None),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("method", maps.METHODS)
def test_the_callers_model_and_image_are_left_alone(method):
    model = models.SmallResNet("patch", ["a", "b"]).train()
    before, weights = state(model), {key: value.clone() for key, value in model.state_dict().items()}
    image = torch.rand(3, 28, 28)
    copy = image.clone()
    layer = "layer1" if maps.METHODS[method].at == "layer" else None
    found = maps.compute(method, model, image, layer)
    assert found.dtype == torch.float32 and not found.requires_grad
    with pytest.raises(ValueError, match="no class 2"):
        maps.compute(method, model, image, layer, target=2)
    assert state(model) == before and torch.equal(image, copy) and not image.requires_grad
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("method", maps.METHODS)
def test_operations_in_place_change_no_map(method):
    found = []
    for inplace in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.ReLU(inplace), nn.Conv2d(1, 3, 2), nn.ReLU(inplace), nn.Conv2d(3, 3, 2), nn.Flatten(), nn.Linear(108, 2)
        ).double()
        image = torch.randn(1, 8, 8, dtype=torch.float64)
        places = [("0", "input"), ("1", "output"), ("2", "input")]
        found.append(
            torch.stack(
                [
                    maps.compute(method, model, image, layer, 0, side)[:6, :6]
                    for layer, side in (places if maps.METHODS[method].at == "layer" else [(None, "output")])
                ]
            )
        )
    assert torch.equal(*found) and found[0].norm() > 0


class Fragile(nn.Module):
    def forward(self, x):
        if x.requires_grad or len(x) > 1:
            raise RuntimeError("fragile")
        return x


def alive():
    """All hooks of all modules that exist, and the number of modules: copies count too."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when they are asked for their class
        modules = [thing for thing in gc.get_objects() if isinstance(thing, nn.Module)]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in modules for kind in kinds), len(modules)


def test_calls_leak_no_hook_and_no_module():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())
    x = torch.rand(1, 2, 2)
    before = alive()
    for _ in range(200):  # one leak would do
        maps.compute("activation", model, x, "0")
    assert alive() == before


def test_no_hook_outlives_a_failure_within_a_method():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), Fragile(), nn.Flatten(), nn.Linear(3200, 2))
    before = alive()
    for name, method in maps.METHODS.items():
        if name != "activation":
            with pytest.raises(RuntimeError, match="fragile"):
                maps.compute(name, model, torch.rand(1, 40, 40), "0" if method.at == "layer" else None)
    assert alive() == before


@pytest.mark.parametrize(
    "method, changes, error, text",
    [
        ("gradcam", {}, ValueError, "no method called 'gradcam'; near matches: grad_cam"),
        ("grad_cam", {"layer": None}, ValueError, "grad_cam is a map of a layer: name one"),
        ("saliency", {}, ValueError, "saliency is a map of the image.*'layer1'"),
        ("grad_cam", {"layer": "layer1.conv3"}, ValueError, r"no layer 'layer1.conv3'; near matches: layer1.conv"),
        ("grad_cam", {"layer": "fc"}, ValueError, r"the output of layer 'fc' has shape \(1, 22\): it has no rows"),
        ("grad_cam", {"layer": "flatten"}, ValueError, r"output of layer 'flatten' has shape \(1, 256\)"),
        ("grad_cam", {"layer": "layer1.relu"}, ValueError, "'layer1.relu' is called 2 times"),
        ("grad_cam", {"side": "both"}, ValueError, "side must be 'input' or 'output', not 'both'"),
        ("grad_cam", {"target": 22}, ValueError, "no class 22; there are 22, numbered from 0"),
        ("grad_cam", {"target": -1}, ValueError, "no class -1"),
        ("grad_cam", {"target": 1.5}, TypeError, "float"),
        (
            "grad_cam",
            {"image": torch.rand(1, 3, 56, 56)},
            ValueError,
            r"must have shape \(C, H, W\), not \(1, 3, 56, 56\)",
        ),
        ("grad_cam", {"image": torch.full((3, 56, 56), math.nan)}, ValueError, "NaN"),
        ("grad_cam", {"image": torch.ones(3, 56, 56, dtype=torch.uint8)}, TypeError, "uint8"),
        ("grad_cam", {"image": [[0.5]]}, TypeError, "list"),
    ],
)
def test_bad_arguments_are_named(method, changes, error, text, network, x):
    with pytest.raises(error, match=text):
        maps.compute(method, network, **{"image": x, "layer": "layer1"} | changes)


def test_bad_arguments_are_named_before_the_table_is_begun(network, x, y):
    for layers, names, text in (
        (["layer1", "fc"], ["grad_cam"], "layer 'fc' has shape"),
        (["layer4"], ["grad_cam"], "no layer 'layer4'"),
        (["layer1"], ["activation", "gradcam"], "no method called 'gradcam'"),
    ):
        with pytest.raises(ValueError, match=text):
            maps.compare_maps(network, x, y, layers, names)
    with pytest.raises(ValueError, match="differ in shape"):
        maps.compare_maps(network, x, y[:, :56])


def test_a_token_layer_has_no_rows_and_columns():
    model = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=3).eval()
    with pytest.raises(ValueError, match=r"the input of layer 'encoder.ln' has shape \(1, 5, 8\)"):
        maps.compute("grad_cam", model, torch.rand(3, 32, 32), "encoder.ln", side="input")


def test_a_model_that_returns_no_logits_is_refused():
    with pytest.raises(ValueError, match=r"\(N, classes\).*not \(1, 2, 4, 4\)"):
        maps.compute("saliency", nn.Conv2d(3, 2, 1), torch.rand(3, 4, 4))
