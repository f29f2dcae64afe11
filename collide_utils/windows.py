"""The geometry of a network's first layer: which pixels each window sees, and how to tile an image with windows."""


from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Geometry:
    """How a two-dimensional convolution, or a linear layer on a flattened image, looks at an image.

    Attributes (pixels; pairs are rows, columns)
    ----------
    shape : ``(C, H, W)`` of the image.
    window, stride, padding, dilation : of the convolution. A linear layer has one window, the whole image.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @cached_property
    def overlapping(self):
        """Whether some pixel is seen by two windows, so that a window cannot be changed on its own."""
        times = []
        for size, count, w, s, p, d in zip(self.shape[1:], self._positions(), self.window, self.stride, self.padding,
                                           self.dilation, strict=True):
            seen = Counter(i * s - p + d * j for i in range(count) for j in range(w))
            times.append(max((number for pixel, number in seen.items() if 0 <= pixel < size), default=0))
        return times[0] * times[1] > 1

    @property
    def grid(self):
        """Rows and columns of :func:`tile`'s windows: the layer's own, or where those overlap, tiles side by side."""
        if self.overlapping:
            return tuple(-(-n // w) for n, w in zip(self.shape[1:], self.window, strict=True))
        return self._positions()

    def _positions(self):
        return tuple((n + 2 * p - d * (w - 1) - 1) // s + 1 for n, w, s, p, d in zip(
            self.shape[1:], self.window, self.stride, self.padding, self.dilation, strict=True))


def geometry(layer, shape):
    """Return the :class:`Geometry` of `layer` on images of `shape` ``(C, H, W)``.

    ValueError if the layer is neither a Conv2d nor a Linear, pads with anything but zeros, or does not fit the shape.
    """
    shape = tuple(shape)
    if isinstance(layer, nn.Linear):
        if layer.in_features != shape[0] * shape[1] * shape[2]:
            raise ValueError(f"a linear layer of {layer.in_features} inputs does not see images of {shape} whole")
        return Geometry(shape, shape[1:], shape[1:], (0, 0), (1, 1))
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"the first layer must be a Conv2d or a Linear on images, not a {type(layer).__name__}")
    if layer.in_channels != shape[0]:
        raise ValueError(f"the layer takes {layer.in_channels} channels, the image shape {shape} has {shape[0]}")
    padding = layer.padding
    if isinstance(padding, str):
        padding = {"valid": (0, 0)}.get(padding) or _same_padding(layer)
    if any(padding) and layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r} is not supported; only 'zeros' is")
    found = Geometry(shape, layer.kernel_size, layer.stride, padding, layer.dilation)
    if min(found._positions()) < 1:
        raise ValueError(f"no window of {layer.kernel_size} fits an image of shape {shape}")
    return found


def tile(geometry, windows):
    """Assemble an image from windows, the inverse of cutting it up.

    Parameters
    ----------
    windows : tensor ``(rows, columns, C·h·w)``, with rows and columns those of ``geometry.grid``, each window in the
        order of the layer's matrix columns.

    Returns a tensor ``(C, H, W)``. Where windows do not overlap, each lies where the layer looks and unseen pixels are
    zero, also those of a window that reaches into the padding: cut off there, it would be another window. Where they
    overlap, tiles lie side by side from the top left corner, cropped to the image, as in the supplement.
    """
    expected = (*geometry.grid, geometry.shape[0] * geometry.window[0] * geometry.window[1])
    if tuple(windows.shape) != expected:
        raise ValueError(f"windows must have shape {expected} (rows, columns, C·h·w), not {tuple(windows.shape)}")
    if not geometry.overlapping:
        windows = windows * _inside(geometry).to(windows)[:, :, None]
    return fold(geometry, windows)


def unfold(geometry, image):
    """Cut an image ``(C, H, W)`` into the windows of ``geometry.grid``: ``(rows, columns, C·h·w)``, zero outside it."""
    size, where = _places(geometry)
    bottom, right = (n - m for n, m in zip(size, geometry.shape[1:], strict=True))
    return F.unfold(F.pad(image, (0, right, 0, bottom))[None], **where)[0].T.reshape(*geometry.grid, -1)


def fold(geometry, windows):
    """The inverse of :func:`unfold`: as :func:`tile`, but keeping what lies inside of a window that reaches outside."""
    size, where = _places(geometry)
    return F.fold(windows.flatten(0, 1).T, size, **where)[:, :geometry.shape[1], :geometry.shape[2]]


def _places(geometry):
    if geometry.overlapping:
        size = [n * w for n, w in zip(geometry.grid, geometry.window, strict=True)]
        return size, dict(kernel_size=geometry.window, stride=geometry.window)
    return list(geometry.shape[1:]), dict(kernel_size=geometry.window, stride=geometry.stride,
                                          padding=geometry.padding, dilation=geometry.dilation)


def _inside(geometry):
    masks = []
    for n, w, s, p, d, count in zip(geometry.shape[1:], geometry.window, geometry.stride, geometry.padding,
                                    geometry.dilation, geometry.grid, strict=True):
        start = torch.arange(count) * s - p
        masks.append((start >= 0) & (start + d * (w - 1) < n))
    return masks[0][:, None] & masks[1][None, :]


def _same_padding(layer):
    total = [d * (w - 1) for d, w in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError("padding='same' with an even window pads unevenly, which is not supported")
    return tuple(t // 2 for t in total)
