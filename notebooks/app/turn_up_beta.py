"""The panel of notebook 07 alone, a page without code: `make app`."""

from IPython.display import display

from collide_utils.show import panels, widgets

display(
    widgets.heading(
        "Turn up β",
        "A null-space perturbation, scaled by β, is added to a photograph. On <code>patchnet</code> no layer notices "
        "more than rounding. On <code>stridenet</code>, whose windows overlap, every layer does.",
    )
)
display(panels.beta_panel())
