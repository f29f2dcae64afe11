"""Networks of every kind that a reader may bring; what they are is in ``kinds.py``."""

import math

import kinds
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import layers
from torch import nn

from collide_utils import nullspace, weights, windows

PAGE = kinds.PAGE.read_text(encoding="utf-8")
SEARCHED = [words for words in kinds.KINDS if f"| {words} | refused |" not in PAGE]


def test_the_page_says_what_happens():
    assert kinds.page() == PAGE, "run python tests/kinds.py and look at what it changes"


def change(model, first, second):
    """The relative change of the model's answer."""
    with torch.no_grad():
        first, second = (model(image.clone()[None]) for image in (first, second))
    return float((second - first).norm() / first.norm())


@pytest.mark.parametrize("words", SEARCHED)
def test_images_collide_where_the_page_says_so(words):
    (model, shape), (search, text) = kinds.build(words), kinds.search(words)
    model, generator = model.double(), torch.Generator().manual_seed(1)
    image, target = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    v = search.random(generator)
    inside = search.collide(image, search.shrink(image, v, 2048)[0], 2048)
    outside = search.collide(image, v, 2048)
    colliding = [inside, search.toward(image, target)]
    if not text:
        colliding += [outside, search.seen(image)]
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    for other in colliding:
        assert (change(model, image, other) < 1e-12) != search.geometry.overlapping
        assert change(model, image, image + noise * (other - image).norm() / noise.norm()) > 1e-4
    if text:
        assert change(model, image, outside) > 1e-3


@pytest.mark.parametrize(
    "words", [words for chapter in ("Windows that do not overlap", "Other images") for words in kinds.CHAPTERS[chapter]]
)
def test_nothing_of_the_null_space_is_missed(words):
    # What pixels do to the output of the first layer, as one matrix: brute force.
    (model, shape), (search, _) = kinds.build(words), kinds.search(words)
    seen, units = [], torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    model.double().get_submodule(search.layer.name).register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(torch.cat([0 * units[:1], units]))
    responses = seen[0].reshape(len(units) + 1, -1)
    rank = nullspace.matrix_rank(responses[1:] - responses[0], 1e-12)
    whole = (search.geometry.places >= 0).all(-1)
    assert rank == search.complement.shape[1] * int(whole.sum()) or not whole.all()
    assert rank >= search.complement.shape[1] * int(whole.sum())


class Gathers(nn.Module):
    """A Linear on windows, whose entries it reads and scales in an order of its own."""

    def __init__(self, places, order, scale, rows):
        super().__init__()
        self.places, self.scale = places[:, order], scale
        self.linear = nn.Linear(places.shape[1], rows)

    def forward(self, x):
        return self.linear(self.scale * x.flatten(1)[:, self.places] + 0.5)


@settings(deadline=None)
@given(layers(separate=True), st.integers(0, 2**31))
def test_windows_are_found_by_what_they_read(case, seed):
    (layer, shape), generator = case, torch.Generator().manual_seed(seed)
    layer.padding = (0, 0)
    geometry = windows.geometry(layer, shape)
    places = geometry.places.flatten(0, -2)
    places = places[torch.randperm(len(places), generator=generator)]
    order = torch.randperm(places.shape[1], generator=generator)
    scale = 0.1 + torch.rand(places.shape[1], generator=generator, dtype=torch.float64)
    model = Gathers(places, order, scale, 3).double()
    found, matrix = windows.pixel_weight(model, weights.first_weight(model, shape), shape)
    assert sorted(found.places.flatten(0, -2).tolist()) == sorted(places.tolist())
    image = torch.rand(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image[None])[0] - model(0 * image[None])[0]
    answers = windows.unfold(found, image).flatten(0, -2) @ matrix.T
    # Windows may be numbered in another order, and are told by their first pixel.
    answers = answers[found.places.flatten(0, -2)[:, 0].argsort()]
    torch.testing.assert_close(answers, expected[places[:, 0].argsort()])
