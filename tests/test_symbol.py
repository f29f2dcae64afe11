import copy
import itertools
import math
import re

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import layer_matrix
from torch import nn

from collide_utils import models, nullspace
from collide_utils.symbol import cell_nullity, image_nullity, quietest, residues, symbol


@st.composite
def convolutions(draw):
    """A small convolution without bias, and the size of a torus that its stride divides."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups, stride, dilation = draw(st.integers(1, 2)), draw(pairs), draw(pairs)
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    channels, rows = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 4))
    size = math.lcm(*stride) * draw(st.integers(1, 2 if max(stride) > 2 else 4))
    conv = nn.Conv2d(channels, rows, window, stride, 0, dilation, groups, bias=False).double()
    return conv, size


def circulant(conv, size):
    """The convolution on the torus as one matrix, entry by entry."""
    (rows, per_group, *window), weight = conv.weight.shape, conv.weight.detach().numpy()
    cells = [size // s for s in conv.stride]
    matrix = np.zeros((rows, *cells, conv.in_channels, size, size))
    for row, c, a, b in itertools.product(range(rows), range(per_group), *map(range, window)):
        channel = row // (rows // conv.groups) * per_group + c
        for i, j in itertools.product(*map(range, cells)):
            down, right = i * conv.stride[0] + a * conv.dilation[0], j * conv.stride[1] + b * conv.dilation[1]
            matrix[row, i, j, channel, down % size, right % size] += weight[row, c, a, b]
    return matrix.reshape(rows * cells[0] * cells[1], -1)


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_the_blocks_have_the_singular_values_of_the_circulant_matrix(case):
    conv, size = case
    blocks = symbol(conv, size)
    (height, width) = conv.stride
    assert blocks.shape == (size // height, size // width, conv.out_channels, conv.in_channels * height * width)
    ours = torch.linalg.svdvals(blocks).flatten().sort(descending=True).values.numpy()
    theirs = np.linalg.svd(circulant(conv, size), compute_uv=False)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * max(1, theirs[0]))


@settings(deadline=None, max_examples=40)
@given(convolutions())
def test_the_image_nullity_is_that_of_the_circulant_matrix(case):
    conv, size = case
    matrix = torch.from_numpy(circulant(conv, size))
    assert image_nullity(conv, size, rtol=1e-9) == matrix.shape[1] - nullspace.matrix_rank(matrix, rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(convolutions(), st.integers(0, 2**31))
def test_a_block_is_what_the_layer_does_to_a_wave_of_its_frequency(case, seed):
    conv, size = case
    (height, width), blocks = conv.stride, symbol(conv, size)
    rows, columns = blocks.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    u, v = (int(torch.randint(n, (), generator=generator)) for n in (rows, columns))
    cell = torch.randn(blocks.shape[-1], dtype=torch.complex128, generator=generator)
    turns = u / rows * torch.arange(rows).double()[:, None] + v / columns * torch.arange(columns).double()
    wave = torch.exp(2j * math.pi * turns)
    cells = (cell[:, None, None] * wave).view(conv.in_channels, height, width, rows, columns)
    pixels = cells.permute(0, 3, 1, 4, 2)
    response = torch.from_numpy(circulant(conv, size)).to(pixels) @ pixels.flatten()
    expected = (blocks[u, v] @ cell)[:, None, None] * wave
    torch.testing.assert_close(response.view_as(expected), expected)


def test_bounds_by_shape_are_met_with_equality_by_random_weights():
    # C_out ≥ C_in·s² leaves nothing; below that, the difference remains at every frequency.
    for channels, rows, window, stride in ((3, 64, 7, 2), (3, 11, 7, 2), (8, 3, 1, 1), (4, 6, 3, 2), (3, 20, 4, 4)):
        conv = nn.Conv2d(channels, rows, window, stride)
        assert image_nullity(conv, 16) == (16 // stride) ** 2 * max(0, channels * stride**2 - rows)


@pytest.mark.parametrize(
    ("conv", "touched", "per_cell"),
    [
        (nn.Conv2d(3, 64, 7, stride=2, dilation=2), 1, 9),  # 64 ≥ 3·2², and yet
        (nn.Conv2d(64, 128, 1, stride=2), 1, 192),
        (nn.Conv2d(3, 64, 7, stride=2, padding=3), 4, 0),
        (nn.Conv2d(3, 64, 7, stride=7), 49, 83),
        (nn.Conv2d(3, 8, (1, 3), stride=(3, 2), dilation=(1, 3)), 2, 12),
    ],
)
def test_pixels_that_windows_skip_are_null_dimensions(conv, touched, per_cell):
    assert residues(conv) == touched
    assert cell_nullity(conv) == cell_nullity(conv.to("meta")) == per_cell


@settings(max_examples=60)
@given(convolutions(), st.integers(0, 2))
def test_the_null_space_per_cell_is_that_of_the_torus(case, dead):
    conv, size = case
    if dead == 0:  # generic weights: the shape decides
        assert cell_nullity(conv) == cell_nullity(copy.deepcopy(conv).to("meta"))
    conv.weight.data[:dead] = 0
    matrix = torch.from_numpy(circulant(conv, size))
    cells = size**2 // math.prod(conv.stride)
    assert cells * cell_nullity(conv) == matrix.shape[1] - nullspace.matrix_rank(matrix, rtol=1e-9)


@settings(max_examples=60)
@given(st.data())
def test_each_cell_that_the_real_layer_gets_more_adds_its_null_space(data):
    groups, inputs, outputs, window, stride, dilation = (data.draw(st.integers(1, 3)) for _ in range(6))
    transposed = data.draw(st.booleans())
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    padding = 0 if transposed else data.draw(st.integers(0, 2))
    layer = kind(
        groups * inputs, groups * outputs, window, stride, padding, dilation=dilation, groups=groups, bias=False
    ).double()
    touched = residues(layer)
    # Square blocks have null vectors up to an error that falls with the size: waves along the border.
    assume(inputs != outputs * touched if transposed else outputs != inputs * touched)
    cell = 1 if transposed else stride
    places = 24 * cell
    few, more = (nullspace.nullity(layer_matrix(layer, (layer.in_channels, n)), 1e-10) for n in (places, places + cell))
    assert cell_nullity(layer) == cell_nullity(copy.deepcopy(layer).to("meta")) == more - few


@pytest.mark.parametrize(
    ("flat", "deep"),
    [
        (nn.Conv1d, nn.Conv2d),
        (nn.Conv2d, nn.Conv3d),
        (nn.ConvTranspose1d, nn.ConvTranspose2d),
        (nn.ConvTranspose2d, nn.ConvTranspose3d),
    ],
)
def test_an_axis_of_one_pixel_changes_nothing(flat, deep):
    axes = 2 if flat in (nn.Conv2d, nn.ConvTranspose2d) else 1
    layer, twin = (
        kind(6, 4, window, stride, groups=2)
        for kind, window, stride in ((flat, (3,) * axes, (2,) * axes), (deep, (3,) * axes + (1,), (2,) * axes + (1,)))
    )
    layer.weight.data[:2] = 0
    twin.weight.data = layer.weight.data[..., None]
    assert residues(layer) == residues(twin) == 2**axes
    assert cell_nullity(layer) == cell_nullity(twin) > cell_nullity(copy.deepcopy(layer).to("meta"))


def test_sizes_that_are_no_multiple_of_the_stride_belong_to_a_torus_of_whole_cells():
    conv = nn.Conv2d(3, 5, 3, stride=(2, 3), padding=1)
    assert torch.equal(symbol(conv, (9, 10)), symbol(conv, (10, 12)))
    assert symbol(conv, (9, 10)).shape == (5, 4, 5, 18)
    assert image_nullity(conv, (9, 10)) == 5 * 4 * (18 - 5)


def test_the_tolerance_follows_the_dtype_of_the_weight():
    conv = nn.Conv2d(2, 3, 1)
    conv.weight.data = torch.tensor([[1.0, 0], [0, 1e-8], [0, 0]])[:, :, None, None]
    assert (image_nullity(conv, 4), image_nullity(conv.double(), 4)) == (16, 0)


def stem():
    torch.manual_seed(3)
    return torchvision.models.resnet18(weights=None).conv1


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (stem(), (3, 20, 20)),
        (models.load("stridenet").conv1, (3, 21, 18)),
        (nn.Conv2d(2, 16, 3, stride=2, padding=1), (2, 25, 27)),
        (nn.Conv2d(3, 24, 3, padding=1), (3, 14, 14)),
        (nn.Conv2d(3, 24, (2, 4), stride=(1, 2), padding=(1, 0)), (3, 17, 20)),
        (nn.Conv2d(4, 24, 3, padding="same", dilation=2, groups=2), (4, 14, 14)),
        (nn.Conv2d(2, 24, 4, stride=2, padding=1), (2, 22, 19)),
    ],
    ids=["resnet", "stridenet, odd", "odd, from half the size", "vgg", "rectangular", "grouped and dilated", "even"],
)
def test_the_quietest_are_the_last_singular_vectors_of_the_padded_layer(conv, shape):
    matrix = layer_matrix(conv, shape)
    exact = torch.linalg.eigvalsh(matrix.T @ matrix)[:4].sqrt()
    gains, found = quietest(conv, shape[1:], 4)
    assert found.shape == (4, *shape)
    flat = found.flatten(1).T
    torch.testing.assert_close(flat.T @ flat, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close((matrix @ flat).norm(dim=0), gains)
    torch.testing.assert_close(gains, exact, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 2, 1),
        nn.Conv2d(3, 20, 7, stride=7),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Conv2d(3, 64, 7, stride=2),
        nn.Conv2d(3, 64, 5, stride=2, dilation=2),
    ],
    ids=["narrowing", "patches", "stride 2", "unpadded, so the last pixels are unseen", "skipped pixels"],
)
@pytest.mark.parametrize("size", [28, (26, 30)])
def test_null_vectors_are_found_where_there_are_any(conv, size):
    gains, found = quietest(conv, size, 3)
    assert torch.linalg.matrix_rank(found.flatten(1)) == 3
    assert gains.max() < 1e-10


def test_half_the_size_is_only_a_start():
    # The quietest of the larger image is no louder than that of the smaller one, which fits into its corner.
    conv = stem()
    small, large = quietest(conv, 28)[0], quietest(conv, 56)[0]
    assert large <= small * 1.002


@pytest.mark.parametrize("name", ["resnet", "stridenet"])
def test_a_tiled_null_vector_of_the_weight_vanishes_on_a_lattice_only(name):
    conv = stem().double() if name == "resnet" else models.load("stridenet", dtype=torch.float64).conv1
    vectors = nullspace.null_space(conv.weight.flatten(1)).T.view(-1, 3, 7, 7)
    with (
        torch.no_grad()
    ):  # of 21 windows, 2·7 that do not reach into the padding: four times all that such a tile makes
        responses = conv(vectors.repeat(1, 1, 6, 6))[:, :, 2:16, 2:16].norm(dim=1)
    zero = torch.tensor([(2 * i - 3) % 7 == 0 for i in range(2, 16)])
    assert int(zero.sum()) == 2
    for response in responses:
        torch.testing.assert_close(response < 1e-12 * response.max(), zero[:, None] & zero)
    # The tiles lie on a torus of 14 pixels, where the symbol says what is possible. A trained stem responds most to
    # coarse patterns, which noise has and null vectors have not: on the average they are a third as loud as noise.
    gains = responses.flatten(1).norm(dim=1) / math.sqrt(4 * 4)  # 4·4 tiles of unit norm
    possible = torch.linalg.svdvals(symbol(conv, 14))
    assert possible.min() <= gains.min() and gains.max() <= possible.max()
    noise = conv.weight.norm() / math.sqrt(3 * 4)  # ‖A‖_F² / N: each weight is used once per 2×2 cell of 3 channels
    assert noise / 5 < gains.square().mean().sqrt() < 2 * noise


def test_bad_arguments_are_named():
    conv = nn.Conv2d(3, 4, 3, stride=(1, 2))
    for call in (symbol, image_nullity, quietest):
        for size in (8.0, 0, (8, -1), (8, 8, 8), "8", None):
            with pytest.raises(ValueError, match=re.escape(f"a height and a width, not {size!r}")):
                call(conv, size)
        with pytest.raises(ValueError, match="not a Linear"):
            call(nn.Linear(3, 4), 8)
        with pytest.raises(ValueError, match="must be real, not torch.complex64"):
            call(nn.Conv2d(3, 4, 3, dtype=torch.complex64), 8)
    for k in (0, 193, 1.0):
        with pytest.raises(ValueError, match=f"from 1 to 192, not {k}"):
            quietest(conv, 8, k)
    with pytest.raises(ValueError, match="circular"):
        quietest(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), 8)
    for rtol in (-1, 1.0, math.nan):
        for call in (cell_nullity, lambda conv, rtol: image_nullity(conv, 8, rtol)):
            with pytest.raises(ValueError, match="rtol must be"):
                call(conv, rtol)
    nn.init.constant_(conv.weight, math.nan)
    with pytest.raises(ValueError, match="NaN"):
        symbol(conv, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_have_the_null_space_of_their_shape(dtype):
    conv = nn.Conv2d(16, 512, 3, stride=2).to(dtype)
    assert image_nullity(conv, 8) == cell_nullity(conv) == 0
    narrow = nn.Conv2d(16, 4, 3).to(dtype)
    assert (image_nullity(narrow, 8), cell_nullity(narrow)) == (8 * 8 * 12, 12)
