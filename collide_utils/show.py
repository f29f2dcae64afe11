"""Figures for the notebooks; nothing is computed here.

Every figure is an ``IPython.display.Image``: a PNG with an alternative text, for readers who cannot see it.
"""

from __future__ import annotations

import html
import io
import math

_STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--")]


def images(pictures, titles, alt, columns=4, width=2.6):
    """Show tensors ``(3, H, W)`` side by side, as a screen would: clipped to [0, 1].

    Parameters
    ----------
    titles : one a picture, lines separated by newlines. Pictures and titles must be equal in number (ValueError).
    alt : what the figure shows, in words.
    width : of each picture, in inches.
    """
    if len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures need as many titles, not {len(titles)} titles")
    columns = min(columns, len(pictures))
    lines = 1 + max(title.count("\n") for title in titles)
    figure, axes = _figure(math.ceil(len(pictures) / columns), columns, (width, width + 0.1 + 0.2 * lines))
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_anchor("S")  # what room is left belongs to the titles
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9)
    return _png(figure, alt)


def perturbation(delta):
    """Return `delta` ``(3, H, W)`` as a picture: zero is mid-grey, its largest entry black or white."""
    return 0.5 + delta / (2 * delta.abs().max())


def spectrum(singular_values, columns, alt):
    """Draw the singular values of a matrix and, at the right, the columns that have none: its null space."""
    figure, axes = _figure(1, 1, (7.5, 3.2))
    axis = axes[0, 0]
    rank = len(singular_values)
    axis.semilogy(range(1, rank + 1), singular_values, "o", markersize=4, color="black")
    axis.axvspan(rank + 0.5, columns + 0.5, color="0.85")
    axis.text((rank + columns) / 2, max(singular_values), f"null space:\n{columns - rank} dimensions", ha="center",
              va="top")
    axis.set(title="Singular values of the first weight", xlabel="number of the singular value",
             ylabel="singular value\n(per unit of pixel value)", xlim=(0, columns + 1))
    return _png(figure, alt)


def change_by_layer(comparisons, alt):
    """Draw the relative feature change of every layer, one line for each of the named :class:`Comparison` objects."""
    figure, axes = _figure(1, 1, (8, 4.2))
    axis = axes[0, 0]
    for (name, comparison), (marker, line), grey in zip(comparisons.items(), _STYLES, _greys(), strict=False):
        values = [max(change, 1e-17) for _, change in comparison.changes]
        axis.semilogy(values, marker=marker, linestyle=line, markersize=3, color=grey, label=name)
    layers = [layer for layer, _ in comparison.changes]
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    axis.set(title="Relative feature change, layer by layer", xlabel="layer, in forward order",
             ylabel="‖f(y) − f(x)‖ / ‖f(x)‖")
    axis.legend()
    return _png(figure, alt)


def lines(x, series, title, xlabel, ylabel, alt, guides=None, xscale="log", yscale="log"):
    """Draw named lists of values against `x`; `guides` are drawn without markers, thin. A short `x` is marked in full.

    `xscale` and `yscale` are matplotlib's, ``"log"`` or ``"linear"``.
    """
    figure, axes = _figure(1, 1, (8, 4.2))
    axis = axes[0, 0]
    for (name, values), (marker, line), grey in zip(series.items(), _STYLES, _greys(), strict=False):
        axis.plot(x, values, marker=marker, linestyle=line, markersize=4, markevery=max(1, len(x) // 16), color=grey,
                  label=name)
    for (name, values), (_, line) in zip((guides or {}).items(), _STYLES[1:], strict=False):
        axis.plot(x, values, linestyle=line, linewidth=1, color="black", label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    if len(x) <= 16:
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
    figure.legend(loc="outside right upper")
    return _png(figure, alt)


def heatmaps(matrices, titles, xlabel, ylabel, label, alt, columns=3, limits=None):
    """Draw tensors ``(rows, columns)``, one a title, as heat maps of one scale, `label`; `limits` are its ends."""
    if len(matrices) != len(titles):
        raise ValueError(f"{len(matrices)} matrices need as many titles, not {len(titles)} titles")
    low, high = limits or (min(float(m.min()) for m in matrices), max(float(m.max()) for m in matrices))
    figure, axes = _figure(math.ceil(len(matrices) / columns), columns, (2.7, 2.8))
    for axis, matrix, title in zip(axes.flat, matrices, titles, strict=False):
        drawn = axis.imshow(matrix.float().cpu().numpy(), cmap="cividis", vmin=low, vmax=high)
        axis.set_title(title, fontsize=9)
    for axis in axes.flat[len(matrices):]:
        axis.set_axis_off()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    figure.colorbar(drawn, ax=axes, label=label)
    return _png(figure, alt)


def against_band(series, band, title, xlabel, ylabel, alt):
    """Draw named lists of values by their number, from 1, over a grey band: `band` is ``(name, lower, upper)``."""
    figure, axes = _figure(1, 1, (8, 4.2))
    axis = axes[0, 0]
    name, lower, upper = band
    axis.fill_between(range(1, len(lower) + 1), lower, upper, color="0.8", label=name)
    for (name, values), (marker, line), grey in zip(series.items(), _STYLES, _greys(), strict=False):
        numbers = range(1, len(values) + 1)
        axis.plot(numbers, values, marker=marker, linestyle=line, markersize=3, color=grey, label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.legend()
    return _png(figure, alt)


def against_law(samples, density, distribution, xlabel, alt, upper=6):
    """Draw named samples of a positive quantity against a law, up to `upper`: histograms, empirical distributions."""
    import numpy as np

    figure, axes = _figure(1, 2, (5, 3.8))
    grid = np.linspace(0.002, upper, 600)
    for (name, sample), (_, line), grey in zip(samples.items(), _STYLES, _greys(), strict=False):
        axes[0, 0].hist(sample, bins=np.linspace(0, upper, 25),
                        weights=np.full(len(sample), 24 / upper / len(sample)), histtype="step", linestyle=line,
                        color=grey, label=name)
        axes[0, 1].step(np.sort(sample), (np.arange(len(sample)) + 1) / len(sample), where="post", linestyle=line,
                        color=grey, label=name)
    for axis, law in zip(axes[0], (density, distribution), strict=True):
        axis.plot(grid, law(grid), color="black", linewidth=2, alpha=0.6, label="the law")
        axis.set(xlim=(0, upper), xlabel=xlabel)
        axis.legend()
    axes[0, 0].set(title="Histogram", ylabel="probability density", ylim=(0, 2.5))
    axes[0, 1].set(title="Empirical distribution", ylabel="share of draws below", ylim=(0, 1))
    return _png(figure, alt)


def strips(groups, title, xlabel, alt):
    """Draw numbers in [0, 1] as dots on one line for each group: ``{group: {series: [numbers]}}``."""
    figure, axes = _figure(1, 1, (8, 1.2 + 0.24 * len(groups)))
    axis = axes[0, 0]
    series = list(next(iter(groups.values())))
    for name, (marker, _), grey in zip(series, _STYLES, _greys(), strict=False):
        points = [(value, place) for place, group in enumerate(groups.values()) for value in group[name]]
        axis.plot(*zip(*points, strict=True), marker, markersize=5, color=grey, alpha=0.7, label=name)
    axis.set_yticks(range(len(groups)), groups, fontsize=8)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.set(title=title, xlabel=xlabel, xlim=(-0.02, 1.02), ylim=(len(groups) - 0.5, -0.5))
    axis.legend()
    return _png(figure, alt)


def table(rows, columns, caption):
    """Show a table that a click on a column's head, or Enter on it, sorts: an ``IPython.display.HTML``.

    Parameters
    ----------
    rows : tuples of strings and numbers, as long as `columns`, which are the heads.
    caption : what the table holds, in words.
    """
    from IPython.display import HTML

    def cell(value):
        right = "" if isinstance(value, str) else ' style="text-align: right"'
        return f"<td{right}>{html.escape(value) if isinstance(value, str) else f'{value:,}'}</td>"

    # The script finds its table from the button, so that copies of the page, and tables beside it, sort by themselves.
    sort = ("const head=this.parentNode,body=head.closest('table').tBodies[0],up=head.ariaSort!='ascending',"
            "key=row=>row.cells[head.cellIndex].innerText.replaceAll(',','');"
            "[...head.parentNode.cells].forEach(other=>other.ariaSort='none');"
            "head.ariaSort=up?'ascending':'descending';"
            "[...body.rows].sort((a,b)=>(up?1:-1)*key(a).localeCompare(key(b),'en',{numeric:true}))"
            ".forEach(row=>body.append(row))")
    heads = "".join(f'<th scope="col"><button type="button" onclick="{sort}">{html.escape(column)}</button></th>'
                    for column in columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return HTML(f'<div style="max-height: 24em; overflow: auto"><table><caption>{html.escape(caption)}</caption>'
                f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>")


def _greys():
    from matplotlib import colormaps

    return [colormaps["cividis"](place) for place in (0.0, 0.35, 0.65, 0.9, 0.2, 0.5)]


def _figure(rows, columns, size):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure, alt):
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image(data=buffer.getvalue(), alt=alt)
