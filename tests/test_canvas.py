import io

import numpy as np
import pytest
import torch
from PIL import Image

from collide_utils.show import canvas


def drawn(changes, bound=1e-6, size=60):
    picture = canvas.pixels(torch.zeros(3, size, size), size)
    png = canvas.side_by_side([picture] * 3, ["a", "b", "c"], dict(enumerate(changes)), bound)
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(int)


def test_bars_are_as_high_as_the_logarithm_of_the_change():
    # One bar a picture, so that every column right of the axis shows it; seven powers of ten apart, twice.
    heights = [(drawn([change], 1e-17)[90:, 100] == 70).sum() for change in (1e-14, 1e-7, 1)]
    assert heights[0] > 0
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], abs=1)
    assert (drawn([0.0, float("inf")], 1e-3)[90:, 60] == 70).sum() == 1


def test_the_rounding_level_is_where_a_bar_of_that_height_ends():
    top = np.flatnonzero(drawn([1e-6], 1e-17)[90:, 100] == 70)[0]
    dots = np.flatnonzero((drawn([1e-16], 1e-6)[90:, 52:] == 0).sum(1) > 40)
    assert list(dots) == [top]


def test_pixels_are_clipped_grey_levels_enlarged_by_a_whole_number():
    picture = torch.tensor([[[-0.5, 0.5], [1.0, 7.0]]])
    expected = np.array([[0, 128], [255, 255]], np.uint8).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(canvas.pixels(picture, 5), np.stack([expected] * 3, -1))
