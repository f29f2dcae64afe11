import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import nn

from collide_utils import images, nullspace, projection, windows
from collide_utils.comparison import compare
from collide_utils.projection import nearest_in_box
from collide_utils.search import NullSpaceSearch

ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def scipys(target, point, basis):
    """The same program in the coordinates of the null space, by SLSQP."""
    shift = point - target
    found = minimize(lambda a: 0.5 * np.sum((shift + basis @ a)**2), np.zeros(basis.shape[1]),
                     jac=lambda a: basis.T @ (shift + basis @ a), method="SLSQP",
                     constraints=[dict(type="ineq", fun=lambda a: point + basis @ a, jac=lambda a: basis),
                                  dict(type="ineq", fun=lambda a: 1 - point - basis @ a, jac=lambda a: -basis)],
                     options=dict(maxiter=300, ftol=1e-12))
    assert found.success
    return np.sqrt(2 * found.fun)


def assert_optimal(z, target, point, matrix):
    """z is nearest if and only if no other valid point lies downhill of it: a linear program, which HiGHS solves."""
    gradient = (z - target).numpy()
    best = linprog(gradient, A_eq=matrix.numpy(), b_eq=(matrix @ point).numpy(), bounds=(0, 1), method="highs")
    assert best.status == 0
    assert float(gradient @ z.numpy()) - best.fun < 1e-6 * (1 + abs(best.fun))


@pytest.mark.parametrize("row", [0, 11, 16])
@pytest.mark.parametrize("name", ["coffee", "noise"])
def test_windows_of_photographs_are_as_near_as_scipy_brings_them(row, name, search, cat):
    target = images.load("coffee") if name == "coffee" else torch.rand(cat.shape)
    cuts = [windows.unfold(search.geometry, image.double())[row, 13] for image in (target, cat)]
    rows = nullspace.null_space(search.basis.T)
    found = nearest_in_box(*(window[None] for window in cuts), rows, ZERO, ONE)[0]
    best = scipys(*(window.numpy() for window in cuts), search.basis.numpy())
    assert float((found - cuts[0]).norm()) == pytest.approx(best, rel=1e-4)


@st.composite
def programs(draw):
    n = draw(st.integers(2, 12))
    r = draw(st.integers(1, n - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64)).Q
    points = torch.rand(3, n, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        points = points.round()  # corners of the box: often nothing else is allowed
    targets = torch.randn(3, n, generator=generator, dtype=torch.float64)
    return draw(st.sampled_from([0.3, 1, 4])) * targets, points, rows


@settings(deadline=None, max_examples=40)
@given(programs())
def test_random_programs_satisfy_the_conditions_of_optimality(program):
    targets, points, rows = program
    found = nearest_in_box(targets, points, rows, ZERO, ONE)
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found @ rows, points @ rows, atol=1e-11, rtol=0)
    for z, t, x in zip(found, targets, points, strict=True):
        assert_optimal(z, t, x, rows.T)


def test_what_does_not_converge_is_an_error(monkeypatch, search, cat):
    monkeypatch.setattr(projection, "_STEPS", 1)
    with pytest.raises(RuntimeError, match="in 1 Newton steps"):
        search.toward(cat, 1 - cat)


@pytest.mark.parametrize("target", ["coffee", "white", "noise", "outside"])
def test_toward_gives_a_valid_collision_nearer_to_the_target(target, patchnet, search, cat):
    goal = {"coffee": images.load("coffee"), "white": torch.ones_like(cat), "noise": torch.rand(cat.shape),
            "outside": search.collide(cat, search.random(), 2048)}[target]
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


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 6, 3, stride=4, padding=2), nn.Conv2d(3, 5, (2, 3), stride=(4, 5), dilation=2),
    nn.Conv2d(3, 6, 3, stride=3, groups=3), nn.Conv2d(3, 6, 3, stride=3)], ids=["padded", "dilated", "grouped", "cut"])
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
    assert_optimal(found.flatten(), target.flatten(), image.flatten(), dense)
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
    torch.testing.assert_close(change @ (torch.eye(27) - search.basis @ search.basis.T), torch.zeros_like(change),
                               atol=1e-12, rtol=0)


@pytest.mark.parametrize("beta", [8, 512, 8192])
def test_a_shrunk_perturbation_stays_valid_and_collides(beta, patchnet, search, cat):
    v = search.random()
    shrunk, kept = search.shrink(cat, v, beta)
    y = search.collide(cat, shrunk, beta)
    assert y.min() > -1e-15 and y.max() < 1 + 1e-15
    assert compare(patchnet, cat, y).collides_from == "conv1"
    norms = 255 * windows.unfold(search.geometry, y - cat.double()).norm(dim=-1)
    torch.testing.assert_close(norms, kept)
    # Each window keeps as much as it can: a thousandth more, and every window that gave up some leaves [0, 1].
    more = windows.unfold(search.geometry, cat + 1.001 * (y - cat.double()))
    outside = ((more < 0) | (more > 1)).any(-1)
    assert bool(outside[(kept < beta) & (kept > 1e-6)].all()) and kept.max() <= beta


def test_bad_images_and_targets_are_named(search, cat):
    for image, error, text in [
        (cat[:, :100], ValueError, r"must have shape \(3, 224, 224\), not \(3, 100, 224\)"),
        ((255 * cat).byte(), TypeError, "uint8"), (cat / 0, ValueError, "NaN or infinite"),
    ]:
        with pytest.raises(error, match="image.*" + text):
            search.toward(image, cat)
        with pytest.raises(error, match="target.*" + text):
            search.toward(cat, image)
    for method in (lambda image: search.toward(image, cat), lambda image: search.shrink(image, search.repeat(0), 8)):
        with pytest.raises(ValueError, match=r"\[0, 1\], not in \[.*, 1.5\]"):
            method(cat / cat.max() * 1.5)
