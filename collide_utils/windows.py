"""The geometry of a network's first layer: which pixels each window sees, and how to tile an image with windows."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from collide_utils import hooks, weights

_ROUNDING = 2**12 * torch.finfo(torch.float64).eps  # relative
_ANY = "levelsets.LevelSet finds collisions of any layer"


@dataclass(frozen=True)
class Axis:
    """One direction of an image, such as its rows, and the windows along it; all in pixels."""

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


@dataclass(frozen=True)
class Geometry:
    """Which pixels of an image the windows of a layer see: in every direction, those of an :class:`Axis`.

    Attributes
    ----------
    channels : of the image; a window sees all of them.
    axes : the :class:`Axis` of its rows and that of its columns; before them that of a film's frames, and of a sound
        the one axis of time. A linear layer on the whole image has one window.
    shape : ``(C, H, W)`` of the image, ``(C, T, H, W)`` of a film, ``(C, T)`` of a sound.
    window, stride, padding, dilation : of all axes, in pixels. A negative padding is a margin that no window sees.
    """

    channels: int
    axes: tuple[Axis, ...]

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
        seen = (Counter(i for pixels in axis.ranges for i in pixels if 0 <= i < axis.size) for axis in self.axes)
        return math.prod(max(times.values(), default=0) for times in seen) > 1

    @property
    def grid(self):
        """Rows and columns of :func:`tile`'s windows: the layer's own, or where those overlap, tiles side by side."""
        return tuple(self.places.shape[:-1])

    @cached_property
    def places(self):
        """The pixels of the windows of `grid`, as numbers in the flattened image; -1 is outside of it.

        An integer tensor ``(rows, columns, C·h·w)``.
        """
        tiles = [[range(i, i + axis.window) for i in range(0, axis.size, axis.window)] for axis in self.axes]
        return _places(self, tiles if self.overlapping else [axis.ranges for axis in self.axes])


def geometry(layer, shape):
    """Return the :class:`Geometry` of `layer` on images of `shape` ``(C, H, W)``, as they are.

    ValueError if the layer is neither a convolution nor a Linear on the whole image, pads with anything but zeros, or
    does not fit the shape.
    """
    shape = tuple(shape)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        raise ValueError(f"the first layer must be a convolution or a Linear, not a {type(layer).__name__}: {_ANY}")
    if isinstance(layer, nn.Linear):
        if layer.in_features != math.prod(shape):
            raise ValueError(f"a linear layer of {layer.in_features} inputs does not see images of {shape} whole")
        return Geometry(shape[0], tuple(Axis(n, n, n, 0, 1) for n in shape[1:]))
    if len(shape) != 1 + len(layer.kernel_size):
        raise ValueError(f"a {type(layer).__name__} takes {1 + len(layer.kernel_size)} dimensions, not {shape}")
    if layer.in_channels != shape[0]:
        raise ValueError(f"the layer takes {layer.in_channels} channels, the image shape {shape} has {shape[0]}")
    padding = layer.padding
    if isinstance(padding, str):
        padding = (0,) * len(layer.kernel_size) if padding == "valid" else _same_padding(layer)
    if any(padding) and layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r} is not supported; only 'zeros' is")
    axes = tuple(
        Axis(*axis) for axis in zip(shape[1:], layer.kernel_size, layer.stride, padding, layer.dilation, strict=True)
    )
    if not all(axis.ranges for axis in axes):
        raise ValueError(f"no window of {layer.kernel_size} fits an image of shape {shape}")
    return Geometry(shape[0], axes)


def pixel_weight(model, weight, shape):
    """Return ``(geometry, matrix)``: the pixels that the windows of a layer see, and the matrix that acts on them.

    How pixels reach the layer is measured, with four images of our own that the network is run on as far as the layer.
    Each entry of the layer's input must be an affine function of one pixel, whichever it is. So a normalisation scales
    the columns of the layer's matrix, a reshape into patches reorders them, and a grey image given as three channels
    adds them up.

    Parameters
    ----------
    model : network in float64 and eval mode.
    weight : the :class:`~collide_utils.weights.LayerWeight` of a convolution, or of a Linear on the whole image, on
        patches of it or on its pixels.
    shape : ``(C, H, W)`` of the images.

    The matrix is a tensor ``(C_out, C·h·w)``. ValueError if the layer's input is not as described, in every window
    alike, or if the windows are not boxes of pixels, of one size and evenly spaced.
    """
    layer, shape = model.get_submodule(weight.name), tuple(shape)
    pixel, slope = _measure(model, weight.name, shape)
    if isinstance(layer, nn.Linear):
        seen = _boxes(pixel.reshape(-1, layer.in_features), slope.reshape(-1, layer.in_features), shape)
    else:
        own = geometry(layer, pixel.shape[1:])
        seen = _channels(own, pixel, slope, shape)
        if seen is None:
            places = _places(own, [axis.ranges for axis in own.axes]).flatten(0, -2)
            cut = (F.pad(value.flatten(1), (0, 1), value=none)[:, places] for value, none in ((pixel, -1), (slope, 0)))
            seen = _boxes(*(value.flatten(0, 1) for value in cut), shape)
    if seen is None:
        raise ValueError(
            f"the windows of layer {weight.name!r} on an image of shape {shape} are not boxes of pixels inside it, of "
            f"all channels and one size, evenly spaced and read alike, so its null space is not one of pixels; {_ANY}"
        )
    found, column, scale = seen
    matrix = torch.block_diag(*weight.matrix)
    onto = matrix.new_zeros(len(matrix), found.channels * math.prod(found.window))
    return found, onto.index_add_(1, column.to(matrix.device), matrix * scale.to(matrix))


def _measure(model, name, shape):
    """Return which pixel each entry of a layer's input reads, -1 for none, and by how much it grows with it.

    Both have the shape of the layer's input for one image, of which several parts may lie in the batch.
    """
    count = math.prod(shape)
    ramp = torch.arange(count, dtype=torch.float64) / count
    noise = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probes = torch.stack([torch.zeros_like(ramp), torch.ones_like(ramp), ramp, noise]).view(-1, *shape)
    # A copy, because some networks normalise their images in place.
    seen, before = _layer_input(model, name, hooks.fed(model, probes))
    if seen.dtype == torch.float64 and len(seen) % 4 == 0:
        seen = seen.view(4, -1, *seen.shape[1:]).cpu()
        slope, rounding = seen[1] - seen[0], _ROUNDING * float(seen.abs().max())
        slope[slope.abs() <= rounding] = 0
        # Which pixel it is the ramp tells, and noise whether it is the only one.
        pixel = (count * (seen[2] - seen[0]) / slope).nan_to_num(0).round().clamp(0, count - 1).long()
        if torch.allclose(seen[3], seen[0] + slope * noise[pixel], rtol=0, atol=rounding):
            return pixel.masked_fill(slope == 0, -1), slope
    raise ValueError(
        f"what {type(model).__name__} does to an image of shape {shape} before layer {name!r} is not an affine map of "
        f"each pixel{before}, so its null space is not one of pixels; {_ANY}"
    )


def _channels(own, pixel, slope, shape):
    """As :func:`_boxes`, for a convolution that sees the channels of the whole image, in whatever order."""
    if len(pixel) != 1 or own.shape[1:] != shape[1:]:
        return None
    area, entries = math.prod(shape[1:]), math.prod(own.window)
    pixel, slope = pixel[0].flatten(1), slope[0].flatten(1)
    first, scale = pixel[:, :1].clamp(min=0), slope[:, :1]
    if not torch.equal(pixel, torch.where(slope == 0, -1, first + torch.arange(area))) or not _alike(slope, scale):
        return None
    column = first // area * entries + torch.arange(entries)
    return Geometry(shape[0], own.axes), column.flatten(), scale.expand(-1, entries).flatten()


def _boxes(pixel, slope, shape):
    """Return the :class:`Geometry` of windows that read these pixels, ``(windows, entries)``, and the column and the
    scale of each entry; None if it has none.
    """
    used = pixel[0] >= 0
    if not used.any() or not torch.equal(pixel >= 0, used.expand_as(pixel)) or not _alike(slope, slope[:1]):
        return None
    # A guess, from two windows and two entries along each axis, then a comparison.
    pixel, column, axes = pixel[:, used], torch.tensor(0), []
    for size, at in zip(shape, torch.unravel_index(pixel, shape), strict=True):
        (offsets, rank), starts = at[0].unique(return_inverse=True), at.amin(1).unique()
        step, stride = (int(n[1] - n[0]) if len(n) > 1 else size for n in (offsets, starts))
        axes.append(Axis(size, len(offsets), stride, -int(starts[0]), step))
        column = column * len(offsets) + rank
    found = Geometry(shape[0], tuple(axes[1:]))
    ranges = [axis.ranges for axis in found.axes]
    if axes[0].window != shape[0] or math.prod(map(len, ranges)) != len(pixel):
        return None
    guessed = _places(found, ranges).flatten(0, -2)[:, column]
    if not torch.equal(*(rows[rows[:, 0].argsort()] for rows in (guessed, pixel))):
        return None
    return found, torch.zeros(len(used), dtype=torch.long).masked_scatter(used, column), slope[0]


def _alike(slope, one):
    return bool(torch.isclose(slope, one, rtol=_ROUNDING, atol=0).all())


class _Reached(Exception):
    pass


def _layer_input(model, name, images):
    """Return the layer's first input, and in words what is called before it."""

    def stop(*_):
        raise _Reached

    modules = dict(model.named_modules())
    with torch.no_grad(), hooks.record(model) as earlier, hooks.record(model, [name]) as recording:
        handle = model.get_submodule(name).register_forward_pre_hook(stop)
        try:
            model(images)
        except _Reached:
            called = ", ".join(f"{name} ({type(modules[name]).__name__})" for name in earlier.order)
            words = f" (called first: {called})" if called else ""
            return recording.inputs[name][0], words + weights.closed(model)
        finally:
            handle.remove()
    raise ValueError(f"{type(model).__name__} does not call its layer {name!r}")


def tile(geometry, windows):
    """Assemble an image from windows, the inverse of cutting it up.

    Parameters
    ----------
    windows : tensor ``(rows, columns, C·h·w)``, with rows and columns those of ``geometry.grid``, each window in the
        order of its pixels, as ``geometry.places``.

    Returns a tensor ``(C, H, W)``. Where windows do not overlap, each lies where the layer looks and unseen pixels are
    zero, also those of a window that reaches into the padding: cut off there, it would be another window. Where they
    overlap, tiles lie side by side from the top left corner, cropped to the image, as in the supplement.
    """
    expected = tuple(geometry.places.shape)
    if tuple(windows.shape) != expected:
        raise ValueError(f"windows must have shape {expected} (rows, columns, C·h·w), not {tuple(windows.shape)}")
    if not geometry.overlapping:
        windows = windows * (geometry.places >= 0).all(-1, keepdim=True).to(windows)
    return fold(geometry, windows)


def unfold(geometry, image):
    """Cut an image ``(C, H, W)`` into the windows of ``geometry.grid``: ``(rows, columns, C·h·w)``, zero outside it."""
    return F.pad(image.flatten(), (0, 1))[geometry.places]


def fold(geometry, windows):
    """The inverse of :func:`unfold`: as :func:`tile`, but keeping what lies inside of a window that reaches outside."""
    image = windows.new_zeros(math.prod(geometry.shape) + 1)
    image[geometry.places] = windows
    return image[:-1].view(geometry.shape)


def _places(geometry, ranges):
    """The pixels of windows that lie in these ranges of each axis, as ``Geometry.places``."""
    count = len(ranges)
    places, inside = torch.arange(geometry.channels).view(-1, *[1] * count), torch.tensor(True)
    for i, (axis, pixels) in enumerate(zip(geometry.axes, ranges, strict=True)):
        at = torch.tensor([list(one) for one in pixels])
        at = at.view(*[1] * i, len(at), *[1] * count, -1, *[1] * (count - i - 1))
        places, inside = places * axis.size + at, inside & (at >= 0) & (at < axis.size)
    return torch.where(inside, places, -1).flatten(count)


def _same_padding(layer):
    total = [d * (w - 1) for d, w in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError("padding='same' with an even window pads unevenly, which is not supported")
    return tuple(t // 2 for t in total)
