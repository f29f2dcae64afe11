"""What the panel of a walk along a level set shows."""

import torch

from collide_utils import images, models, weights
from collide_utils.comparison import Reference
from collide_utils.levelsets import LevelSet
from collide_utils.show import canvas


class Walk:
    """A walk on the level set of a network's logits, by names that `models.load` and `images.load` know; in float64.

    ``stops`` is how many there will be, ``images`` are those that have been found, the photograph first. ValueError for
    a walk that ends where it begins.
    """

    def __init__(self, network, start, target, stops):
        if start == target:
            raise ValueError(f"a walk from {start!r} has to aim at another photograph")
        self.network, self.ends, self.stops = network, (start, target), stops
        model = models.load(network, dtype=torch.float64)
        first, self.target = (images.load(name, model.input_size).double() for name in self.ends)
        self.images, self._level, self._reference = [first], LevelSet(model, "logits", first), Reference(model, first)
        self._aim = Reference(model, self.target).answer.said
        self._stem = weights.first_weight(model).name

    def find(self):
        """Find the stops, one after the other; yields how many there are."""
        for number, stop in enumerate(self._level.walk(self.target, self.stops), start=1):
            self.images.append(stop.image)
            yield number

    def draw(self, number):
        """Return stop `number` as bytes of a WebP file, beside both photographs, and what it shows in words."""
        start, image = self.images[0], self.images[number]
        changes, bound, answer = self._reference.measure(image)
        said = self._reference.answer.said
        cells = [
            (canvas.pixels(start), (f"photograph: {self.ends[0]}", said)),
            (canvas.pixels(image), (f"stop {number} of {self.stops}", answer.said)),
            (canvas.pixels(0.5 + image - start), ("stop less photograph", "grey: no difference")),
            (canvas.pixels(self.target), (f"aim: {self.ends[1]}", self._aim)),
        ]
        before = list(changes)[: list(changes).index(self._stem)]
        left, way = (float((self.target - one).square().mean().sqrt()) for one in (image, start))
        words = (
            f"Stop {number} of {self.stops}: {left / way:.0%} of the distance to {self.ends[1]} is left. "
            f"{self.network} says “{said}” to the photograph, “{answer.said}” to this stop, and “{self._aim}” to the "
            f"aim. The logits change by {changes['logits']:.0e} in float64 (rounding: up to {bound:.0e}). "
            f"Every number lies between {float(image.min()):.2f} and {float(image.max()):.2f}."
        )
        return canvas.board(cells, before, changes, bound), words
