"""The panel of notebook 05 alone, a page without code: `make app`."""

from IPython.display import HTML, display

from collide_utils.show import panels

display(HTML("""<h1>Turn up β</h1>
<p>A null-space perturbation, scaled by β, is added to a photograph. On <code>patchnet</code> no layer notices more than
rounding, however large β is. On <code>stridenet</code>, whose windows overlap, every layer does.</p>"""))
display(panels.beta_panel())
