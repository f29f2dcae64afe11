"""Behind a ReLU: what a window of an image has to keep for the outputs of a ReLU to stay what they are.

Let w be the outputs of the first layer for one window. A ReLU behind it, and what affine lies between, such as a batch
normalisation or a bias, returns max(0, b + a·w) for each of them. An output that is positive on the image, an *active*
one, must keep its w: an equation. A silent one may change as long as b + a·w stays at most zero: an inequality. So the
images with the same outputs form a convex set in each window. Directions in which one may go without end form a cone:
the active outputs see nothing of them, and the silent ones fall.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from scipy.linalg import qr
from scipy.optimize import nnls
from torch import nn

from collide_utils import hooks, windows

_FAR = 2**10  # how far first outputs are moved to see what becomes of them, in sizes of the largest
_ROUNDING = 1e-9  # relative
_LEFT = 1e-6  # the length of a direction, relative to that of the draw, below which it counts as zero
_SAFE = 1 - 1e-12  # of the way to where an output would wake


class Network(NamedTuple):
    """A network in float64 and eval mode, the name of its first layer, and what that does to windows of pixels."""

    model: nn.Module
    first: str
    weight: torch.Tensor


class Rectified:
    """What `networks` ask of each window of an image ``(C, H, W)``, so that their layers `after` return the same.

    Parameters
    ----------
    networks : list of :class:`Network`.
    geometry : of the first layers, all alike; windows do not overlap.
    after : list of names, one per network.

    Attributes
    ----------
    rows : tensor ``(R, n)``, what the first layers measure of a window, one network's below the other's.
    value, slope : tensors ``(N, R)`` of the N windows: the layers return ``max(0, value + slope · change)`` where a
        measurement changes by that.
    active : bool tensor ``(N, R)``, the measurements to keep.

    ValueError for an image whose windows overlap, and for a layer that is not there or returns anything else but an
    affine function of each output of the first layer, with a ReLU or without.
    """

    def __init__(self, networks, geometry, image, after):
        if geometry.overlapping:
            raise ValueError(
                f"the windows of the first layer overlap (window {geometry.window}, stride {geometry.stride}), so none "
                "can be changed on its own; levelsets.LevelSet finds collisions there"
            )
        self.rows = torch.cat([network.weight for network in networks])
        found = [_measure(network, geometry, image, name) for network, name in zip(networks, after, strict=True)]
        self.value, self.slope, self.active = (torch.cat(part, 1) for part in zip(*found, strict=True))
        self._points = windows.unfold(geometry, image).flatten(0, -2)

    @property
    def limits(self):
        """The lowest and highest values of the measurements ``rows @ window``: two tensors ``(N, R)``."""
        kept, infinite = self._points @ self.rows.T, torch.full_like(self.value, torch.inf)
        wakes = torch.where(self.slope == 0, infinite, kept - _SAFE * self.value / self.slope)
        low = torch.where(self.active, kept, torch.where(self.slope < 0, wakes, -infinite))
        return low, torch.where(self.active, kept, torch.where(self.slope < 0, infinite, wakes))

    def directions(self, generator=None):
        """Return unit vectors ``(N, n)`` along which the outputs stay the same however far one goes.

        White noise, projected on the cone of each window; where nothing of it is left, its opposite. Zero in windows
        where the cone is a point.
        """
        shape = len(self.value), self.rows.shape[1]
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).cpu().numpy()
        active, slope, rows = (part.cpu().numpy() for part in (self.active, self.slope, self.rows))
        found = [
            _onto_cone(draw, rows[kept], (rows * up[:, None])[~kept & (up != 0)])
            for draw, kept, up in zip(noise, active, slope, strict=True)
        ]
        return torch.stack([torch.from_numpy(one) for one in found]).to(self.rows)


def _onto_cone(draw, equal, falling):
    """The unit vector d nearest to `draw` or its opposite with ``equal @ d = 0`` and ``falling @ d ≤ 0``, or zero.

    By Moreau's theorem the projection on a cone is what non-negative least squares leave of the vector.
    """
    basis = qr(equal.T, mode="economic")[0] if len(equal) else equal.T

    def unseen(vectors):
        for _ in range(2):  # the second pass takes what the first one's rounding left
            vectors = vectors - (vectors @ basis) @ basis.T
        return vectors

    start, generators = unseen(draw), unseen(falling).T
    for sign in (1, -1):
        left = sign * start
        if generators.size:
            left = unseen(left - generators @ nnls(generators, left)[0])
        size = (left @ left) ** 0.5
        if size > _LEFT * (draw @ draw) ** 0.5:
            return left / size
    return 0 * draw


def _measure(network, geometry, image, after):
    """Return value, slope and activity, ``(N, outputs)``, of the layer called `after`, by running the network."""
    model, first, weight = network
    layers = {name: layer for name, layer in model.named_modules() if not isinstance(layer, torch.jit.ScriptModule)}

    def by_window(outputs):
        return outputs.reshape(-1, len(weight)) if isinstance(layers[first], nn.Linear) else outputs[0].flatten(1).T

    with torch.no_grad(), hooks.untouched(model):
        start = _outputs(model, image, [first])[first]
        if len(start) != 1:
            raise ValueError(f"the first layer, {first}, sees one image as a batch of {len(start)}")
        fit = _fits(model, image, first, start, [after]).get(after) if after in layers else None
        if fit is None:
            others = ", ".join(_fits(model, image, first, start, list(layers)))
            raise ValueError(
                f"{after!r} is not a layer that returns an affine function of each output of the first layer, {first}, "
                f"with a ReLU or without; {others} are"
            )
        value, slope, active = fit
        # Far away the value is known less well than a silent output has to be: closer, where it has just woken.
        value = value.clamp(max=0).where(~active, value)
        woken = start - 2 * torch.where(active | (slope == 0), 0.0, value / slope)
        value = torch.where(active, value, _outputs(model, image, [after], (first, woken))[after] + 2 * value)
        _check_alone(model, image, first, start, after)
        other = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(image)
        moved = by_window(_outputs(model, other, [first])[first] - start)
    change = windows.unfold(geometry, other - image).flatten(0, -2) @ weight.T
    if moved.shape != change.shape or not _same(change, moved):
        raise ValueError(f"the outputs of the first layer, {first}, are not in the order of the windows of the image")
    return by_window(value), by_window(slope), by_window(active)


def _fits(model, image, first, start, names):
    """Return, for each of `names` that is as described, value, slope and activity, of the shape of `start`.

    The first layer's output is replaced by others, near and far, on which a function that is no ReLU gives itself away.
    """
    near = float(start.abs().max()) or 1.0
    reach, generator = _FAR * near, torch.Generator().manual_seed(0)
    draws = torch.randn(2, *start.shape[1:], generator=generator, dtype=torch.float64).to(start)
    probes = [start, *(start + steps * reach for steps in (-2, -1, 1, 2)), start + reach * draws[:1], near * draws[1:]]
    probes = torch.cat(probes)
    found = {}
    for name, outputs in _outputs(model, image, names, (first, probes)).items():
        if outputs is None or outputs.shape != probes.shape:
            continue
        here, below, left, right, above = outputs[:5].split(1)
        rising = right.abs() >= left.abs()
        slope = torch.where(rising, above - right, left - below) / reach
        value = torch.where(rising, 2 * right - above, 2 * left - below)
        line = value + slope * (probes - start)
        if _same(outputs, line):
            found[name] = value, slope, slope != 0
        elif _same(outputs, line.clamp(min=0)):
            found[name] = value, slope, (slope != 0) & (here > 0)
    return found


def _outputs(model, image, names, handed=None):
    """Return what the layers `names` return in their first call, while the first one, if so, hands on other outputs."""
    count = 1 if handed is None else len(handed[1])
    with hooks.replaced(model, *handed) if handed else nullcontext(), hooks.record(model, names) as recording:
        model(image.expand(count, *image.shape).clone())
    return {name: outputs[0] for name, outputs in recording.outputs.items()}


def _check_alone(model, image, first, start, after):
    held = _outputs(model, image, [after])[after]
    returned = []
    for outputs in (start, start + start.abs().max()):
        with hooks.replaced(model, first, outputs), hooks.replaced(model, after, held):
            returned.append(dict(hooks.tensors(model(image[None].clone()))))
    if any(not _same(returned[0][path], tensor) for path, tensor in returned[1].items()):
        raise ValueError(f"{after!r} does not hand on all that the network makes of its first layer, {first}")


def _same(first, second):
    """Whether two tensors agree to rounding, each entry of a batch by its own largest."""
    size = first.abs().flatten(1).amax(1) if first.ndim > 1 else first.abs().max()
    return bool(((first - second).abs().flatten(1).amax(1) <= _ROUNDING * size).all())
