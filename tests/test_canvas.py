import io

import numpy as np
import pytest
import torch
from PIL import Image

from collide_utils.show import canvas


def drawn(changes, bound=1e-17, before=()):
    cells = [
        (canvas.pixels(torch.full((3, 60, 60), place / 4), 60), (f"picture {place}", "cat, p = 0.999"))
        for place in range(4)
    ]
    bytes_ = canvas.board(cells, before, {f"layer {place}": change for place, change in enumerate(changes)}, bound)
    return np.asarray(Image.open(io.BytesIO(bytes_)).convert("RGB")).astype(int)


def chart(*args, **options):
    """The part in which the bars are: without pictures, names and words."""
    return drawn(*args, **options)[22 : -canvas._FOOT, 2 * (60 + canvas._GAP) + canvas._NAMES :]


def bars(image, colour=canvas._LAYER):
    """The lengths of the bars in pixels, from the top."""
    lengths = (image == colour).all(2).sum(1)
    starts = np.flatnonzero((lengths > 0) & (np.roll(lengths, 1) == 0))
    return [int(lengths[start]) for start in starts]


def test_bars_are_as_long_as_the_logarithm_of_the_change():
    short, middle, long = bars(chart([1e-14, 1e-7, 1]))
    assert short > 0 and long - middle == pytest.approx(middle - short, abs=1)
    assert bars(chart([0.0, float("inf")]))[0] == 1


def test_what_comes_before_the_layer_of_collision_is_set_apart():
    image = chart([1, 1e-7, 1e-7], before=["layer 0"])
    assert len(bars(image, canvas._INPUT)) == 1 and len(bars(image)) == 2
    tops = [np.flatnonzero((image == colour).all(2).any(1)) for colour in (canvas._INPUT, canvas._LAYER)]
    close = np.flatnonzero((chart([1, 1e-7, 1e-7]) == canvas._LAYER).all(2).any(1))
    assert tops[1][0] - tops[0][-1] > np.diff(close).max()


def test_the_rounding_level_is_where_a_bar_of_that_length_ends():
    dots = np.flatnonzero((chart([1e-17], 1e-6)[:, 9:] == 0).all(2).any(0))
    end = np.flatnonzero((chart([1e-6])[:, 9:] == canvas._LAYER).all(2).any(0))[-1]
    assert abs(dots.mean() - end) <= 1


def test_pictures_stand_in_two_columns_as_they_are_even_with_many_layers():
    image = drawn([1e-3] * 200)
    gap, words = canvas._GAP, canvas._WORDS
    for place, corner in enumerate(((0, 0), (0, 60 + gap), (60 + words, 0), (60 + words, 60 + gap))):
        part = image[corner[0] : corner[0] + 60, corner[1] : corner[1] + 60]
        assert (part == round(255 * place / 4)).all()


def test_pixels_are_clipped_grey_levels_enlarged_by_a_whole_number():
    picture = torch.tensor([[[-0.5, 0.5], [1.0, 7.0]]])
    expected = np.array([[0, 128], [255, 255]], np.uint8).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(canvas.pixels(picture, 5), np.stack([expected] * 3, -1))
