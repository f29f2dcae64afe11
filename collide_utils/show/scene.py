"""What the β panel shows, from the values of its controls."""

import io
import warnings

import torch
from PIL import Image

from collide_utils import hooks, images, models, weights, windows
from collide_utils.answers import Answer
from collide_utils.comparison import Reference
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import canvas

RECIPES = ("mosaic", "repeat", "pattern")
_FORMATS, _LARGEST = ("JPEG", "PNG", "WEBP"), 20 * 2**20


class Scene:
    """Networks and photographs by name, as :func:`~collide_utils.show.panels.beta_panel` takes them.

    Whatever does not depend on β is kept from one drawing to the next.
    """

    def __init__(self, networks, photographs):
        self.networks, self.photographs = networks, photographs
        sizes = (tuple(one.shape[1:]) for one in photographs.values() if isinstance(one, torch.Tensor))
        self._size = next(sizes, 224)  # for a network that names no size of its own
        self._pair = self._choice = None

    def add(self, name, content):
        """Add a picture from the bytes of a file; ValueError if it is not a JPEG, PNG or WebP file of at most 20 MB."""
        if len(content) > _LARGEST:
            raise ValueError(f"{name} has {len(content) / 2**20:.0f} MB; at most {_LARGEST >> 20} can be loaded")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                picture.verify()
            images.open_rgb(io.BytesIO(content))
        except Exception as error:  # of many kinds, for damaged and hostile files
            raise ValueError(f"{name} is not a JPEG, PNG or WebP picture that can be read") from error
        self.photographs[name] = io.BytesIO(content)

    def draw(self, beta, network, photograph, recipe, vector, seed, valid):
        """Return the picture as bytes of a WebP file, and what it shows in words."""
        if self._pair != (network, photograph):
            self._pair = self._choice = None
            self._load(network, photograph)
            self._pair = network, photograph
        if self._choice != (recipe, vector, seed):
            self._choice, self._perturbation = (recipe, vector, seed), self._made(recipe, vector, seed)
        search, x = self.search, self.image
        v, kept = search.shrink(x, self._perturbation, beta) if valid else (self._perturbation, None)
        y = search.collide(x, v, beta)
        seen, (changes, bound, answer) = search.seen(y), self.reference.measure(y)
        said = self.reference.answer.said, answer.said, answer.said if valid else self._said(y.clamp(0, 1))
        grey_levels = 255 * float((y - x).square().mean().sqrt())
        cells = [
            (self._pixels, ("photograph", said[0])),
            (canvas.pixels(0.5 + y - x), (f"perturbation at {beta:.0f}", f"{grey_levels:.1f} grey levels RMS")),
            (canvas.pixels(y), (f"sum, fed: {said[1]}", f"sum, shown: {said[2]}")),
            (canvas.pixels(seen), (self._seen, self._said(seen))),
        ]
        stem = search.layer.name
        picture = canvas.board(cells, list(changes)[: list(changes).index(stem)], changes, bound)
        return picture, self._words(network, beta, y, said, changes[stem], bound, kept)

    def _load(self, network, photograph):
        model, image = self.networks[network], self.photographs[photograph]
        model = models.load(model) if isinstance(model, str) else model
        shape = weights.default_shape(model)
        size = shape[1:] if shape else self._size
        if isinstance(image, str):
            image = images.load(image, size)
        elif isinstance(image, io.BytesIO):
            image = images.from_file(image, size)
        if not isinstance(image, torch.Tensor) or image.ndim != 3:
            kind = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            raise TypeError(f"the photograph {photograph!r} must be a tensor (C, H, W), not {kind}")
        images.check(image, what=f"photograph {photograph!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlapWarning)  # that is said in words
            self.search = NullSpaceSearch(model, tuple(image.shape))
        self.model, self.image = model, image.to(self.search.basis)
        self.reference, self._pixels = Reference(model, self.image), canvas.pixels(image)
        overlapping = self.search.geometry.overlapping
        self._seen = "tiles less their null space" if overlapping else "what the network sees"
        self._dtype = str(next(model.parameters()).dtype).removeprefix("torch.")

    def _made(self, recipe, vector, seed):
        search = self.search
        if recipe == "mosaic":
            return search.random(torch.Generator().manual_seed(seed))
        repeated = search.repeat(vector)
        if recipe == "repeat":
            return repeated
        rows, columns = (torch.arange(n) - (n - 1) / 2 for n in search.geometry.grid)
        rings = 1 - 2 * (torch.hypot(rows[:, None], columns) // 3 % 2)
        return windows.fold(search.geometry, windows.unfold(search.geometry, repeated) * rings[:, :, None].to(repeated))

    def _said(self, image):
        batch = hooks.fed(self.model, image)[None].contiguous(memory_format=torch.channels_last)  # pools are faster so
        with torch.no_grad(), hooks.untouched(self.model):
            return Answer(self.model, self.model(batch)).said

    def _words(self, network, beta, y, said, change, bound, kept):
        stem, geometry = self.search.layer.name, self.search.geometry
        if kept is None:
            outside = float(((y < 0) | (y > 1)).double().mean())
            limits = f"{outside:.0%} of its numbers lie outside [0, 1], where the picture is clipped."
        else:
            limits = (
                f"It stays in [0, 1]: the median window keeps β = {float(kept.median()):.0f}, "
                f"{float((kept >= beta).double().mean()):.0%} of the windows keep all of it."
            )
        overlap = ""
        if geometry.overlapping:
            overlap = (
                f" The windows of {stem} overlap (window {geometry.window[0]}, stride {geometry.stride[0]}): "
                "what is null in one window is not in the next, so there is no collision."
            )
        return (
            f"β = {beta:.0f}. {network} says “{said[0]}” to the photograph, “{said[1]}” to the numbers "
            f"of the sum, and “{said[2]}” to the sum as shown. Change after {stem}: {change:.1e} in "
            f"{self._dtype} (rounding: up to {bound:.0e}). {limits}{overlap}"
        )
