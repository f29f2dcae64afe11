"""Widgets for the notebooks: controls above one picture, whose bytes are replaced when a control changes."""

import html

import torch

from collide_utils import images
from collide_utils.show.scene import RECIPES, Scene


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
        to have. A network is a name that :func:`models.load` knows or a torch module; a photograph is a name that
        :func:`images.load` knows or a tensor ``(C, H, W)`` in [0, 1]. By default three shipped networks and all sample
        photographs. The reader can upload more: JPEG, PNG and WebP files of up to 20 MB.
    start : the β to begin with, a power of two from 1 to 8192.

    The search is in float64, the network runs in its own dtype, which the text names. Perturbations are random mosaics
    of basis vectors, drawn with a seed, one vector repeated, or rings of a vector and its negative. With *stay in [0,
    1]* each window's share of the perturbation is scaled by :meth:`NullSpaceSearch.shrink`; without, the picture is
    clipped, the network's input is not. What cannot be done, a network without a null space for example, is said in
    place of the numbers, and the picture stays. Errors of the first drawing are raised.
    """
    import ipywidgets

    networks = _by_name(networks, "network")
    scene = Scene(networks, _by_name(images.names() if photographs is None else photographs, "photograph"))
    stops = {str(2**power): 2**power for power in range(14)}

    def control(kind, width, *args, **options):
        return kind(*args, **options, style=dict(description_width="initial"), layout=dict(width=width))

    beta = control(ipywidgets.SelectionSlider, "auto", options=list(stops.items()), value=start, description="β")
    beta.layout.flex = "1 1 auto"
    play = ipywidgets.Play(value=beta.index, max=len(stops) - 1, interval=700)
    controls = dict(
        beta=beta,
        network=control(ipywidgets.Dropdown, "160px", options=list(networks), description="network"),
        photograph=control(ipywidgets.Dropdown, "180px", options=list(scene.photographs), description="photograph"),
        recipe=control(ipywidgets.Dropdown, "125px", options=RECIPES, description="recipe"),
        vector=control(ipywidgets.BoundedIntText, "100px", 0, max=0, description="vector"),
        seed=control(ipywidgets.BoundedIntText, "90px", 0, max=9999, description="seed"),
        valid=control(ipywidgets.Checkbox, "115px", False, description="stay in [0, 1]", indent=False),
    )
    upload = control(
        ipywidgets.FileUpload,
        "115px",
        accept=".jpg,.jpeg,.png,.webp",
        description="Upload",
        tooltip="a JPEG, PNG or WebP file of up to 20 MB",
    )
    picture = _picture(
        "Four pictures: the photograph, the perturbation at this β, their sum as shown, and what the "
        "network sees. Beside them the relative change of each layer. The text below says it in words."
    )
    status = ipywidgets.HTML()

    def redraw():
        picture.value, words = scene.draw(**{name: one.value for name, one in controls.items()})
        controls["vector"].max = scene.search.basis.shape[1] - 1
        controls["vector"].disabled = controls["recipe"].value == "mosaic"
        controls["seed"].disabled = controls["recipe"].value != "mosaic"
        status.value = _status(words)

    def changed(_):
        play.value = beta.index
        try:
            redraw()
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            status.value = _status(f"Not drawn, the picture is the last one: {error}")

    def uploaded(_):
        menu = controls["photograph"]
        for file in upload.value:
            try:
                scene.add(file.name, bytes(file.content))
            except ValueError as error:
                status.value = _status(f"Not loaded: {error}")
            else:
                menu.options = list(scene.photographs)
                menu.value = file.name

    redraw()
    for one in controls.values():
        one.observe(changed, "value")
    play.observe(lambda change: setattr(beta, "index", change.new), "value")
    upload.observe(uploaded, "value")
    others = [one for name, one in controls.items() if name != "beta"]
    row = ipywidgets.HBox([*others[:2], upload, *others[2:]], layout=dict(flex_flow="row wrap"))
    return _box([row, ipywidgets.HBox([play, beta]), picture, status])


def _by_name(things, kind):
    if isinstance(things, dict):
        named = things
    else:
        things = [things] if isinstance(things, (str, torch.Tensor, torch.nn.Module)) else list(things)
        named = {
            thing if isinstance(thing, str) else f"{kind} {number}": thing
            for number, thing in enumerate(things, start=1)
        }
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

    return Picture(format="webp", tooltip=words, layout=dict(max_width="100%", align_self="flex-start"))


def _box(children):
    import ipywidgets

    class Panel(ipywidgets.VBox):
        def __repr__(self):  # what a reader without a kernel sees instead
            children = [inner for child in self.children for inner in getattr(child, "children", [child])]
            names = [child.description for child in children if getattr(child, "description", "")]
            return f"[interactive panel: {', '.join(names)}]"

    return Panel(children)
