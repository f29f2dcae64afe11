"""Widgets for the notebooks: controls above one picture, whose bytes are replaced when a control changes."""


import html
import warnings

import torch

from collide_utils import images, models
from collide_utils.comparison import Reference
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import canvas, pictures

REPEATED, MOSAIC = "one basis vector, repeated", "a random mosaic of basis vectors"


def panel(draw, **sliders):
    """Return a widget: `sliders` above the picture that ``draw(**values)`` gives, redrawn when a slider is let go.

    Parameters
    ----------
    draw : function of the sliders' values to an ``IPython.display.Image`` with an alternative text, as the
        functions of :mod:`~collide_utils.show.pictures` return. The text stands under the picture, where screen readers
        announce it when it changes.
    sliders : ipywidgets with a ``value`` and a ``description``, by the name of draw's argument.
    """
    import ipywidgets

    picture, caption = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def redraw(_=None):
        drawn = draw(**{name: slider.value for name, slider in sliders.items()})
        picture.value = drawn.data  # the same widget with new bytes: replacing the widget would flicker
        caption.value = _status(drawn.alt)

    for slider in sliders.values():
        slider.continuous_update = False
        slider.observe(redraw, "value")
    redraw()
    return _box([*sliders.values(), picture, caption])


def beta_panel(networks=("patchnet", "patchnet-b", "stridenet"), photographs=None, start=512):
    """Return a widget that adds β times a null-space perturbation to a photograph and shows what the network notices.

    Parameters
    ----------
    networks, photographs : what the menus offer: one thing, a list of things, or a dict of things by the name they are
        to have. A network is a name that :func:`models.load` knows or a torch module (in eval mode); a photograph is a
        name that :func:`images.load` knows or a tensor ``(C, H, W)`` in [0, 1]. By default three shipped networks and
        all sample photographs.
    start : the β to begin with, from 1 to 8192.

    The search is in float64, the network runs in its own dtype, which the text names. With *stay in [0, 1]* each
    window's share of the perturbation is scaled by :meth:`NullSpaceSearch.shrink`; without, the picture is clipped, the
    network's input is not. What cannot be done, a network without a null space for example, is said in place of the
    numbers, and the picture stays. Errors of the first drawing are raised.
    """
    import ipywidgets

    networks = _by_name(networks, "network")
    photographs = _by_name(images.names() if photographs is None else photographs, "photograph")
    style, layout = dict(description_width="9em"), dict(width="34em", max_width="100%")
    controls = dict(
        beta=ipywidgets.FloatLogSlider(start, base=2, min=0, max=13, step=0.25, description="β", readout_format=".0f"),
        network=ipywidgets.Dropdown(options=list(networks), description="network"),
        photograph=ipywidgets.Dropdown(options=list(photographs), description="photograph"),
        basis=ipywidgets.Dropdown(options=[MOSAIC, REPEATED], description="perturbation"),
        valid=ipywidgets.Checkbox(False, description="stay in [0, 1]: scale each window until it fits"))
    for control in controls.values():
        control.style, control.layout = style, layout
    button = ipywidgets.Button(description="new random draw", tooltip="draw other basis vectors")
    picture = _picture("From left to right: the photograph, the perturbation and their sum; below, the relative change "
                       "of each layer. The text above says the same in numbers.")
    text = ipywidgets.HTML()
    scene, number = _Scene(networks, photographs), 0

    def redraw(_=None):
        values = {name: control.value for name, control in controls.items()}
        picture.value, words = scene.draw(draw=number, **values)
        text.value = _status(words)

    def changed(_):
        try:
            redraw()
        except (ValueError, TypeError, RuntimeError) as error:
            text.value = _status(f"Not drawn, the picture is the last one: {error}")

    def again(_):
        nonlocal number
        number += 1
        changed(_)

    redraw()
    for control in controls.values():
        control.observe(changed, "value")
    button.on_click(again)
    return _box([*controls.values(), button, text, picture])


class _Scene:
    """What :func:`beta_panel` shows, from the values of its controls. Whatever does not depend on β is kept."""

    def __init__(self, networks, photographs):
        self.networks, self.photographs = networks, photographs
        self._pair, self._choice = None, None

    def draw(self, beta, network, photograph, basis, valid, draw):
        """Return the picture as PNG bytes, and what it shows in words."""
        if self._pair != (network, photograph):
            self._pair = self._choice = None
            self._load(network, photograph)
            self._pair = network, photograph
        if self._choice != (basis, draw):
            generator = torch.Generator().manual_seed(draw)
            self.v = self.search.random(generator) if basis == MOSAIC else self.search.repeat(
                int(torch.randint(self.search.basis.shape[1], (), generator=generator)))
            self.v_pixels, self._choice = canvas.pixels(pictures.perturbation(self.v)), (basis, draw)
        v, kept = self.search.shrink(self.image, self.v, beta) if valid else (self.v, None)
        y = self.search.collide(self.image, v, beta)
        found = self.reference.compare(y)
        picture = canvas.side_by_side(
            [self.image_pixels, self.v_pixels if kept is None else canvas.pixels(pictures.perturbation(v)),
             canvas.pixels(y)], ["photograph", "perturbation", "sum"], found.changes, found.bound)
        return picture, self._words(network, beta, y, found, kept)

    def _load(self, network, photograph):
        model, image = self.networks[network], self.photographs[photograph]
        model = models.load(model) if isinstance(model, str) else model
        image = images.load(image, getattr(model, "input_size", 224)) if isinstance(image, str) else image
        if not isinstance(image, torch.Tensor) or image.ndim != 3:
            kind = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            raise TypeError(f"the photograph {photograph!r} must be a tensor (C, H, W), not {kind}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlapWarning)  # said in words
            self.search = NullSpaceSearch(model, tuple(image.shape))
        self.image = image.to(self.search.basis.device)
        self.reference, self.image_pixels = Reference(model, self.image), canvas.pixels(image)
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")

    def _words(self, network, beta, y, found, kept):
        stem = found.changes[self.search.layer.name]
        if kept is None:
            outside = float(((y < 0) | (y > 1)).double().mean())
            limits = (f"{outside:.0%} of its values lie outside [0, 1]: the picture is clipped, what the network sees "
                      "is not.")
        else:
            limits = (f"It stays in [0, 1]: the median window keeps β = {float(kept.median()):.0f}, "
                      f"{float((kept >= beta).double().mean()):.0%} of the windows keep all of it.")
        overlap = (" The windows of the first layer overlap, so null-space vectors of its weight do not collide."
                   if self.search.geometry.overlapping else "")
        logits = "" if found.logits is None else (
            f"Largest difference of a logit: {float((found.logits[1] - found.logits[0]).abs().max()):.1e}. ")
        return (f"β = {beta:.0f}. {network} says “{found.said[0]}” to the photograph and “{found.said[1]}” to the sum. "
                f"{logits}"
                f"Relative change after {self.search.layer.name}: {stem:.1e} in {self.dtype} "
                f"(rounding: up to {found.bound:.0e}). {limits}{overlap}")


def _by_name(things, kind):
    if isinstance(things, dict):
        named = things
    else:
        things = [things] if isinstance(things, (str, torch.Tensor, torch.nn.Module)) else list(things)
        named = {thing if isinstance(thing, str) else f"{kind} {number}": thing
                 for number, thing in enumerate(things, start=1)}
    if not named:
        raise ValueError(f"a panel needs at least one {kind}")
    return named


def _status(words):
    return f'<div role="status">{html.escape(words)}</div>'


def _picture(words):
    import ipywidgets
    import traitlets

    class Picture(ipywidgets.Image):
        # ipywidgets' view asks for a description before it sets a tooltip, the one place for words on an image.
        description = traitlets.Unicode("").tag(sync=True)

    return Picture(format="png", tooltip=words, layout=dict(max_width="100%", object_fit="contain"))


def _box(children):
    import ipywidgets

    class Panel(ipywidgets.VBox):
        def __repr__(self):  # what a reader without a kernel sees instead
            names = [child.description for child in self.children if getattr(child, "description", "")]
            return f"[interactive panel: {', '.join(names)}]"

    return Panel(children)
