"""Widgets for the notebooks: sliders above one picture, whose bytes are replaced when a slider moves."""

from __future__ import annotations


def panel(draw, **sliders):
    """Return a widget: `sliders` above the picture that ``draw(**values)`` gives, redrawn when a slider is let go.

    Parameters
    ----------
    draw : function of the sliders' values to an ``IPython.display.Image`` with an alternative text, as the
        functions of :mod:`~collide_utils.show` return. The text stands under the picture, where screen readers announce
        it when it changes.
    sliders : ipywidgets with a ``value`` and a ``description``, by the name of draw's argument.
    """
    import html

    import ipywidgets

    class Panel(ipywidgets.VBox):
        def __repr__(self):  # what a reader without a kernel sees instead
            return f"[interactive panel: {', '.join(slider.description for slider in sliders.values())}]"

    picture, caption = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def redraw(_=None):
        drawn = draw(**{name: slider.value for name, slider in sliders.items()})
        picture.value = drawn.data  # the same widget with new bytes: replacing the widget would flicker
        caption.value = f'<div role="status">{html.escape(drawn.alt)}</div>'

    for slider in sliders.values():
        slider.continuous_update = False
        slider.observe(redraw, "value")
    redraw()
    return Panel([*sliders.values(), picture, caption])
