"""Widgets for the notebooks: controls above one picture, whose bytes are replaced when a control changes."""

import torch

from collide_utils import images
from collide_utils.show import widgets
from collide_utils.show.scene import RECIPES, Scene
from collide_utils.show.walk import Walk
from collide_utils.show.widgets import control


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
        caption.value = widgets.status(drawn.alt)

    for slider in sliders.values():
        slider.continuous_update = False
        slider.observe(redraw, "value")
    redraw()
    return widgets.box([*sliders.values(), picture, caption])


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

    beta = control(ipywidgets.SelectionSlider, "auto", options=list(stops.items()), value=start, description="β")
    controls = dict(
        beta=beta,
        network=control(ipywidgets.Dropdown, "160px", options=list(networks), description="network"),
        photograph=control(ipywidgets.Dropdown, "180px", options=list(scene.photographs), description="photograph"),
        recipe=control(ipywidgets.Dropdown, "125px", options=RECIPES, description="recipe"),
        vector=control(ipywidgets.BoundedIntText, "100px", 0, max=0, description="vector"),
        seed=control(ipywidgets.BoundedIntText, "90px", 0, max=9999, description="seed"),
        valid=control(ipywidgets.Checkbox, "115px", False, description="stay in [0, 1]", indent=False),
    )
    upload = ipywidgets.FileUpload(
        layout=dict(width="115px"),
        accept=".jpg,.jpeg,.png,.webp",
        description="Upload",
        tooltip="a JPEG, PNG or WebP file of up to 20 MB",
    )
    picture = widgets.picture(
        "Four pictures: the photograph, the perturbation at this β, their sum as shown, and what the "
        "network sees. Beside them the relative change of each layer. The text below says it in words."
    )
    status = ipywidgets.HTML()

    def redraw():
        picture.value, words = scene.draw(**{name: one.value for name, one in controls.items()})
        controls["vector"].max = scene.search.basis.shape[1] - 1
        controls["vector"].disabled = controls["recipe"].value == "mosaic"
        controls["seed"].disabled = controls["recipe"].value != "mosaic"
        status.value = widgets.status(words)

    def changed(_):
        try:
            redraw()
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            status.value = widgets.status(f"Not drawn, the picture is the last one: {error}")

    def uploaded(_):
        menu = controls["photograph"]
        for file in upload.value:
            try:
                scene.add(file.name, bytes(file.content))
            except ValueError as error:
                status.value = widgets.status(f"Not loaded: {error}")
            else:
                menu.options = list(scene.photographs)
                menu.value = file.name

    redraw()
    for one in controls.values():
        one.observe(changed, "value")
    upload.observe(uploaded, "value")
    others = [one for name, one in controls.items() if name != "beta"]
    row = ipywidgets.HBox([*others[:2], upload, *others[2:]], layout=dict(flex_flow="row wrap"))
    return widgets.box([row, widgets.played(beta, len(stops) - 1, 700), widgets.beside(picture, status)])


def walk_panel(networks=("patchnet", "patchnet-b", "patchnet-l2"), photographs=None, stops=12):
    """Return a widget that walks from one photograph towards another, on the level set of a network's logits.

    Parameters
    ----------
    networks, photographs : names for the menus, as :func:`models.load` and :func:`images.load` know them; all sample
        photographs by default. The first two are where the walk begins and what it aims at.
    stops : of the walk. :meth:`LevelSet.walk` finds them when the reader asks for it, and each is shown at once;
        afterwards a slider goes through them.

    Network and search are in float64. What cannot be done is said in place of the numbers, and the picture stays.
    Errors of the first drawing are raised.
    """
    import ipywidgets

    photographs = images.names() if photographs is None else list(photographs)
    if len(photographs) < 2:
        raise ValueError(f"a walk needs two photographs, not {len(photographs)}")
    menus = [
        control(ipywidgets.Dropdown, "160px", options=list(networks), description="network"),
        control(ipywidgets.Dropdown, "180px", options=photographs, description="from"),
        control(ipywidgets.Dropdown, "180px", options=photographs, value=photographs[1], description="towards"),
    ]
    tooltip = "find the stops, one after the other"
    button = ipywidgets.Button(description="Walk", tooltip=tooltip, layout=dict(width="80px"))
    progress = control(ipywidgets.IntProgress, "300px", max=stops, description="found")
    slider = control(ipywidgets.IntSlider, "auto", max=stops, description="stop")
    played = widgets.played(slider, stops, 700)
    picture = widgets.picture(
        "Four pictures: the photograph, this stop of the walk, their difference, and what the walk aims at. "
        "Beside them the relative change of each layer. The text below says it in words."
    )
    status, walk = ipywidgets.HTML(), None

    def draw(_=None):
        picture.value, words = walk.draw(slider.value)
        status.value = widgets.status(words if slider.value else f"{words} Press Walk.")

    def usable(finding):
        for one in (*menus, button):
            one.disabled = finding
        for one in played.children[:2]:
            one.disabled = finding or len(walk.images) <= stops

    def begin():
        nonlocal walk
        walk = Walk(*(menu.value for menu in menus), stops)
        progress.value = slider.value = 0
        usable(False)
        draw()

    def attempt(action):
        try:
            action()
        except (ValueError, RuntimeError) as error:
            status.value = widgets.status(f"Not drawn, the picture is the last one: {error}")

    def find():
        begin()
        usable(True)
        try:
            for found in walk.find():
                progress.value = slider.value = found
        finally:
            usable(False)

    begin()
    slider.observe(draw, "value")
    for menu in menus:
        menu.observe(lambda _: attempt(begin), "value")
    button.on_click(lambda _: attempt(find))
    row = ipywidgets.HBox([*menus, button, progress], layout=dict(flex_flow="row wrap"))
    return widgets.box([row, played, widgets.beside(picture, status)])


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
