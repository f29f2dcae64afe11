"""What a network returns, whatever its task, in words."""

import math
from functools import cached_property

import torch

from collide_utils import hooks


class Answer:
    """What `model` returned for a batch of one image: class scores, a map of labels, boxes, or any tensors at all.

    Attributes
    ----------
    tensors : dict from a path, the tuple of keys and numbers that leads there, to the tensor.
    scores : the tensor ``(1, classes)`` if what was returned is one vector of class scores, else None.
    """

    def __init__(self, model, returned):
        self.tensors, self._categories = dict(hooks.tensors(returned)), getattr(model, "categories", None)
        if not self.tensors:
            raise ValueError(f"{type(model).__name__} returns {type(returned).__name__}, in which there is no tensor")
        only = next(iter(self.tensors.values()))
        one = len(self.tensors) == 1 and only.is_floating_point() and only.ndim == 2 and only.shape[0] == 1
        self.scores = only if one and only.shape[1] > 1 else None

    @property
    def rows(self):
        """The tensors by the names that they have in a table: ``"logits"``, or ``"output"`` and where they stand."""
        if self.scores is not None:
            return {"logits": self.scores}
        return {".".join(map(str, ("output", *path))): tensor for path, tensor in self.tensors.items()}

    @cached_property
    def best(self):
        """The most probable class, a name if the model has ``categories`` and else its number, and its probability."""
        probability, place = self.scores.double().softmax(1)[0].max(0)
        return self._name(int(place), self.scores.shape[1]), float(probability)

    @property
    def said(self):
        """The answer in words, such as ``"cat, p = 0.999"``."""
        if self.scores is not None:
            return f"{self.best[0]}, p = {self.best[1]:.3f}"
        if self._labels is not None:
            count, label = self._labels.flatten().bincount().max(0)
            share = 100 * int(count) / self._labels.numel()
            return f"{self._name(int(label), self._scored_pixels.shape[1])} on {share:.0f} % of pixels"
        if self._boxes is not None:
            return f"{len(self._boxes)} boxes"
        return ", ".join(f"numbers of shape {tuple(tensor.shape)}" for tensor in self.tensors.values())

    def kept(self, other):
        """Return which share of this answer `other` gives too, or None where they are no answers of a known kind.

        That is 1 or 0 for a class, the share of pixels with the same label, and the share of boxes that match.
        """
        if self.scores is not None and other.scores is not None:
            return float(self.best[0] == other.best[0])
        if self._labels is not None and other._labels is not None and self._labels.shape == other._labels.shape:
            return float((self._labels == other._labels).double().mean())
        if self._boxes is not None and other._boxes is not None:
            most = max(len(self._boxes), len(other._boxes))
            return self._matching(other) / most if most else 1.0
        return None

    def agreement(self, other, change):
        """Return how far this answer and `other` agree, in words; `change` is that of their numbers."""
        if self.scores is not None:
            first, second = self.best[0], other.best[0]
            return f"both are {first!r}" if first == second else f"{first!r} becomes {second!r}"
        if self._labels is not None and other._labels is not None and self._labels.shape == other._labels.shape:
            share = float((self._labels == other._labels).double().mean())
            return f"{math.floor(1e4 * share) / 100:.2f} % of pixels have the same label"  # 100.00 only if all have
        if self._boxes is not None and other._boxes is not None:
            most = max(len(self._boxes), len(other._boxes))
            return f"{self._matching(other)} boxes of {most} match"
        return f"what is returned differs by {change:.1e}"

    @cached_property
    def _scored_pixels(self):
        return next(
            (
                tensor
                for tensor in self.tensors.values()
                if tensor.is_floating_point() and tensor.ndim == 4 and tensor.shape[1] > 1
            ),
            None,
        )

    @cached_property
    def _labels(self):
        return None if self._scored_pixels is None else self._scored_pixels.argmax(1)

    @cached_property
    def _boxes(self):
        """Corners and label of each box, as rows of a tensor ``(boxes, 5)``, or None."""
        for path, corners in self.tensors.items():
            labels = self.tensors.get((*path[:-1], "labels"))
            if path and path[-1] == "boxes" and labels is not None:
                return torch.cat([corners, labels[:, None].to(corners)], dim=1).double()
        return None

    def _matching(self, other):
        # Half a pixel is less than labels, which are whole numbers, differ by.
        alike = (self._boxes[:, None] - other._boxes).abs().amax(2) <= 0.5
        matching = 0
        for row in alike:
            if row.any():
                matching += 1
                alike[:, row.int().argmax()] = False  # each box counts once
        return matching

    def _name(self, place, count):
        return self._categories[place] if self._categories and len(self._categories) == count else place
