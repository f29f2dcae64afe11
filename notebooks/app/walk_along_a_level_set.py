"""A walk along a level set, as in notebook 10, a page without code: `make app`."""

from IPython.display import display

from collide_utils.show import panels, widgets

display(
    widgets.heading(
        "Walk along a level set",
        "From one photograph towards another, so that the network's logits stay the same to rounding. Every stop is a "
        "valid image. Press <b>Walk</b>: the stops take a second or two each.",
    )
)
display(panels.walk_panel())
