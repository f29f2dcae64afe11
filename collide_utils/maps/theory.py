"""Which maps of two colliding images must agree: what the theory says, without drawing any."""

import torch
from torch import nn

from collide_utils import hooks, windows


def must_agree(method, geometry, behind):
    same = {"activation": behind, "gradient": True, "pixels": False,
            "blocks": behind or (method.block is not None and not _cut(geometry, method.block))}
    return all(same[what] for what in method.reads)


def behind(model, order, stem, layer, side):
    """Whether that side of `layer` is computed from the output of `stem`. Calls nest, and are listed as they end."""
    if order.index(layer) < order.index(stem):
        return False
    holds_stem = model.get_submodule(stem) in set(model.get_submodule(layer).modules())
    return side == "output" or not holds_stem


def _cut(geometry, block):
    """Whether an edge between blocks runs through a window."""
    for n, w, s, p, d in zip(geometry.shape[1:], geometry.window, geometry.stride, geometry.padding, geometry.dilation,
                             strict=True):
        for first in range(-p, n + p - d * (w - 1), s):
            if len({pixel // block(n) for pixel in range(first, first + d * w, d) if 0 <= pixel < n}) > 1:
                return True
    return False


def stem_geometry(model, name, image):
    layer = model.get_submodule(name)
    probes = torch.rand(3, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)
    probes[2] = probes[:2].mean(0)
    with torch.no_grad(), hooks.record(model, [name]) as recording:
        model(probes)
    seen = recording.inputs[name][0].flatten(1)
    known = isinstance(layer, (nn.Conv2d, nn.Linear)) and seen[0].numel() == image.numel()
    if not known or not torch.allclose(seen[2], seen[:2].mean(0), rtol=1e-4, atol=1e-4 * float(seen.abs().max())):
        raise ValueError(f"the images collide from {name!r} ({type(layer).__name__}) on, but the theory is for a "
                         "convolution or linear layer that sees the image through an affine map of its pixels")
    return windows.geometry(layer, image.shape[1:])
