import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collide_utils import nullspace, windows


@st.composite
def layers(draw, separate=False):
    """A small convolution with more columns than rows and an image shape that it fits."""
    channels = draw(st.integers(1, 3))
    window = draw(st.tuples(st.integers(1, 4), st.integers(2, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    span = [d * (w - 1) + 1 for d, w in zip(dilation, window, strict=True)]
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    stride = [s + draw(st.integers(0, 2)) for s in span] if separate else draw(st.tuples(*2 * [st.integers(1, 5)]))
    size = [s + draw(st.integers(0, 9)) for s in span]
    rows = draw(st.integers(1, channels * window[0] * window[1] - 1))
    layer = nn.Conv2d(channels, rows, window, tuple(stride), padding, dilation, bias=False).double()
    return layer, (channels, *size)


def dense(layer, shape):
    """The layer as one matrix, column by column: brute force."""
    unit = torch.eye(shape[0] * shape[1] * shape[2], dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return layer(unit).flatten(1).T


@settings(deadline=None)
@given(layers(separate=True), st.integers(0, 2**31))
def test_tiles_of_null_vectors_vanish_under_the_dense_layer(case, seed):
    layer, shape = case
    geometry = windows.geometry(layer, shape)
    assert not geometry.overlapping
    basis = nullspace.null_space(layer.weight.detach().flatten(1))
    choice = torch.randint(basis.shape[1], geometry.grid, generator=torch.Generator().manual_seed(seed))
    image = windows.tile(geometry, basis.T[choice])
    assert image.shape == shape
    response = dense(layer, shape) @ image.flatten()
    assert response.abs().max() < 1e-13


@settings(deadline=None)
@given(layers())
def test_windows_overlap_exactly_where_a_pixel_is_seen_twice(case):
    layer, shape = case
    ones = nn.Conv2d(1, 1, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False).double()
    nn.init.ones_(ones.weight)
    seen = dense(ones, (1, *shape[1:])).sum(0)
    assert windows.geometry(layer, shape).overlapping == bool(seen.max() > 1)


@settings(deadline=None)
@given(layers(), st.integers(0, 2**31))
def test_unfold_reads_and_fold_writes_the_pixels_of_each_window(case, seed):
    # Both by loops over the pixels that the axes list.
    layer, (channels, height, width) = case
    geometry = windows.geometry(layer, (channels, height, width))
    rows, columns = (axis.ranges for axis in geometry.axes)
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    strides, reach = layer.stride, [d * (w - 1) for d, w in zip(layer.dilation, layer.kernel_size, strict=True)]
    assert [pixels[0] for pixels in rows] == [i * strides[0] - layer.padding[0] for i in range(len(rows))]
    assert all(pixels[-1] - pixels[0] == reach[1] for pixels in columns)
    assert (len(rows), len(columns)) == layer(torch.zeros(1, *geometry.shape, dtype=torch.float64)).shape[2:]
    if geometry.overlapping:
        h, w = geometry.window
        rows, columns = ([range(i, i + n, 1) for i in range(0, size, n)] for n, size in ((h, height), (w, width)))
    cut = windows.unfold(geometry, image)
    assert cut.shape[:2] == geometry.grid == (len(rows), len(columns))
    seen = torch.zeros_like(image)
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        for entry, (channel, y, x) in enumerate(itertools.product(range(channels), rows[i], columns[j])):
            inside = 0 <= y < height and 0 <= x < width
            assert cut[i, j, entry] == (image[channel, y, x] if inside else 0)
            if inside:
                seen[channel, y, x] = 1
    assert torch.equal(windows.fold(geometry, cut), image * seen)


@settings(deadline=None)
@given(layers(separate=True))
def test_tile_is_the_inverse_of_cutting_into_windows(case):
    layer, shape = case
    layer.padding = (0, 0)
    geometry = windows.geometry(layer, shape)
    image = torch.randn(shape, dtype=torch.float64)
    where = dict(kernel_size=layer.kernel_size, stride=layer.stride, dilation=layer.dilation)
    cut = nn.functional.unfold(image[None], **where)[0]
    tiled = windows.tile(geometry, cut.T.reshape(*geometry.grid, -1))
    torch.testing.assert_close(nn.functional.unfold(tiled[None], **where)[0], cut)


def test_overlapping_tiles_repeat_with_the_period_of_the_window():
    geometry = windows.geometry(nn.Conv2d(3, 64, 7, stride=2, padding=3), (3, 30, 17))
    assert geometry.overlapping and geometry.grid == (5, 3)
    image = windows.tile(geometry, torch.randn(147).expand(5, 3, -1))
    assert image.shape == (3, 30, 17)
    assert torch.equal(image[:, 7:], image[:, :-7]) and torch.equal(image[:, :, 7:], image[:, :, :-7])


def test_a_linear_layer_has_one_window():
    geometry = windows.geometry(nn.Linear(24, 5), (2, 3, 4))
    assert not geometry.overlapping
    image = torch.randn(2, 3, 4)
    assert torch.equal(windows.tile(geometry, image.view(1, 1, 24)), image)


def test_same_padding_is_that_of_the_layer():
    layer = nn.Conv2d(1, 1, 3, padding="same")
    assert windows.geometry(layer, (1, 6, 6)).padding == (1, 1)
    assert windows.geometry(nn.Conv2d(1, 1, 3, padding="valid"), (1, 6, 6)).padding == (0, 0)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (nn.Conv3d(3, 4, 2), (3, 8, 8), "Conv3d"),
        (nn.Conv2d(3, 4, 2), (1, 8, 8), "3 channels"),
        (nn.Conv2d(3, 4, 9), (3, 8, 8), "no window"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 8, 8), "reflect"),
        (nn.Conv2d(3, 4, 2, padding="same"), (3, 8, 8), "even window"),
        (nn.Linear(10, 3), (3, 8, 8), "10 inputs"),
    ],
)
def test_layers_without_a_geometry_are_named(layer, shape, text):
    with pytest.raises(ValueError, match=text):
        windows.geometry(layer, shape)


def test_a_wrong_number_of_windows_is_named():
    geometry = windows.geometry(nn.Conv2d(3, 4, 7, stride=7), (3, 28, 28))
    with pytest.raises(ValueError, match=r"\(4, 4, 147\).*not \(3, 4, 147\)"):
        windows.tile(geometry, torch.zeros(3, 4, 147))
