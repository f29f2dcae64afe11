import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import downhill
from scipy.optimize import minimize
from torch import nn

from collide_utils import images, projection, windows
from collide_utils.comparison import compare
from collide_utils.projection import nearest_in_box
from collide_utils.search import NullSpaceSearch

ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def scipys(target, point, basis):
    """The same program in the coordinates of the null space, by SLSQP."""
    shift = point - target
    found = minimize(
        lambda a: 0.5 * np.sum((shift + basis @ a) ** 2),
        np.zeros(basis.shape[1]),
        jac=lambda a: basis.T @ (shift + basis @ a),
        method="SLSQP",
        constraints=[
            dict(type="ineq", fun=lambda a: point + basis @ a, jac=lambda a: basis),
            dict(type="ineq", fun=lambda a: 1 - point - basis @ a, jac=lambda a: -basis),
        ],
        options=dict(maxiter=300, ftol=1e-12),
    )
    assert found.success
    return np.sqrt(2 * found.fun)


@pytest.mark.parametrize("row", [0, 11, 16])
@pytest.mark.parametrize("name", ["coffee", "noise"])
def test_windows_of_photographs_are_as_near_as_scipy_brings_them(row, name, search, cat):
    target = images.load("coffee") if name == "coffee" else torch.rand(cat.shape)
    cuts = [windows.unfold(search.geometry, image.double())[row, 13] for image in (target, cat)]
    found = nearest_in_box(*(window[None] for window in cuts), search.complement.T, ZERO, ONE)[0]
    best = scipys(*(window.numpy() for window in cuts), search.basis.numpy())
    assert float((found - cuts[0]).norm()) == pytest.approx(best, rel=1e-4)


@st.composite
def programs(draw):
    """Targets near and far, points inside, in corners and beside them, measurements that depend on each other."""
    n = draw(st.integers(2, 12))
    r = draw(st.integers(1, n - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    rows = torch.randn(r, n, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["generic", "whole numbers", "repeated", "sparse"]))
    rows = {
        "generic": rows,
        "whole numbers": rows.round(),
        "repeated": rows[torch.arange(r) // 2],
        "sparse": rows * (uniform(r, n) < 0.4),
    }[kind]
    points, some = uniform(3, n), uniform(3, n) < 0.5
    points = draw(
        st.sampled_from(
            [
                points,
                points.round(),
                torch.where(some, points.round(), points),
                torch.where(some, (points.round() - 1e-7).abs(), points),
            ]
        )
    )
    targets = draw(st.sampled_from([0.3, 1, 4, 300])) * torch.randn(3, n, generator=generator, dtype=torch.float64)
    return targets, points, rows, uniform(3, r), uniform(3, r)


def assert_valid(found, points, rows):
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found @ rows.T, points @ rows.T, atol=1e-13 * (1 + float(rows.norm())), rtol=0)


@settings(deadline=None, max_examples=100)
@given(programs(), st.sampled_from([projection._NEWTON_STEPS, 0]))
def test_random_programs_satisfy_the_conditions_of_optimality(program, newton_steps):
    targets, points, rows, *_ = program
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "_NEWTON_STEPS", newton_steps)
        found = nearest_in_box(targets, points, rows, ZERO, ONE)
    assert_valid(found, points, rows)
    for z, target in zip(found, targets, strict=True):
        assert downhill(z, target, rows) < 1e-7


@settings(deadline=None, max_examples=60)
@given(programs(), st.sampled_from([0.0, 1e-3, 1.0]))
def test_measurements_with_limits_move_between_them(program, room):
    targets, points, rows, choice, size = program
    low, high = points @ rows.T, points @ rows.T
    low = torch.where(choice < 0.3, -torch.inf, torch.where(choice > 0.7, low - room * size, low))
    high = torch.where(choice < 0.3, high + room * size, torch.where(choice > 0.7, torch.inf, high))
    found = nearest_in_box(targets, points, rows, ZERO, ONE, (low, high))
    assert found.min() >= 0 and found.max() <= 1
    measured, rounding = found @ rows.T, 1e-13 * (1 + float(rows.norm()))
    assert bool(((measured >= low - rounding) & (measured <= high + rounding)).all())
    for z, target, *limits in zip(found, targets, low, high, strict=True):
        assert downhill(z, target, rows, *limits) < 1e-7


def test_programs_do_not_depend_on_their_neighbours_or_on_the_size_of_a_chunk(monkeypatch):
    targets, points = torch.randn(2, 7, 9, dtype=torch.float64)
    points = points.sigmoid()
    points[::2] = points[::2].round()
    rows = torch.randn(4, 9, dtype=torch.float64)
    whole = nearest_in_box(targets, points, rows, ZERO, ONE)
    alone = [nearest_in_box(t[None], p[None], rows, ZERO, ONE) for t, p in zip(targets, points, strict=True)]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-9, rtol=0)
    for entries in (1, 3 * 36):  # of one program, and of three
        monkeypatch.setattr(projection, "_ENTRIES", entries)
        torch.testing.assert_close(nearest_in_box(targets, points, rows, ZERO, ONE), whole, atol=1e-9, rtol=0)


def test_without_measurements_the_nearest_point_is_the_clipped_target():
    targets, points = torch.randn(2, 5, 3, dtype=torch.float64)
    found = nearest_in_box(targets, points.sigmoid(), torch.zeros(0, 3, dtype=torch.float64), ZERO, ONE)
    assert torch.equal(found, targets.clamp(0, 1))
    assert nearest_in_box(targets[:0], points[:0], torch.ones(1, 3, dtype=torch.float64), ZERO, ONE).shape == (0, 3)


SATURATED = {
    "a white frame": ("frame", "flower"),
    "a white image": ("white", "flower"),
    "contrast 1.5": (1.5, "coffee"),
    "contrast 3": (3, "coffee"),
    "corners of the box": ("corners", "flower"),
    "a far target": (3, "far"),
}


@pytest.mark.parametrize("case", SATURATED)
def test_toward_finishes_on_saturated_photographs_and_far_targets(case, search, cat):
    # Some windows of a part of each photograph: what is asked of a window does not depend on how many there are.
    what, goal = SATURATED[case]
    part = (slice(None), slice(42, 126), slice(42, 126))
    image = ((cat - 0.5) * what + 0.5).clamp(0, 1) if isinstance(what, (int, float)) else torch.ones_like(cat)
    if what == "frame":
        image[:, 60:100, 60:100] = cat[:, 60:100, 60:100]
    if what == "corners":
        image = (torch.rand(cat.shape) > 0.5).float()
    target = 1000 * torch.randn(cat.shape) if goal == "far" else images.load(goal)
    cuts = [nn.functional.unfold(value[part][None].double(), 7, stride=7)[0].T[::5] for value in (target, image)]
    rows = search.complement.T
    found = nearest_in_box(*cuts, rows, ZERO, ONE)
    assert_valid(found, cuts[1], rows)
    for z, window in zip(found[::3], cuts[0][::3], strict=True):
        assert downhill(z, window, rows) < 1e-6


@pytest.mark.parametrize("target", ["coffee", "white", "noise", "outside"])
def test_toward_gives_a_valid_collision_nearer_to_the_target(target, patchnet, search, cat):
    goal = {
        "coffee": images.load("coffee"),
        "white": torch.ones_like(cat),
        "noise": torch.rand(cat.shape),
        "outside": search.collide(cat, search.random(), 2048),
    }[target]
    found = search.toward(cat, goal)
    assert found.dtype == torch.float64 and found.min() >= 0 and found.max() <= 1
    comparison = compare(patchnet, cat, found)
    assert comparison.changes["conv1"] < 1e-10
    assert comparison.collides_from == "conv1"
    assert (found - goal).norm() < (cat - goal).norm()


def test_toward_keeps_saturated_windows_valid(patchnet, search):
    image = torch.ones(3, 224, 224)
    image[:, 100:] = (torch.rand(3, 124, 224) > 0.5).float()
    found = search.toward(image, torch.full_like(image, 0.5))
    assert found.min() >= 0 and found.max() <= 1
    assert compare(patchnet, image, found).changes["conv1"] < 1e-10


def test_toward_is_the_projection_where_the_box_does_not_matter(search):
    image = 0.5 + 0.01 * torch.rand(3, 224, 224, dtype=torch.float64)
    target = image + 0.01 * torch.rand(3, 224, 224, dtype=torch.float64)
    change = nn.functional.unfold((target - image)[None], 7, stride=7)[0]
    projected = nn.functional.fold((search.basis @ search.basis.T @ change)[None], (224, 224), 7, stride=7)[0]
    torch.testing.assert_close(search.toward(image, target), image + projected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3, stride=4, padding=2),
        nn.Conv2d(3, 5, (2, 3), stride=(4, 5), dilation=2),
        nn.Conv2d(3, 6, 3, stride=3, groups=3),
        nn.Conv2d(3, 6, 3, stride=3),
    ],
    ids=["padded", "dilated", "grouped", "cut"],
)
def test_padding_gaps_and_groups(layer):
    model, shape = nn.Sequential(layer.double(), nn.ReLU()), (3, 13, 14)
    search = NullSpaceSearch(model, shape)
    image, target = torch.rand(2, *shape, dtype=torch.float64)
    found = search.toward(image, target)
    assert found.min() >= 0 and found.max() <= 1
    assert compare(model, image, found).changes["0"] < 1e-12
    # The whole layer as one matrix, and the nearest point by its conditions of optimality.
    units = torch.cat([torch.zeros(1, image.numel()), torch.eye(image.numel())]).double().view(-1, *shape)
    with torch.no_grad():
        responses = layer(units).flatten(1)
    dense = (responses[1:] - responses[0]).T
    assert downhill(found.flatten(), target.flatten(), dense) < 1e-9
    unseen = ~dense.any(0).view(shape)
    assert torch.equal(found[unseen], target[unseen])


def test_a_fully_connected_first_layer_has_one_large_window():
    model, shape = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 40), nn.ReLU()).double(), (3, 8, 8)
    image, target = torch.rand(2, *shape, dtype=torch.float64)
    found = NullSpaceSearch(model, shape).toward(image, target)
    assert found.min() >= 0 and found.max() <= 1
    assert compare(model, image, found).changes["1"] < 1e-12
    assert (found - target).norm() < (image - target).norm()


def test_overlapping_windows_are_treated_as_tiles():
    with pytest.warns(UserWarning, match="overlap"):
        search = NullSpaceSearch(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1)), (3, 11, 10))
    image, target = torch.rand(2, 3, 11, 10)
    found = search.toward(image, target)
    assert found.min() >= 0 and found.max() <= 1
    change = windows.unfold(search.geometry, found - image.double())
    torch.testing.assert_close(
        change @ (torch.eye(27) - search.basis @ search.basis.T), torch.zeros_like(change), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("beta", [8, 512, 8192])
def test_a_shrunk_perturbation_stays_valid_and_collides(beta, patchnet, search, cat):
    v = search.random()
    shrunk, kept = search.shrink(cat, v, beta)
    y = search.collide(cat, shrunk, beta)
    assert y.min() >= 0 and y.max() <= 1
    assert compare(patchnet, cat, y).collides_from == "conv1"
    norms = 255 * windows.unfold(search.geometry, y - cat.double()).norm(dim=-1)
    torch.testing.assert_close(norms, kept)
    # Each window keeps as much as it can: a thousandth more, and every window that gave up some leaves [0, 1].
    more = windows.unfold(search.geometry, cat + 1.001 * (y - cat.double()))
    outside = ((more < 0) | (more > 1)).any(-1)
    assert bool(outside[(kept < beta) & (kept > 1e-6)].all()) and kept.max() <= beta
    assert search.toward(y, cat).max() <= 1


def test_bad_images_and_targets_are_named(search, cat):
    for image, error, text in [
        (cat[:, :100], ValueError, r"must have shape \(3, 224, 224\), not \(3, 100, 224\)"),
        ((255 * cat).byte(), TypeError, "uint8"),
        (cat / 0, ValueError, "NaN or infinite"),
    ]:
        with pytest.raises(error, match="image.*" + text):
            search.toward(image, cat)
        with pytest.raises(error, match="target.*" + text):
            search.toward(cat, image)
    for method in (lambda image: search.toward(image, cat), lambda image: search.shrink(image, search.repeat(0), 8)):
        with pytest.raises(ValueError, match=r"\[0, 1\], not in \[.*, 1.5\]"):
            method(cat / cat.max() * 1.5)
