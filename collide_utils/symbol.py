"""The null space of a convolution as a layer, on whole images: its symbol and its quietest perturbations.

On a torus, where an image goes on at the opposite edge, a convolution of stride s commutes with shifts by s pixels, so
the Fourier basis makes it block-diagonal. The blocks are its *symbol* (Sedghi, Gupta & Long, "The Singular Values of
Convolutional Layers", 2019, for stride 1). Real layers pad with zeros instead; :func:`quietest` runs the layer itself.
"""


import torch
import torch.nn.functional as F

from collide_utils import windows

_STEPS, _SETTLED, _SPARE = 300, 1e-3, 4


def symbol(conv, size):
    """Return the blocks of a Conv2d on a torus of `size` × `size` pixels, as a complex128 tensor.

    Its shape is ``(size/s_h, size/s_w, C_out, C_in·s_h·s_w)`` with the stride (s_h, s_w): one block per frequency of
    the output; one column per channel and place within a cell of the stride (the order of ``pixel_unshuffle``). All
    blocks' singular values together are those of the convolution. Padding only shifts the torus and is left out.

    The weight is taken as it is: where a network normalises its images, divide the weight by each channel's standard
    deviation first. ValueError if `conv` is not a Conv2d with finite weights, or `size` not a multiple of its stride.
    """
    _check(conv, size)
    strides = conv.stride
    weight = conv.weight.detach().double()
    rows, channels, *window = weight.shape
    group = torch.arange(conv.groups, device=weight.device)
    full = weight.new_zeros(conv.groups, rows // conv.groups, conv.groups, channels, window[0] * window[1])
    full[group, :, group] = weight.view(conv.groups, rows // conv.groups, channels, -1)
    # Window entry t sees place t mod s of the cell t div s further on.
    cells = [size // s for s in strides]
    place, cell = zip(*((t % s, t // s) for t, s in (
        ((torch.arange(w, device=weight.device) * d) % size, s)
        for w, d, s in zip(window, conv.dilation, strides, strict=True))), strict=True)
    place = place[0][:, None] * strides[1] + place[1]
    index = place * cells[0] * cells[1] + cell[0][:, None] * cells[1] + cell[1]
    spread = weight.new_zeros(rows, conv.groups * channels, strides[0] * strides[1] * cells[0] * cells[1])
    spread.index_add_(2, index.flatten(), full.view(rows, conv.groups * channels, -1))
    return torch.fft.fft2(spread.view(rows, -1, *cells)).conj().permute(2, 3, 0, 1)


def image_nullity(conv, size, rtol=None):
    """Return the dimension of the images ``(C_in, size, size)`` on a torus that the convolution maps to zero.

    A singular value of the symbol counts as zero when it is at most `rtol` times the largest of all blocks; the default
    is that of :mod:`~collide_utils.nullspace` for one block. Errors as in :func:`symbol`.
    """
    blocks = symbol(conv, size)
    if rtol is None:
        rtol = max(blocks.shape[-2:]) * torch.finfo(conv.weight.dtype).eps
    elif not 0 <= rtol < 1:
        raise ValueError(f"rtol must be a number in [0, 1), not {rtol!r}")
    singular = torch.linalg.svdvals(blocks)
    return conv.in_channels * size**2 - int((singular > rtol * singular.max()).sum())


def quietest(conv, size, k=1):
    """Return the `k` orthonormal perturbations of an image to which the zero-padded layer responds least.

    Returns ``(gains, perturbations)``: float64 tensors ``(k,)``, rising, and ``(k, C_in, size, size)``, where a gain is
    ‖A v‖ / ‖v‖ with A the layer without its bias. White noise has a gain of about ‖A‖_F / √(C_in·size²).

    Method: the smallest singular vectors of A by LOBPCG (Knyazev 2001), preconditioned by the inverse of the torus's
    AᵀA, which the symbol gives, and started from those of an image of half the size put into each corner. Gains are
    measured, so they are upper bounds of the smallest ones; iteration ends when a step lowers none by more than 0.1 %,
    or 1e-12 of the largest gain. A layer with many tiny singular values (trained ones deep in a network, or C_out near
    C_in·s²) may end above its smallest.
    Errors as in :func:`symbol`, and for a `k` below 1 or above the number of unknowns.
    """
    _check(conv, size)
    windows.geometry(conv, (conv.in_channels, size, size))
    unknowns = conv.in_channels * size**2
    if not isinstance(k, int) or not 1 <= k <= unknowns:
        raise ValueError(f"k must be a whole number from 1 to {unknowns}, not {k!r}")
    found = _smallest(conv, size, k, min(k + _SPARE, unknowns))[:k]
    return _forward(conv, found).flatten(1).norm(dim=1), found


def _smallest(conv, size, k, block):
    shape = (conv.in_channels, size, size)
    inverse, largest = _torus_inverse(conv, size)
    half = size // 2
    reach = max(d * (w - 1) + 1 for d, w in zip(conv.dilation, conv.kernel_size, strict=True))
    if size % 2 == 0 and not any(half % s for s in conv.stride) and half >= 4 * reach and block < half**2:
        small = _smallest(conv, half, k, block)
        start = torch.cat([F.pad(small, (left, half - left, top, half - top)) for top in (0, half)
                           for left in (0, half)])
    else:
        noise = torch.randn(block, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        start = inverse(inverse(noise.to(conv.weight.device)))
    span, before = start.flatten(1).T, None
    for _ in range(_STEPS):
        basis = torch.linalg.qr(span)[0]
        response = _forward(conv, basis.T.reshape(-1, *shape))
        outputs, response = response.shape, response.flatten(1).T
        # The singular values of the response itself, not the eigenvalues of its Gram matrix: those would lose gains
        # below 1e-8 of the largest in rounding, and null vectors with them.
        mix = torch.linalg.svd(torch.linalg.qr(response, mode="r")[1])[2].flip(0)[:block].T
        found, response = basis @ mix, response @ mix
        gains = response.norm(dim=0)
        if before is not None and bool((before - gains <= _SETTLED * gains + 1e-12 * largest)[:k].all()):
            break
        before = gains
        slope = _backward(conv, response.T.reshape(block, *outputs[1:]), size).flatten(1).T - found * gains**2
        step = inverse(slope.T.reshape(-1, *shape)).flatten(1).T
        span = torch.cat([found, step, basis[:, block:] @ mix[block:]], dim=1)
    return found.T.reshape(-1, *shape)


def _torus_inverse(conv, size):
    """Return a function that applies (AᵀA + shift)⁻¹ on the torus to images, and the largest singular value of A."""
    blocks = symbol(conv, size)
    values, vectors = torch.linalg.eigh(blocks.mH @ blocks)
    # A small shift would trust the torus in its quiet directions, where the padded border differs most.
    values = values + max(float(values.min()), 1e-3 * float(values.max()))
    (height, width), (rows, columns) = conv.stride, blocks.shape[:2]
    padding = windows.geometry(conv, (conv.in_channels, size, size)).padding

    def inverse(images):
        cells = images.roll(padding, (-2, -1)).view(-1, conv.in_channels, rows, height, columns, width)
        waves = torch.fft.fft2(cells.permute(2, 4, 0, 1, 3, 5).flatten(3), dim=(0, 1))
        waves = vectors @ ((vectors.mH @ waves.mT) / values[..., None])
        cells = torch.fft.ifft2(waves.mT, dim=(0, 1)).real.unflatten(3, (conv.in_channels, height, width))
        return cells.permute(2, 3, 0, 4, 1, 5).reshape(images.shape).roll([-p for p in padding], (-2, -1))

    return inverse, float(values.max()) ** 0.5


def _forward(conv, images):
    return F.conv2d(images, conv.weight.detach().double(), None, conv.stride, conv.padding, conv.dilation, conv.groups)


def _backward(conv, responses, size):
    shape = (conv.in_channels, size, size)
    return torch.nn.grad.conv2d_input((len(responses), *shape), conv.weight.detach().double(), responses, conv.stride,
                                      windows.geometry(conv, shape).padding, conv.dilation, conv.groups)


def _check(conv, size):
    if not isinstance(conv, torch.nn.Conv2d):
        raise ValueError(f"only a Conv2d has a symbol here, not a {type(conv).__name__}")
    if not conv.weight.isfinite().all():
        raise ValueError("the convolution's weight has entries that are NaN or infinite")
    if not isinstance(size, int) or size < 1 or any(size % s for s in conv.stride):
        raise ValueError(f"size must be a positive multiple of the stride {conv.stride}, not {size!r}")
