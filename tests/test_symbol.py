import itertools
import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collide_utils import models, nullspace
from collide_utils.symbol import image_nullity, quietest, symbol


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


def padded(conv, size):
    """The layer as it is, without its bias, as one matrix: brute force."""
    twin = nn.utils.skip_init(nn.Conv2d, conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,
                              conv.padding, conv.dilation, conv.groups, bias=False).double()
    twin.weight.data = conv.weight.data.double()
    units = torch.eye(conv.in_channels * size**2, dtype=torch.float64).view(-1, conv.in_channels, size, size)
    with torch.no_grad():
        return twin(units).flatten(1).T


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


def test_the_tolerance_follows_the_dtype_of_the_weight():
    conv = nn.Conv2d(2, 3, 1)
    conv.weight.data = torch.tensor([[1.0, 0], [0, 1e-8], [0, 0]])[:, :, None, None]
    assert (image_nullity(conv, 4), image_nullity(conv.double(), 4)) == (16, 0)


def stem():
    torch.manual_seed(3)
    return torchvision.models.resnet18(weights=None).conv1


@pytest.mark.parametrize(("conv", "size"), [
    (stem(), 28),
    (models.load("stridenet").conv1, 28),
    (nn.Conv2d(3, 24, 3, padding=1), 24),
    (nn.Conv2d(3, 24, (2, 4), stride=(1, 2), padding=(1, 0)), 20),
    (nn.Conv2d(4, 24, 3, padding="same", dilation=2, groups=2), 20),
    (nn.Conv2d(2, 24, 4, stride=2, padding=1), 28),
], ids=["resnet", "stridenet", "vgg", "rectangular", "grouped and dilated", "even"])
def test_the_quietest_are_the_last_singular_vectors_of_the_padded_layer(conv, size):
    matrix = padded(conv, size)
    exact = torch.linalg.eigvalsh(matrix.T @ matrix)[:4].sqrt()
    gains, found = quietest(conv, size, 4)
    flat = found.flatten(1).T
    torch.testing.assert_close(flat.T @ flat, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close((matrix @ flat).norm(dim=0), gains)
    torch.testing.assert_close(gains, exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("conv", [
    nn.Conv2d(8, 2, 1), nn.Conv2d(3, 20, 7, stride=7), nn.Conv2d(8, 16, 3, stride=2, padding=1),
    nn.Conv2d(3, 64, 7, stride=2),
], ids=["narrowing", "patches", "stride 2", "unpadded, so the last pixels are unseen"])
def test_null_vectors_are_found_where_there_are_any(conv):
    gains, found = quietest(conv, 28, 3)
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
    zero = [(2 * i - 3) % 7 == 0 for i in range(112)]
    inside = slice(2, 110)  # windows that do not reach into the padding
    lattice = torch.tensor(zero)[:, None] & torch.tensor(zero)
    assert sum(zero[inside]) in (15, 16)
    noise = conv.weight.norm() / math.sqrt(3 * 4)  # ‖A‖_F² / N: each weight is used once per 2×2 cell of 3 channels
    for vector in vectors[::20]:
        tiled = vector.repeat(1, 32, 32)
        with torch.no_grad():
            response = conv(tiled[None])[0].norm(dim=0)[inside, inside]
        gain = response.norm() / tiled[:, 4:220, 4:220].norm()
        assert noise / 3 < gain < 3 * noise
        torch.testing.assert_close(response < 1e-12 * response.max(), lattice[inside, inside])


def test_bad_arguments_are_named():
    conv = nn.Conv2d(3, 4, 3, stride=(1, 2))
    for call in (symbol, image_nullity, quietest):
        with pytest.raises(ValueError, match=r"multiple of the stride \(1, 2\), not 7"):
            call(conv, 7)
        with pytest.raises(ValueError, match="not 8.0"):
            call(conv, 8.0)
        with pytest.raises(ValueError, match="not 0"):
            call(conv, 0)
        with pytest.raises(ValueError, match="not a Linear"):
            call(nn.Linear(3, 4), 8)
    for k in (0, 193, 1.0):
        with pytest.raises(ValueError, match=f"from 1 to 192, not {k}"):
            quietest(conv, 8, k)
    with pytest.raises(ValueError, match="circular"):
        quietest(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), 8)
    for rtol in (-1, 1.0, math.nan):
        with pytest.raises(ValueError, match="rtol must be"):
            image_nullity(conv, 8, rtol)
    nn.init.constant_(conv.weight, math.nan)
    with pytest.raises(ValueError, match="NaN"):
        symbol(conv, 8)
