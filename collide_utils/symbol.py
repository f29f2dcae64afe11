"""The null space of a convolution as a layer, on whole images: its symbol and its quietest perturbations.

On a torus, where an image goes on at the opposite edge, a convolution of stride s commutes with shifts by s pixels, so
the Fourier basis makes it block-diagonal. The blocks are its *symbol* (Sedghi, Gupta & Long, "The Singular Values of
Convolutional Layers", 2019, for stride 1). Cut the image into cells of s × s pixels. With dilation d, entry t of the
window sees pixel d·t mod s of the cell that lies d·t div s further on, so at frequency θ the block is

    S(θ)[o, (c, p)] = Σ w[o, c, t] · exp(i θ · (d·t div s))    over all t with d·t mod s = p.

It has C_out rows and C_in·s² columns, those of pixels p that no t reaches being zero. Real layers pad with zeros
instead of going round; :func:`quietest` runs the layer itself.
"""

import math
import operator

import torch
import torch.nn.functional as F
from torch import nn

from collide_utils import nullspace, windows

_MAX_STEPS = 300
_SETTLED, _NEGLIGIBLE = 1e-3, 1e-12  # of a gain, and of the largest gain: a step that lowers gains by less is the last
_SPARE = 4  # vectors beside the k that are asked for: they take the neighbours' part of the error
_SHIFT = 1e-3  # of the largest eigenvalue of the torus's AᵀA
_SMALLEST_START = 4  # windows side by side


def symbol(conv, size):
    """Return the blocks of a Conv2d on a torus of `size` pixels, as a complex128 tensor.

    Its shape is ``(H/s_h, W/s_w, C_out, C_in·s_h·s_w)`` with the stride (s_h, s_w): one block per frequency of the
    output; one column per channel and pixel within a cell of the stride (the order of ``pixel_unshuffle``). All blocks'
    singular values together are those of the convolution. Padding only shifts the torus and is left out.

    `size` is the height and width, or one number for both. A torus consists of whole cells: what is not a multiple of
    the stride is rounded up to one. The weight is taken as it is: where a network normalises its images, divide the
    weight by each channel's standard deviation first. ValueError if `conv` is not a Conv2d with finite real weights, or
    `size` not positive and whole.
    """
    cells = [-(-n // s) for n, s in zip(_check(conv, size), conv.stride, strict=True)]
    blocks = _blocks(conv, [2 * math.pi / n * torch.arange(n, dtype=torch.float64) for n in cells])
    return blocks.permute(2, 4, 0, 1, 3, 5).flatten(3)


def image_nullity(conv, size, rtol=None):
    """Return the dimension of the images that the convolution maps to zero on the torus of :func:`symbol`.

    A singular value of the symbol counts as zero when it is at most `rtol` times the largest of all blocks; the default
    is that of :mod:`~collide_utils.nullspace` for one block. Errors as in :func:`symbol`.
    """
    blocks = symbol(conv, size)
    if rtol is None:
        rtol = nullspace.default_rtol(max(blocks.shape[-2:]), conv.weight.dtype)
    elif not 0 <= rtol < 1:
        raise ValueError(f"rtol must be a number in [0, 1), not {rtol!r}")
    singular = torch.linalg.svdvals(blocks)
    return blocks.shape[:2].numel() * blocks.shape[-1] - int((singular > rtol * singular.max()).sum())


def residues(conv):
    """Return how many of the s_h·s_w pixels of a cell the windows of a convolution touch at all.

    Along an axis with window w, stride s and dilation d, those are the different d·t mod s for t < w, and there are
    min(w, s / gcd(s, d)): all s unless the window is shorter than the stride or its dilation skips pixels.
    """
    return math.prod(
        min(w, s // math.gcd(s, d)) for w, s, d in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    )


def cell_nullity(conv, rtol=None):
    """Return how many dimensions the null space of a convolution, as a layer on images, has per cell of its stride.

    That is C_in·s² minus the rank of the symbol at a frequency that is special to no layer. Its null vectors depend on
    the frequency in a polynomial way, so they make null images of a few cells each, which the zero-padded layer has as
    well, wherever they fit. A 1d, 2d or 3d convolution is meant, or a transposed one, whose cell is one input pixel.

    Without weights (on the meta device) it is what generic ones give: C_in·s² − groups · min(rows, columns), where a
    group's block has C_out/groups rows and C_in/groups · r columns that are not zero, with the r of :func:`residues`.
    So a generic ungrouped layer is injective exactly if r = s² and C_out ≥ C_in·s². `rtol` is that of
    :func:`~collide_utils.nullspace.matrix_rank`, for the block.
    """
    columns = conv.in_channels * (1 if conv.transposed else math.prod(conv.stride))
    if conv.weight.is_meta:
        first, second = conv.weight.shape[0] // conv.groups, conv.weight.shape[1] * residues(conv)
        return columns - conv.groups * min(first, second)
    irrational = torch.arange(1, len(conv.stride) + 1, dtype=torch.float64).sqrt()  # as parts of a full turn, 2π
    # A transposed convolution is the adjoint of this one: its block has the same rank.
    block = _blocks(conv, irrational.split(1)).flatten(1)
    if rtol is None:
        rtol = nullspace.default_rtol(max(block.shape), conv.weight.dtype)
    # As a real matrix: each singular value comes twice.
    real = torch.cat([torch.cat([block.real, -block.imag], 1), torch.cat([block.imag, block.real], 1)])
    return columns - nullspace.matrix_rank(real, rtol) // 2


def quietest(conv, size, k=1):
    """Return the `k` orthonormal perturbations of an image to which the zero-padded layer responds least.

    Returns ``(gains, perturbations)``: float64 tensors ``(k,)``, rising, and ``(k, C_in, H, W)``, where a gain is
    ‖A v‖ / ‖v‖ with A the layer without its bias. White noise has a gain of about ‖A‖_F / √(C_in·H·W). `size` is the
    height and width, any that the layer takes, or one number for both.

    Method: the smallest singular vectors of A by LOBPCG (Knyazev 2001), preconditioned by the inverse of the torus's
    AᵀA, which the symbol gives, and started from those of an image of half the size put into each corner. Gains are
    measured, so they are upper bounds of the smallest ones; iteration ends when a step lowers none by more than 0.1 %,
    or 1e-12 of the largest gain. A layer with many tiny singular values (trained ones deep in a network, or C_out near
    C_in·s²) may end above its smallest.
    Errors as in :func:`symbol`, and for a `k` below 1 or above the number of unknowns.
    """
    size = _check(conv, size)
    shape = (conv.in_channels, *size)
    windows.geometry(conv, shape)
    unknowns = math.prod(shape)
    if not isinstance(k, int) or not 1 <= k <= unknowns:
        raise ValueError(f"k must be a whole number from 1 to {unknowns}, not {k!r}")
    found = _smallest(conv, shape, k, min(k + _SPARE, unknowns))[:k]
    return _forward(conv, found).flatten(1).norm(dim=1), found


def _blocks(conv, angles):
    """Return the symbol at the given frequencies, one tensor of radians per cell for each axis.

    A complex128 tensor ``(C_out, C_in, n_1, s_1, n_2, s_2, …)``: frequencies and pixels of a cell, axis by axis.
    """
    rows, columns = conv.weight.shape[0] // conv.groups, conv.weight.shape[1]
    grouped = conv.weight.detach().to(torch.complex128).view(conv.groups, rows, columns, *conv.kernel_size)
    blocks = grouped.new_zeros(conv.groups, rows, conv.groups, columns, *conv.kernel_size)
    blocks[range(conv.groups), :, range(conv.groups)] = grouped
    blocks = blocks.flatten(2, 3).flatten(0, 1)
    for angle, w, s, d in zip(angles, conv.kernel_size, conv.stride, conv.dilation, strict=True):
        t = d * torch.arange(w)
        waves = torch.exp(1j * angle[:, None] * (t // s))[:, :, None] * (t[:, None] % s == torch.arange(s))
        blocks = torch.tensordot(blocks, waves.to(blocks), dims=([2], [1]))
    return blocks


def _smallest(conv, shape, k, block):
    inverse, largest = _torus_inverse(conv, shape)
    span, before = _start(conv, shape, k, block, inverse).flatten(1).T, None
    for _ in range(_MAX_STEPS):
        # The quietest vectors of the span (Rayleigh–Ritz). The singular values of the response itself, not the
        # eigenvalues of its Gram matrix: those would lose gains below 1e-8 of the largest in rounding, and null vectors
        # with them.
        basis = torch.linalg.qr(span)[0]
        response = _forward(conv, basis.T.reshape(-1, *shape))
        outputs, response = response.shape[1:], response.flatten(1).T
        mix = torch.linalg.svd(torch.linalg.qr(response, mode="r")[1])[2].flip(0)[:block].T
        found, response = basis @ mix, response @ mix
        gains = response.norm(dim=0)
        # Have they settled?
        if before is not None and bool((before - gains <= _SETTLED * gains + _NEGLIGIBLE * largest)[:k].all()):
            break
        before = gains
        # The slope of ‖A v‖²/‖v‖², preconditioned.
        slope = _backward(conv, response.T.reshape(block, *outputs), shape).flatten(1).T - found * gains**2
        step = inverse(slope.T.reshape(-1, *shape)).flatten(1).T
        # The next span: here, the step from here, and the step that led here ("conjugate").
        span = torch.cat([found, step, basis[:, block:] @ mix[block:]], dim=1)
    return found.T.reshape(-1, *shape)


def _start(conv, shape, k, block, inverse):
    """Quiet images to begin with: those of an image of about half the size in each corner, or smoothed noise."""
    half = [n - s * (n // 2 // s) for n, s in zip(shape[1:], conv.stride, strict=True)]  # as far off the stride as n
    reach = [d * (w - 1) + 1 for d, w in zip(conv.dilation, conv.kernel_size, strict=True)]
    if all(h >= _SMALLEST_START * r for h, r in zip(half, reach, strict=True)) and block < math.prod(half):
        small = _smallest(conv, (shape[0], *half), k, block)
        below, right = (n - h for n, h in zip(shape[1:], half, strict=True))
        return torch.cat(
            [F.pad(small, (left, right - left, top, below - top)) for top in (0, below) for left in (0, right)]
        )
    noise = torch.randn(block, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return inverse(inverse(noise.to(conv.weight.device)))


def _torus_inverse(conv, shape):
    """Return a function that applies (AᵀA + shift)⁻¹ on the torus to images, and the largest singular value of A."""
    blocks = symbol(conv, shape[1:])
    values, vectors = torch.linalg.eigh(blocks.mH @ blocks)
    # A small shift would trust the torus in its quiet directions, where the padded border differs most.
    values = values + max(float(values.min()), _SHIFT * float(values.max()))
    (s_h, s_w), (rows, columns) = conv.stride, blocks.shape[:2]
    padding = windows.geometry(conv, shape).padding
    spare = (0, columns * s_w - shape[2], 0, rows * s_h - shape[1])

    def inverse(images):
        cells = F.pad(images, spare).roll(padding, (-2, -1)).view(-1, shape[0], rows, s_h, columns, s_w)
        waves = torch.fft.fft2(cells.permute(2, 4, 0, 1, 3, 5).flatten(3), dim=(0, 1))
        waves = vectors @ ((vectors.mH @ waves.mT) / values[..., None])
        cells = torch.fft.ifft2(waves.mT, dim=(0, 1)).real.unflatten(3, (shape[0], s_h, s_w))
        torus = cells.permute(2, 3, 0, 4, 1, 5).reshape(-1, shape[0], rows * s_h, columns * s_w)
        return torus.roll([-p for p in padding], (-2, -1))[..., : shape[1], : shape[2]]

    return inverse, float(values.max()) ** 0.5


def _forward(conv, images):
    return F.conv2d(images, conv.weight.detach().double(), None, conv.stride, conv.padding, conv.dilation, conv.groups)


def _backward(conv, responses, shape):
    return torch.nn.grad.conv2d_input(
        (len(responses), *shape),
        conv.weight.detach().double(),
        responses,
        conv.stride,
        windows.geometry(conv, shape).padding,
        conv.dilation,
        conv.groups,
    )


def _check(conv, size):
    """Return the size as (height, width)."""
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"only a Conv2d has a symbol here, not a {type(conv).__name__}")
    if not conv.weight.is_floating_point():
        raise ValueError(f"the convolution's weight must be real, not {conv.weight.dtype}")
    if not conv.weight.isfinite().all():
        raise ValueError("the convolution's weight has entries that are NaN or infinite")
    try:
        pair = tuple(map(operator.index, size if isinstance(size, (tuple, list)) else (size, size)))
    except TypeError:
        pair = ()
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"size must be a positive whole number of pixels, or a height and a width, not {size!r}")
    return pair
