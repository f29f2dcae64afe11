"""What must be equal in the maps of two images that collide, and what is not forced to be: theory, without any map.

Let x and y give equal outputs of every layer from one on. The argument has three steps.

1. *The cut.* Look for the first of these layers through which all passes that the network says of an image: shown
   noise, but handed the output that this layer has for x, it says what it says of x, to rounding. The rest of the
   network is then a function of that one tensor, which x and y share.
2. *Behind the cut* everything is equal, forward and backward: activations, and the gradients of the logits there, at
   the cut's output too. The same noise tells what lies behind: all that it did not change.
3. *Before the cut* the images differ, and with them what a layer passes on: no activation is forced to agree. A
   gradient there is the one at the cut times the transposed derivative of what leads to the cut. It agrees if that is
   constant, because all that leads there is affine. It also does if the cut is a ReLU behind affine layers, for its
   derivative is 1 where its *output* is positive and else 0, and the outputs agree. The derivative of a max pool
   depends on where its largest inputs are, and of that its output says nothing.

A map is equal if all that its method reads is. What is not forced may still be equal: nothing here proves a difference.
"""

from contextlib import nullcontext

import torch
from torch import nn

from collide_utils import hooks, windows


class Collision:
    """Two images ``(1, C, H, W)`` that collide in `model`, in eval mode, from the layer called `begin` on.

    Attributes
    ----------
    cut : the name of the layer of step 1, or None: nothing is then forced.
    behind : the set of pairs of a name, of `layers`, and a side that lie behind it.
    steady : the set of those before it, and None for the image, at which the gradient is equal (step 3).
    around : whether the gradients at x + n and y + n are equal too, for the same noise n. If the cut is a ReLU they
        need not be: these do not have to collide.
    whole : the set of those, and None, whose entries are those of the pixels, each from its own pixel, so that windows
        of the cut can be blanked there: equal again, if no window is cut into.
    """

    def __init__(self, model, x, y, begin, layers):
        self.cut, self.behind, self.steady, self.around, self.whole = None, set(), set(), False, set()
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
        with torch.no_grad():
            for name, call in _calls(model, x, begin):
                seen, said = _run(model, x, [name, *layers])
                handed, said_again = _run(model, noise, [name, *layers], (name, seen.outputs[name][call], call))
                if _same(said, said_again):
                    break
            else:
                return
            self.cut, self._layer = name, model.get_submodule(name)
            self.behind = {
                (layer, side)
                for layer in layers
                for side, was, now in (("input", seen.inputs, handed.inputs), ("output", seen.outputs, handed.outputs))
                if _equal(was[layer], now[layer])
            }
            if call == 0:
                self._before(model, x, y, noise, layers)

    def _before(self, model, x, y, noise, layers):
        far = x + (noise - 0.5) * 4 * (y - x).abs().max().clamp(min=1)
        some = (noise[:, :1] < 0.5).expand_as(x)  # whole pixels, drawn
        probes = x, y, far, x + y - far, torch.where(some, x, y)
        runs = [_run(model, probe, [self.cut, *layers])[0] for probe in probes]

        def values(name, side):
            if name is None:
                return probes
            found = [getattr(run, f"{side}s")[name][0] for run in runs]
            return [value.view(x.shape) for value in found] if found[0].numel() == x.numel() else found

        def affine(name, side):
            a, b, c, d, _ = values(name, side)
            largest = max(float(value.abs().max()) for value in (a, b, c, d))
            return float((a + b - c - d).abs().max()) <= torch.finfo(a.dtype).eps ** 0.5 * largest

        def by_pixel(name, side):
            a, b, *_, mixed = values(name, side)
            return a.shape == x.shape and _same(mixed, torch.where(some, a, b))

        places = [None, *((layer, side) for layer in layers for side in ("input", "output"))]
        places = {place: (None, "") if place is None else place for place in places if place not in self.behind}
        self.around = affine(self.cut, "output")
        if self.around or (isinstance(self._layer, nn.ReLU) and affine(self.cut, "input")):
            self.steady = {place for place, where in places.items() if affine(*where)}
        try:
            self._geometry = windows.geometry(self._layer, x.shape[1:])
        except ValueError:  # not a layer with windows on the image
            return
        if by_pixel(self.cut, "input"):
            self.whole = {place for place, where in places.items() if by_pixel(*where)}

    def equal(self, method, layer, side):
        """Return whether the maps of a method, at one side of a layer or (layer None) at the image, must be equal."""
        place = None if layer is None else (layer, side)
        behind, blank = place in self.behind, place in self.whole and method.block is not None
        equal = {
            "activation": behind,
            "pixels": False,
            "gradient": behind or place in self.steady,
            "image gradient": None in self.steady,
            "gradients around": self.around and None in self.steady,
            "blocks": behind or (blank and not cuts(self._geometry, method.block)),
        }
        return all(equal[what] for what in method.reads)


def cuts(geometry, block):
    """Return whether an edge between blocks runs through a window; `block` is the side as a function of the image's."""
    return any(
        len({pixel // block(axis.size) for pixel in pixels if 0 <= pixel < axis.size}) > 1
        for axis in geometry.axes
        for pixels in axis.ranges
    )


def _calls(model, x, begin):
    """The calls, as (name, number from 0), of the layers from `begin` on, which is called as in a Comparison."""
    with hooks.record(model) as recording:
        model(x)
    calls, numbers = [], {}
    for name in recording.order:
        number = numbers[name] = numbers.get(name, -1) + 1
        if recording.outputs[name][number] is not None:
            calls.append((name, number))
    labels = [name if number == 0 else f"{name} ({number + 1})" for name, number in calls]
    return calls[labels.index(begin) :] if begin in labels else []


def _run(model, image, layers, handed=None):
    """Record `layers` while `model` is shown an image and, if so, one call's output is replaced by what is handed."""
    with hooks.replaced(model, *handed) if handed else nullcontext(), hooks.record(model, layers) as recording:
        return recording, model(image)


def _equal(first, second):
    return len(first) == len(second) > 0 and all(
        a is not None and b is not None and _same(a, b) for a, b in zip(first, second, strict=True)
    )


def _same(first, second):
    rounding = 64 * torch.finfo(first.dtype).eps * float(first.abs().max()) if first.is_floating_point() else 0
    return first.shape == second.shape and float((first - second).abs().max()) <= rounding
