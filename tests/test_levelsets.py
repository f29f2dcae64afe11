import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import minimize
from torch import nn

from collide_utils import images, levelsets, models
from collide_utils.comparison import compare
from collide_utils.jacobians import Dense, Implicit, least_change
from collide_utils.levelsets import LevelSet

SIDE = 8


def network(seed=0, width=4, window=3, stride=2, pool=True, activation=nn.ReLU, outputs=5):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, width, window, stride, window // 2), nn.BatchNorm2d(width), activation()]
    if pool:
        layers.append(nn.MaxPool2d(3, 2, 1))
    layers += [nn.Flatten(), nn.LazyLinear(outputs)]
    model = nn.Sequential(*layers).double()
    model(torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64))
    return model.eval()


def picture(seed):
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(10**7 + seed), dtype=torch.float64)


def dense_jacobian(model, image, step=1e-6):
    """By central differences: exact up to rounding where the network is affine."""
    with torch.no_grad():
        moves = step * torch.eye(image.numel(), dtype=image.dtype).view(-1, *image.shape)
        return ((model(image + moves) - model(image - moves)).flatten(1).T / (2 * step)).numpy()


def scipys(target, rows, wanted, bounds):
    """The point of the box nearest to `target` with the wanted measurements, by SLSQP."""
    best = minimize(
        lambda y: ((y - target) ** 2).sum() / 2,
        np.full(len(target), np.mean(bounds)),
        method="SLSQP",
        jac=lambda y: y - target,
        bounds=bounds,
        options=dict(maxiter=500, ftol=1e-14),
        constraints=[dict(type="eq", fun=lambda y: rows.numpy() @ y - wanted.numpy(), jac=lambda y: rows.numpy())],
    )
    return best


networks = st.builds(
    network,
    seed=st.integers(0, 10**6),
    width=st.integers(1, 6),
    window=st.sampled_from([1, 3, 4]),
    stride=st.integers(1, 3),
    pool=st.booleans(),
    outputs=st.integers(1, 12),
    activation=st.sampled_from([nn.ReLU, nn.GELU, lambda: nn.ReLU(inplace=True)]),
)
few = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])


@few
@given(networks, st.integers(0, 10**6))
def test_dimension_and_tangent_agree_with_finite_differences(model, seed):
    image, direction = picture(seed), torch.randn(3, SIDE, SIDE, dtype=torch.float64)
    jacobian = dense_jacobian(model, image)
    singular = scipy.linalg.svdvals(jacobian)
    rank = int((singular > 1e-6 * singular.max()).sum())
    assume(not ((singular > 1e-8 * singular.max()) & (singular < 1e-4 * singular.max())).any())  # no clear rank
    level = LevelSet(model, "logits", image)
    assert level.dimension().pixels == image.numel()
    assert level.dimension().rank == rank
    tangent = level.tangent(direction)
    rows = scipy.linalg.orth(jacobian.T, rcond=1e-6)
    expected = direction.numpy().ravel() - rows @ (rows.T @ direction.numpy().ravel())
    np.testing.assert_allclose(tangent.numpy().ravel(), expected, atol=1e-6)
    torch.testing.assert_close(level.tangent(tangent), tangent, atol=1e-13, rtol=0)


@few
@given(networks, st.integers(0, 10**6))
def test_a_tangent_keeps_the_features_to_second_order_and_exactly_inside_a_region(model, seed):
    image, direction = picture(seed), torch.randn(3, SIDE, SIDE, dtype=torch.float64)
    tangent = LevelSet(model, "logits", image).tangent(direction)
    with torch.no_grad():
        before = model(image[None])
        small, smaller = ((model((image + step * tangent)[None]) - before).norm() for step in (1e-4, 1e-5))
    if any(isinstance(module, nn.GELU) for module in model):
        assert smaller < small / 30 + 1e-13
    else:  # so small a step hardly ever leaves the region
        assume(small < 1e-7)
        assert small < 1e-13 * (1 + before.norm())


@few
@given(networks, st.integers(0, 10**6), st.floats(0.01, 0.1))
def test_landing_makes_the_features_equal_inside_the_box_and_nearby(model, seed, size):
    image = picture(seed)
    start = (image + size * (picture(seed + 1) - image)).clamp(0, 1)
    level = LevelSet(model, "logits", image)
    try:
        landed = level.land(start)
    except RuntimeError:  # only where the start has lost a feature, and with it the gradient that would bring it back
        with torch.no_grad():
            there, here = model[:-1](torch.stack([image, start]))
        assert ((there != 0) & (here == 0)).any()
        return
    assert landed.min() >= 0 and landed.max() <= 1
    with torch.no_grad():
        expected, found = model(torch.stack([image, landed]))
    assert (found - expected).norm() <= 1e-13 * expected.norm()
    assert (landed - start).norm() <= 3 * (start - image).norm() + 0.1  # the photograph itself is that near


@few
@given(st.integers(1, 6), st.integers(7, 20), st.integers(0, 10**6), st.floats(0.05, 1))
def test_the_least_change_is_that_of_scipy(outputs, pixels, seed, room):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(outputs, pixels, generator=generator, dtype=torch.float64)
    inside = room * (torch.rand(pixels, generator=generator, dtype=torch.float64) - 0.5)
    lower, upper = -room * torch.ones(pixels, dtype=torch.float64), room * torch.ones(pixels, dtype=torch.float64)
    wanted = rows @ inside
    best = scipys(np.zeros(pixels), rows, wanted, [(-room, room)] * pixels)
    assume(best.success)
    found = least_change(Dense(rows), wanted, lower, upper)
    assert found.min() >= -room and found.max() <= room
    torch.testing.assert_close(rows @ found, wanted, atol=1e-5, rtol=1e-5)
    assert float(found.norm()) == pytest.approx(np.linalg.norm(best.x), rel=1e-4)


def test_the_products_of_a_jacobian_are_those_of_the_matrix():
    model, image = network(pool=True), picture(0)
    matrix = torch.from_numpy(dense_jacobian(model, image))
    implicit = Implicit(lambda y: model(y[None])[0], image)
    change, weights = picture(1).flatten(), torch.randn(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(implicit.forward(change), matrix @ change, atol=1e-8, rtol=0)
    torch.testing.assert_close(implicit.adjoint(weights), weights @ matrix, atol=1e-8, rtol=0)
    free = (change > 0.3).double()
    solved = implicit.solve(free, weights)
    assert (matrix @ (free * (solved @ matrix)) - weights).norm() < 0.05 * weights.norm()


def test_without_forming_the_jacobian_the_tangent_and_the_landing_are_the_same(monkeypatch):
    model, image, direction = network(), picture(0), torch.randn(3, SIDE, SIDE, dtype=torch.float64)
    level = LevelSet(model, "logits", image)
    formed = level.tangent(direction)
    start = 0.9 * image + 0.1 * picture(1)
    monkeypatch.setattr(levelsets, "_DENSE", 0)
    torch.testing.assert_close(level.tangent(direction), formed, atol=1e-10, rtol=0)
    assert level.change(level.land(start)) <= 1e-13
    assert level.nearest(picture(1), steps=20).landed
    with pytest.raises(ValueError, match="5 outputs; the rank is taken of at most 0"):
        level.dimension()


@pytest.mark.parametrize("layer", ["2", "3"])
def test_an_inner_layer_collides_from_there_on(layer):
    model, image = network(width=3), picture(0)
    level = LevelSet(model, layer, image)
    stop = level.nearest(picture(1), steps=100)
    assert stop.landed and stop.distance < float((picture(1) - image).square().mean().sqrt())
    found = compare(model, image, stop.image)
    assert found.changes[layer] <= 1e-13 < 1e-3 < found.changes["0"]
    assert list(found.changes).index(found.collides_from) <= list(found.changes).index(layer)


def test_walking_and_going_on_after_an_interruption():
    model, image, target = network(), picture(0), picture(1)
    level = LevelSet(model, "logits", image)
    stops = list(level.walk(target, 6))
    assert len(stops) == 6 and all(stop.landed for stop in stops)
    distances = [stop.distance for stop in stops]
    assert distances == sorted(distances, reverse=True)
    walk = level.walk(target, 6)
    first = [next(walk) for _ in range(3)]
    walk.close()
    rest = list(level.walk(target, 3, start=first[-1].image))
    for stop, again in zip(stops, first + rest, strict=True):
        assert torch.equal(stop.image, again.image)


def test_nearest_is_near_where_a_convex_program_says_how_near():
    """On a linear network the level set is affine, so the nearest valid image is that of a quadratic program."""
    model, image, target = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(), picture(0), picture(1)
    rows, wanted = model[1].weight.detach(), model[1].weight.detach() @ image.flatten()
    best = scipys(target.numpy().ravel(), rows, wanted, [(0, 1)] * 192)
    assert best.success
    stop = LevelSet(model, "1", image).nearest(target, steps=400)
    assert stop.landed and stop.distance == pytest.approx(np.sqrt(2 * best.fun / 192), rel=0.02)


def test_a_level_set_that_is_a_point():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 40)).double()
    image = torch.rand(3, 2, 2, dtype=torch.float64)
    level = LevelSet(model, "1", image)
    assert level.dimension().free == 0
    assert level.tangent(torch.ones(3, 2, 2)).abs().max() < 1e-13
    for call in (lambda: level.land(image), lambda: level.nearest(image), lambda: next(level.walk(image, 2))):
        with pytest.raises(ValueError, match="is a point here"):
            call()


def test_as_many_outputs_as_pixels_may_still_leave_freedom():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 40)).double()
    level = LevelSet(model, "2", torch.rand(3, 2, 2, dtype=torch.float64))
    assert level.dimension().free == 6
    assert level.nearest(torch.rand(3, 2, 2), steps=50).landed


def test_many_outputs_without_a_zero_are_refused(monkeypatch):
    monkeypatch.setattr(levelsets, "_DENSE", 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 40)).double()
    with pytest.raises(ValueError, match="may be a point here: 40 of the 40 outputs"):
        LevelSet(model, "1", torch.rand(3, 2, 2)).land(torch.rand(3, 2, 2))


class Odd(nn.Module):
    """Repeats a module, changes its input in place, and returns a dictionary."""

    def __init__(self):
        super().__init__()
        self.relu, self.linear = nn.ReLU(inplace=True), nn.Linear(12, 12)

    def forward(self, x):
        x = self.relu(x.sub_(0.5)).flatten(1)
        x = self.relu(self.linear(x))
        return {"out": (x[:, :4], x)}


@pytest.mark.parametrize("layer", ["linear", "relu", "logits"])
def test_odd_networks(layer):
    model = Odd().double()
    level = LevelSet(model, layer, torch.rand(3, 2, 2, dtype=torch.float64))
    assert len(level.features) == {"linear": 12, "relu": 24, "logits": 4}[layer]
    if layer == "logits":
        assert level.nearest(torch.rand(3, 2, 2), steps=60).landed


@pytest.mark.parametrize("dense", [4096, 0])
def test_the_products_with_the_jacobian_are_bounded(monkeypatch, dense):
    monkeypatch.setattr(levelsets, "_DENSE", dense)
    level, made = LevelSet(network(), "logits", picture(0)), []

    def counted(function, products):
        def call(*arguments):
            made.append(products)
            return function(*arguments)

        return call

    monkeypatch.setattr(levelsets, "rows", counted(levelsets.rows, 5))
    for product in "forward", "adjoint":
        monkeypatch.setattr(Implicit, product, counted(getattr(Implicit, product), 1))
    free = level.nearest(picture(1), steps=20)
    needed = sum(made)
    assert torch.equal(level.nearest(picture(1), steps=20, products=needed).image, free.image)
    made.clear()
    with pytest.raises(RuntimeError, match=f"at 'logits' within {needed - 1} products with the Jacobian"):
        level.nearest(picture(1), steps=20, products=needed - 1)
    assert sum(made) <= needed
    assert torch.equal(level.nearest(picture(1), steps=20).image, free.image)  # the bound was for one call


def test_where_products_run_out_on_the_walk_its_last_stop_is_returned(monkeypatch):
    level, target = LevelSet(network(), "logits", picture(0)), picture(1)
    monkeypatch.setattr(LevelSet, "_approach", lambda self, target, steps, stiffness: target)
    land, landings = LevelSet.land, []

    def fails_from_afar(self, image):
        if torch.equal(image, target):
            raise RuntimeError("too far")
        landings.append(land(self, image))
        return landings[-1]

    monkeypatch.setattr(LevelSet, "land", fails_from_afar)
    whole = level.nearest(target)
    seen = list(landings)
    landings.clear()
    part = level.nearest(target, products=20)
    assert 0 < len(landings) < len(seen)
    assert part.landed and torch.equal(part.image, landings[-1]) and torch.equal(landings[-1], seen[len(landings) - 1])
    assert part.distance > whole.distance


def test_the_model_and_the_random_state_are_as_before():
    model, image = network().train(), picture(0)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    state, kept = copy.deepcopy(model.state_dict()), image.clone()
    random = torch.random.get_rng_state()
    with torch.no_grad():
        level = LevelSet(model, "5", image)
        level.nearest(picture(1), steps=30)
        level.tangent(picture(2))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(image, kept) and not image.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert [len(module._forward_hooks) for module in model] == [1, 0, 0, 0, 0, 0]


def test_the_same_call_gives_the_same_image():
    level = LevelSet(network(), "logits", picture(0))
    assert torch.equal(level.nearest(picture(1), steps=40).image, level.nearest(picture(1), steps=40).image)


def test_clear_errors():
    model, image = network(), picture(0)
    level = LevelSet(model, "logits", image)
    with pytest.raises(ValueError, match="no layer 'fc'"):
        LevelSet(model, "fc", image)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], not in \[.*, 2\]"):
        LevelSet(model, "logits", image.clone().fill_(2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        LevelSet(model, "logits", torch.full_like(image, torch.nan))
    with pytest.raises(TypeError, match="floating-point"):
        level.land(image.long())
    for call in (level.land, level.tangent, lambda y: level.nearest(y), lambda y: next(level.walk(y, 2))):
        with pytest.raises(ValueError, match="must have shape"):
            call(image[:, :4])
    for steps in (0, -1, 2.5):
        with pytest.raises(ValueError, match="steps must be"):
            level.nearest(image, steps)
    for products in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="products must be a positive number"):
            level.nearest(image, products=products)
        with pytest.raises(ValueError, match="steps must be"):
            level.walk(image, steps)
    broken = copy.deepcopy(model)
    broken[0].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="features at 'logits' are not finite"):
        LevelSet(broken, "logits", image)


class Root(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2].sqrt()


def test_a_jacobian_that_is_not_finite_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), Root()).double()
    model[0].weight.data.fill_(1)
    level = LevelSet(model, "1", torch.zeros(3, 2, 2))
    white = torch.ones(3, 2, 2)
    for call in (level.dimension, lambda: level.tangent(white), lambda: level.nearest(white)):
        with pytest.raises(ValueError, match="Jacobian has entries that are not finite"):
            call()


def test_where_nothing_moves_the_features_there_is_no_landing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()).double()
    model[1].weight.data.abs_()
    model[1].bias.data.fill_(-3)  # alive for bright images alone
    bright, dark = torch.ones(3, 2, 2, dtype=torch.float64), torch.zeros(3, 2, 2, dtype=torch.float64)
    model[1].weight.data.add_(1)
    level = LevelSet(model, "2", bright)
    with pytest.raises(RuntimeError, match="the relative change fell to 1e\\+00"):
        level.land(dark)
    assert level.nearest(dark, steps=60).landed  # from the image the approach never loses the features


def test_an_untrained_resnet_on_tiny_images_moves_in_fewer_dimensions_than_it_has_features():
    """So from another piece of it there is hardly ever a way back: what stops landing there is no matter of method."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.load("resnet18", weights=None)
    photographs = torch.stack([images.load(name, 32) for name in images.names()])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        model.train()(torch.cat([photographs, photographs.flip(-1), photographs.flip(-2)]))
    level = LevelSet(model, "network.avgpool", photographs[0])
    alive = int((level.features != 0).sum())
    assert level.dimension(1e-9).rank < 0.9 * alive < alive <= 512


RING = [*itertools.pairwise([*images.names()[:5], images.names()[0]])]


@pytest.mark.parametrize("name", ["patchnet", "stridenet"])
@pytest.mark.parametrize("layer, x, y", [("avgpool", *RING[0]), *(("logits", *pair) for pair in RING)])
def test_photographs_collide_with_a_valid_image_at_either_stem(name, layer, x, y):
    """Near the photograph, which suffices here; ``make bench`` lands on all pairs at the pooled features, too."""
    model = models.load(name, dtype=torch.float64)
    image, target = (images.load(one, 84).double() for one in (x, y))
    landed = LevelSet(model, layer, image).land(image + 0.005 * (target - image))
    found = compare(model, image, landed)
    assert landed.min() >= 0 and landed.max() <= 1
    assert found.changes[layer] <= 1e-13 and found.collides_from is not None
    assert list(found.changes).index(found.collides_from) <= list(found.changes).index(layer)
    assert (landed - image).norm() > 0.5 * 0.005 * (target - image).norm()


@pytest.mark.parametrize("name", ["patchnet", "stridenet"])
def test_a_shipped_network_takes_another_photograph_for_the_cat(name, cat):
    model, target = models.load(name, dtype=torch.float64), images.load("coffee").double()
    stop = LevelSet(model, "logits", cat).nearest(target, steps=40)
    found = compare(model, cat, stop.image)
    assert stop.landed and stop.image.min() >= 0 and stop.image.max() <= 1
    assert found.changes["logits"] <= 1e-13 and found.collides_from is not None
    assert stop.distance < float((cat - target).square().mean().sqrt()) / 2


def test_the_pair_that_the_course_opens_with_collides_from_the_pooled_features_on(cat):
    data = Path(__file__).resolve().parent.parent / "data"
    shipped = load_file(data / "collision.safetensors")["image"]
    found = compare(models.load("stridenet", dtype=torch.float64), cat, shipped)
    assert shipped.dtype == torch.float64 and shipped.min() >= 0 and shipped.max() <= 1
    assert found.collides_from == "avgpool" and found.changes["avgpool"] <= 1e-13 < 0.05 < found.changes["conv1"]
    to_cat, to_coffee = (float((shipped - images.load(n)).square().mean().sqrt()) for n in ("chelsea", "coffee"))
    assert to_coffee < 0.07 and to_coffee < to_cat / 3
    assert sum((data / f"collision.{kind}").stat().st_size for kind in ("safetensors", "png")) < 1.5 * 10**6
