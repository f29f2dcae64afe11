"""The panel of notebook 07 alone, a page without code: `make app`."""

from IPython.display import HTML, display

from collide_utils.show import panels

# Voila takes the icons of the play button from a server elsewhere; these need none.
display(
    HTML("""<style>.widget-play .fa::before { font: 1em sans-serif } .widget-play .fa-play::before { content: "▶" }
.widget-play .fa-pause::before { content: "❚❚" } .widget-play .fa-stop::before { content: "■" }
.widget-play .fa-repeat::before, .widget-play .fa-retweet::before { content: "⟳" }</style>
<h1 style="font-size: 1.4em; margin: 0">Turn up β</h1>
<p style="margin: 0.3em 0">A null-space perturbation, scaled by β, is added to a photograph. On <code>patchnet</code> no
layer notices more than rounding. On <code>stridenet</code>, whose windows overlap, every layer does.</p>""")
)
display(panels.beta_panel())
