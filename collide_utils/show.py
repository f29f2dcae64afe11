"""Figures for the notebooks; nothing is computed here.

Every figure is an ``IPython.display.Image``: a PNG with an alternative text, for readers who cannot see it.
"""

from __future__ import annotations

import io
import math

_STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--")]


def images(pictures, titles, alt, columns=4):
    """Show tensors ``(3, H, W)`` side by side, as a screen would: clipped to [0, 1].

    Parameters
    ----------
    titles : one a picture, lines separated by newlines. Pictures and titles must be equal in number (ValueError).
    alt : what the figure shows, in words.
    """
    if len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures need as many titles, not {len(titles)} titles")
    columns = min(columns, len(pictures))
    figure, axes = _figure(math.ceil(len(pictures) / columns), columns, (2.6, 3.0))
    for axis in axes.flat:
        axis.set_axis_off()
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


def lines(x, series, title, xlabel, ylabel, alt, guides=None):
    """Draw named lists of values against `x`, both axes logarithmic; `guides` are drawn without markers, thin."""
    from matplotlib.ticker import AutoLocator

    figure, axes = _figure(1, 1, (8, 4.2))
    axis = axes[0, 0]
    for (name, values), (marker, line), grey in zip(series.items(), _STYLES, _greys(), strict=False):
        axis.loglog(x, values, marker=marker, linestyle=line, markersize=4, color=grey, label=name)
    for (name, values), (_, line) in zip((guides or {}).items(), _STYLES[1:], strict=False):
        axis.loglog(x, values, linestyle=line, linewidth=1, color="black", label=name)
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    if high < 10 * low:  # a logarithmic axis would have no number to show
        axis.yaxis.set_major_locator(AutoLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside right upper")
    return _png(figure, alt)


def heat_maps(values, titles, unit, alt, xlabel="column", ylabel="row", extent=None):
    """Draw matrices side by side, each with a colour scale of its own for `unit`, row 0 at the top.

    Parameters
    ----------
    values : list of tensors ``(rows, columns)``, shown without smoothing; `titles` : one each (ValueError otherwise).
    extent : ``(left, right, bottom, top)`` of the axes; by default the numbers of columns and rows.
    """
    if len(values) != len(titles):
        raise ValueError(f"{len(values)} matrices need as many titles, not {len(titles)} titles")
    figure, axes = _figure(1, len(values), (4.6, 3.7))
    for axis, matrix, title in zip(axes.flat, values, titles, strict=True):
        drawn = axis.imshow(matrix.cpu().numpy(), cmap="cividis", interpolation="nearest", extent=extent)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        figure.colorbar(drawn, ax=axis, label=unit)
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
