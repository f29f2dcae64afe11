"""How far apart two inputs are at every layer of a network."""


from dataclasses import dataclass

import torch

from collide_utils import hooks, images

_SHOWN = 8


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`.

    Attributes
    ----------
    changes : dict from a layer's name to ``‖f(y) − f(x)‖ / ‖f(x)‖`` of its output, in forward order. A layer that is
        called several times stands as ``name``, ``name (2)``, …; ``"logits"`` comes last.
    bound : the rounding level, 64 · eps · max(1, ‖y‖ / ‖x‖) with the machine epsilon of the model's dtype. Notebook 02
        holds the factor of 64 against measurements in four dtypes.
    collides_from : the first layer from which every change stays within `bound`, or None.
    logits : float64 tensor ``(2, classes)``, of `x` and of `y`.
    predictions : the two most probable classes: names if the model has ``categories``, else numbers.
    probabilities : their probabilities.
    """

    changes: dict[str, float]
    bound: float
    collides_from: str | None
    logits: torch.Tensor
    predictions: tuple
    probabilities: tuple[float, float]

    @property
    def said(self):
        """What the network says of `x` and of `y`: two strings such as ``"cat, p = 0.999"``."""
        return tuple(f"{what}, p = {p:.3f}" for what, p in zip(self.predictions, self.probabilities, strict=True))

    @property
    def verdict(self):
        """One line: from which layer the two inputs collide, and what is predicted."""
        first, second = self.predictions
        said = f"both are {first!r}" if first == second else f"{first!r} becomes {second!r}"
        if self.bound >= 0.1:
            return f"cannot tell: rounding alone changes features by up to {self.bound:.0e}; {said}"
        if self.collides_from is None:
            return f"no collision: {said}"
        return f"the features collide from {self.collides_from} on: {said}"

    def __repr__(self):
        # Rounding noise differs between machines, so a change within the bound is printed as that, not as its digits.
        rows = [(name, "rounding" if change <= self.bound else f"{change:.1e}")
                for name, change in self.changes.items()]
        if len(rows) > _SHOWN + 2:
            hidden = {text for _, text in rows[_SHOWN:-1]}
            rows[_SHOWN:-1] = [(f"… {len(rows) - _SHOWN - 1} more", hidden.pop() if len(hidden) == 1 else "…")]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'layer':<{width}}  relative change", *(f"{name:<{width}}  {text}" for name, text in rows)]
        return "\n".join([*lines, f"rounding: at most {self.bound:.0e}", self.verdict])


def compare(model, x, y):
    """Run `model` on two images ``(C, H, W)`` and compare what every layer returns; returns a :class:`Comparison`.

    Both images are cast to the dtype and device of the model. ValueError for images of different shapes, with a batch
    dimension or with entries that are not finite; TypeError for anything but floating-point tensors.
    """
    return Reference(model, x).compare(y)


class Reference:
    """What `model` makes of one image, kept to compare many others with: :func:`compare` with its first half done."""

    def __init__(self, model, x):
        self.model, self.x = model, x
        self._logits, recording = self._run(x)
        self._outputs = {name: [output.double() for output in outputs] for name, outputs in recording.outputs.items()}

    def compare(self, y):
        """Return the :class:`Comparison` of the image with `y`; errors as in :func:`compare`."""
        if isinstance(y, torch.Tensor) and y.shape != self.x.shape:
            raise ValueError(f"the images differ in shape: {tuple(self.x.shape)} and {tuple(y.shape)}")
        y_logits, recording = self._run(y)
        changes, seen = {}, {}
        for name in recording.order:
            call = seen[name] = seen.get(name, 0) + 1
            change = _relative(self._outputs[name][call - 1], recording.outputs[name][call - 1].double())
            changes[name if call == 1 else f"{name} ({call})"] = change
        logits = torch.stack([self._logits, y_logits])
        changes["logits"] = _relative(*logits)
        growth = max(1.0, float(y.double().norm() / self.x.double().norm()))
        bound = 64 * torch.finfo(next(self.model.parameters()).dtype).eps * growth
        collides_from = None
        for name, change in reversed(changes.items()):
            if not change <= bound:
                break
            collides_from = name
        probabilities, places = logits.softmax(1).max(1)
        names = getattr(self.model, "categories", None)
        predictions = tuple(names[p] if names else p for p in places.tolist())
        return Comparison(changes, bound, collides_from, logits, predictions, tuple(probabilities.tolist()))

    def _run(self, image):
        images.check(image)
        # One image at a time: in a batch of two the arithmetic may be arranged differently for the second. On a GPU,
        # cuDNN would round float32 to ten bits unless told not to.
        weight = next(self.model.parameters())
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False), hooks.record(self.model) as recording:
            return self.model(image.to(weight)[None])[0].double(), recording


def _relative(first, second):
    change, size = float((second - first).norm()), float(first.norm())
    return change / size if size else (0.0 if change == 0 else float("inf"))
