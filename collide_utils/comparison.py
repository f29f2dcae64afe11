"""How far apart two inputs are at every layer of a network, and in what it says of them."""

import copy
from collections import Counter
from dataclasses import dataclass

import torch

from collide_utils import hooks, images
from collide_utils.answers import Answer

_SHOWN = 8
# A darker image does not have smaller features: networks subtract a mean and add biases. In [0, 1], root mean square.
_DARKEST = 0.1


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`.

    Attributes
    ----------
    changes : dict from a layer's name to ``‖f(y) − f(x)‖ / ‖f(x)‖`` of its output, in forward order. A layer that is
        called several times stands as ``name``, ``name (2)``, …; of several tensors that it returns, the first counts.
        What the network returns comes last: ``"logits"`` for class scores, and otherwise every tensor in it, as
        ``"output"`` followed by where it stands. Infinite where `x` has zeros and `y` has not, or the shapes differ.
    bound : the rounding level, 64 · eps · max(1, ‖y‖ / ‖x‖) with the machine epsilon of the model's dtype and a root
        mean square of `x` of at least 0.1. Notebook 02 holds the factor of 64 against measurements in four dtypes.
    collides_from : the first layer from which every change stays within `bound`, in float64 too, or None.
    doubt : why changes within `bound` are no collision, or None: in float64 they are larger than its rounding, the
        model does not run in float64, or what it returns from there on is the same for noise.
    said : what the network says of `x` and of `y`, such as ``"cat, p = 0.999"``, ``"road on 41 % of pixels"`` or
        ``"7 boxes"``.
    agreement : both in one, such as ``"both are 'cat'"``, ``"99.98 % of pixels have the same label"`` or
        ``"7 boxes of 7 match"`` (with the same label, no corner off by more than half a pixel).
    logits, predictions, probabilities : of `x` and of `y`, where the network returns one vector of class scores, and
        otherwise None: float64 tensor ``(2, classes)``; the most probable classes, as names if the model has
        ``categories``, else as numbers; and their probabilities.
    """

    changes: dict[str, float]
    bound: float
    collides_from: str | None
    doubt: str | None
    said: tuple[str, str]
    agreement: str
    logits: torch.Tensor | None
    predictions: tuple | None
    probabilities: tuple[float, float] | None

    @property
    def verdict(self):
        """One line: from which layer the two inputs collide, and what is predicted."""
        found = self.doubt or "no collision"
        if self.collides_from is not None:
            found = f"the features collide from {self.collides_from} on"
        return f"{found}: {self.agreement}"

    def __repr__(self):
        # Rounding noise differs between machines, so a change within the bound is printed as that, not as its digits.
        rows = [
            (name, "rounding" if change <= self.bound else f"{change:.1e}") for name, change in self.changes.items()
        ]
        if len(rows) > _SHOWN + 2:
            hidden = {text for _, text in rows[_SHOWN:-1]}
            rows[_SHOWN:-1] = [(f"… {len(rows) - _SHOWN - 1} more", hidden.pop() if len(hidden) == 1 else "…")]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'layer':<{width}}  relative change", *(f"{name:<{width}}  {text}" for name, text in rows)]
        return "\n".join([*lines, f"rounding: at most {self.bound:.0e}", self.verdict])


def compare(model, x, y, output=None):
    """Run `model` on two images ``(C, H, W)`` and compare what every layer returns; returns a :class:`Comparison`.

    Parameters
    ----------
    model : of any task. It runs in eval mode on copies of the images, cast to its dtype and device, one at a time; a
        model of another dtype than float64 also on a copy of itself in float64, where features agree.
    output : function from what the model returns for a batch of one to the part that is to be compared, such as
        ``lambda returned: returned["out"]``; by default all of it.

    The model, the images and torch's random state and flags are left as they are. ValueError for images of different
    shapes, with a batch dimension or with entries that are not finite, or for a model that returns no tensor; TypeError
    for anything but floating-point tensors.
    """
    return Reference(model, x, output).compare(y)


class Reference:
    """What `model` makes of one image, kept to compare many others with: :func:`compare` with its first half done.

    ``answer`` is the model's :class:`~collide_utils.answers.Answer` to the image.
    """

    def __init__(self, model, x, output=None):
        images.check(x)
        self.model, self.x, self.output = model, x.detach().clone(), output
        self._features, self.answer = self._run(x)
        self._double = self._constant = None

    def compare(self, y):
        """Return the :class:`Comparison` of the image with `y`; errors as in :func:`compare`."""
        changes, bound, answer = self.measure(y)
        collides_from, doubt = self._confirm(y, changes, bound)
        said = self.answer.said, answer.said
        agreement = self.answer.agreement(answer, max(changes[name] for name in answer.rows))
        if answer.scores is None:
            return Comparison(changes, bound, collides_from, doubt, said, agreement, None, None, None)
        logits = torch.cat([self.answer.scores, answer.scores]).double()
        predictions, probabilities = zip(self.answer.best, answer.best, strict=True)
        return Comparison(changes, bound, collides_from, doubt, said, agreement, logits, predictions, probabilities)

    def measure(self, y):
        """Return the ``changes`` and the ``bound`` of :meth:`compare`, and the model's :class:`Answer` to `y`.

        One run of the model: what is not asked is whether float64 confirms a collision. Errors as in :func:`compare`.
        """
        if isinstance(y, torch.Tensor) and y.shape != self.x.shape:
            raise ValueError(f"the images differ in shape: {tuple(self.x.shape)} and {tuple(y.shape)}")
        features, answer = self._run(y)
        changes = {name: _relative(self._features.get(name), feature) for name, feature in features.items()}
        smallest = _DARKEST * self.x.numel() ** 0.5
        growth = max(1.0, float(y.double().norm()) / max(float(self.x.double().norm()), smallest))
        eps = torch.finfo(hooks.fed(self.model, self.x).dtype).eps
        return changes, 64 * eps * growth, answer

    def _run(self, image):
        """Return what the layers and, last, the model return, by name, and the model's :class:`Answer`."""
        images.check(image)
        # One image at a time: in a batch of two the arithmetic may be arranged differently for the second.
        with torch.no_grad(), hooks.untouched(self.model), hooks.record(self.model) as recording:
            returned = self.model(hooks.fed(self.model, image)[None])
            answer = Answer(self.model, returned if self.output is None else self.output(returned))
        features, calls = {}, Counter()
        for name in recording.order:
            tensor = recording.outputs[name][calls[name]]
            calls[name] += 1
            if tensor is not None:
                features[name if calls[name] == 1 else f"{name} ({calls[name]})"] = tensor
        for name, tensor in answer.rows.items():
            features.pop(name, None)  # of a layer that has the same name
            features[name] = tensor
        return features, answer

    def _confirm(self, y, changes, bound):
        """Return from where the images collide, if they do beyond doubt, and what the doubt is, if there is one."""
        places, start = list(changes), _begin(changes, bound)
        if start is None or start in list(self.answer.rows)[1:]:  # a part of what is returned may agree by itself
            return None, None
        dtype = hooks.fed(self.model, self.x).dtype
        if dtype != torch.float64:
            cannot = f"cannot tell in {str(dtype).removeprefix('torch.')}"
            try:
                if self._double is None:
                    self._double = Reference(copy.deepcopy(self.model).double(), self.x.double(), self.output)
                found = self._double.compare(y.double())
            except Exception as error:  # of any kind, from code that is not ours
                return None, f"{cannot}, and in float64 {type(self.model).__name__} does not run ({error})"
            if found.collides_from is None:
                behind = [found.changes.get(name, 0) for name in places[places.index(start) :]]
                return None, found.doubt or (
                    f"{cannot}, which rounds away a change of up to {max(behind):.0e} from {start} on"
                )
            return max(start, found.collides_from, key=places.index), None
        if bound >= 0.1:
            return None, f"cannot tell, for rounding alone changes features by up to {bound:.0e}"
        if self._constant is None:
            noise = torch.rand(self.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            features, _ = self._run(noise)
            self._constant = (
                _begin(
                    {name: _relative(self._features.get(name), features.get(name)) for name in changes},
                    64 * torch.finfo(dtype).eps,
                )
                or ""
            )
        if self._constant and places.index(self._constant) <= places.index(start):
            return None, f"no collision of these two, for from {start} on {type(self.model).__name__} is blind to noise"
        return start, None


def _relative(first, second):
    if first is None or second is None or first.shape != second.shape:
        return float("inf")
    first = first.double()
    difference = second.to(torch.float64, copy=True).sub_(first)  # in place: where a slider moves, memory is the cost
    change, size = float(difference.norm()), float(first.norm())
    return change / size if size else (0.0 if change == 0 else float("inf"))


def _begin(changes, bound):
    """The first layer from which all changes are at most `bound`."""
    begin = None
    for name, change in reversed(changes.items()):
        if not change <= bound:
            break
        begin = name
    return begin
