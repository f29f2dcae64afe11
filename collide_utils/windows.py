"""The geometry of a network's first layer: which pixels each window sees, and how to tile an image with windows."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from collide_utils import hooks

_ROUNDING = 2**12  # machine epsilons, relative to the largest value


@dataclass(frozen=True)
class Axis:
    """One direction of an image, rows or columns, and the windows along it; all in pixels."""

    size: int
    window: int
    stride: int
    padding: int
    dilation: int

    @cached_property
    def ranges(self):
        """The pixels of each window, a list of ``range``; those below 0 or from `size` on lie in the padding."""
        reach = self.dilation * (self.window - 1) + 1
        return [
            range(first, first + reach, self.dilation)
            for first in range(-self.padding, self.size + self.padding - reach + 1, self.stride)
        ]

    @property
    def whole(self):
        """Whether each window lies inside the image, a list of bool."""
        return [pixels[0] >= 0 and pixels[-1] < self.size for pixels in self.ranges]


@dataclass(frozen=True)
class Geometry:
    """How a two-dimensional convolution, or a linear layer on a flattened image, looks at an image.

    Attributes
    ----------
    channels : of the image.
    axes : the :class:`Axis` of its rows and that of its columns. A linear layer has one window, the whole image.
    shape : ``(C, H, W)`` of the image.
    window, stride, padding, dilation : of both axes, in pixels.
    """

    channels: int
    axes: tuple[Axis, Axis]

    @property
    def shape(self):
        return (self.channels, *(axis.size for axis in self.axes))

    @property
    def window(self):
        return tuple(axis.window for axis in self.axes)

    @property
    def stride(self):
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self):
        return tuple(axis.padding for axis in self.axes)

    @property
    def dilation(self):
        return tuple(axis.dilation for axis in self.axes)

    @cached_property
    def overlapping(self):
        """Whether some pixel is seen by two windows, so that a window cannot be changed on its own."""
        rows, columns = (
            Counter(pixel for pixels in axis.ranges for pixel in pixels if 0 <= pixel < axis.size) for axis in self.axes
        )
        return max(rows.values(), default=0) * max(columns.values(), default=0) > 1

    @property
    def grid(self):
        """Rows and columns of :func:`tile`'s windows: the layer's own, or where those overlap, tiles side by side."""
        if self.overlapping:
            return tuple(-(-axis.size // axis.window) for axis in self.axes)
        return tuple(len(axis.ranges) for axis in self.axes)


def geometry(layer, shape):
    """Return the :class:`Geometry` of `layer` on images of `shape` ``(C, H, W)``.

    ValueError if the layer is neither a Conv2d nor a Linear, pads with anything but zeros, or does not fit the shape.
    """
    shape = tuple(shape)
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        raise ValueError(f"the first layer must be a Conv2d, or a Linear on whole images, not a {type(layer).__name__}")
    if len(shape) != 3:
        raise ValueError(f"the shape must be that of an image, (C, H, W), not {shape}")
    if isinstance(layer, nn.Linear):
        if layer.in_features != shape[0] * shape[1] * shape[2]:
            raise ValueError(
                f"a linear layer of {layer.in_features} inputs does not see images of {shape} whole; "
                "one on patches of the image is not supported"
            )
        return Geometry(shape[0], tuple(Axis(n, n, n, 0, 1) for n in shape[1:]))
    if layer.in_channels != shape[0]:
        raise ValueError(f"the layer takes {layer.in_channels} channels, the image shape {shape} has {shape[0]}")
    padding = layer.padding
    if isinstance(padding, str):
        padding = {"valid": (0, 0)}.get(padding) or _same_padding(layer)
    if any(padding) and layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r} is not supported; only 'zeros' is")
    axes = tuple(
        Axis(*axis) for axis in zip(shape[1:], layer.kernel_size, layer.stride, padding, layer.dilation, strict=True)
    )
    if not all(axis.ranges for axis in axes):
        raise ValueError(f"no window of {layer.kernel_size} fits an image of shape {shape}")
    return Geometry(shape[0], axes)


def pixel_slope(model, name, geometry):
    """Return how much the input of the layer `name` grows with each pixel, one number per column of the layer's matrix.

    That is how pixels reach the layer: its matrix times these numbers, column by column, acts on the pixels themselves.
    A normalisation gives 1 over the standard deviation of the column's channel.

    Parameters
    ----------
    model : network in eval mode, run up to the layer on four images of its own, in its own dtype.
    geometry : the layer's :class:`Geometry`.

    Returns a tensor ``(C·h·w,)``. ValueError unless the layer sees, for every image in [0, 1], an affine map of each
    channel, the same for all its pixels (before a linear layer: an affine map of each pixel).
    """
    weight = next(model.parameters())
    draws = torch.rand(2, *geometry.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probes = torch.cat([torch.zeros_like(draws[:1]), torch.ones_like(draws[:1]), draws]).to(weight)
    seen = _layer_input(model, name, probes.clone())  # a copy, because some networks normalise their images in place
    if seen.shape[0] == len(probes) and seen.numel() == probes.numel():
        seen = seen.view_as(probes)
        slope, rounding = seen[1] - seen[0], _ROUNDING * torch.finfo(seen.dtype).eps * float(seen.abs().max())
        close = dict(rtol=0, atol=rounding)
        affine = torch.allclose(seen, seen[0] + slope * probes, **close)
        if affine and geometry.window == geometry.shape[1:] and not any(geometry.padding):
            return slope.flatten()
        if affine and torch.allclose(slope, slope[:, :1, :1], **close):
            return slope[:, 0, 0].repeat_interleave(geometry.window[0] * geometry.window[1])
    raise ValueError(
        f"what {type(model).__name__} does to an image of shape {geometry.shape} before layer {name!r} "
        "is not an affine map of each channel, so the layer's null space is not one of pixels"
    )


class _Reached(Exception):
    pass


def _layer_input(model, name, images):
    def stop(*_):
        raise _Reached

    with torch.no_grad(), hooks.record(model, [name]) as recording:
        handle = model.get_submodule(name).register_forward_pre_hook(stop)
        try:
            model(images)
        except _Reached:
            return recording.inputs[name][0]
        finally:
            handle.remove()
    raise ValueError(f"{type(model).__name__} does not call its layer {name!r}")


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
        rows, columns = (torch.tensor(axis.whole).to(windows) for axis in geometry.axes)
        windows = windows * rows[:, None, None] * columns[:, None]
    return fold(geometry, windows)


def unfold(geometry, image):
    """Cut an image ``(C, H, W)`` into the windows of ``geometry.grid``: ``(rows, columns, C·h·w)``, zero outside it."""
    size, where = _places(geometry)
    bottom, right = (n - m for n, m in zip(size, geometry.shape[1:], strict=True))
    return F.unfold(F.pad(image, (0, right, 0, bottom))[None], **where)[0].T.reshape(*geometry.grid, -1)


def fold(geometry, windows):
    """The inverse of :func:`unfold`: as :func:`tile`, but keeping what lies inside of a window that reaches outside."""
    size, where = _places(geometry)
    return F.fold(windows.flatten(0, 1).T, size, **where)[:, : geometry.shape[1], : geometry.shape[2]]


def _places(geometry):
    if geometry.overlapping:
        size = [n * w for n, w in zip(geometry.grid, geometry.window, strict=True)]
        return size, dict(kernel_size=geometry.window, stride=geometry.window)
    return list(geometry.shape[1:]), dict(
        kernel_size=geometry.window, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation
    )


def _same_padding(layer):
    total = [d * (w - 1) for d, w in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError("padding='same' with an even window pads unevenly, which is not supported")
    return tuple(t // 2 for t in total)
