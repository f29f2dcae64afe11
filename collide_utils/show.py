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
    figure, axes = _figure(1, 1, (8, 4.2))
    axis = axes[0, 0]
    for (name, values), (marker, line), grey in zip(series.items(), _STYLES, _greys(), strict=False):
        axis.loglog(x, values, marker=marker, linestyle=line, markersize=4, color=grey, label=name)
    for (name, values), (_, line) in zip((guides or {}).items(), _STYLES[1:], strict=False):
        axis.loglog(x, values, linestyle=line, linewidth=1, color="black", label=name)
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside right upper")
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


def heat_maps(rows, labels, titles, alt):
    """Show rows of pictures ``(3, H, W)`` and maps ``(h, w)``, one label a row and one title a column.

    The maps of a column share one scale, from the smallest of their entries to the largest, drawn below. Each entry is
    one square: nothing is smoothed.
    """
    if len(rows) != len(labels) or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"{len(labels)} labels and {len(titles)} titles do not fit rows of lengths "
                         f"{[len(row) for row in rows]}")
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(len(rows), len(titles), (1.9, 2.1))
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=9)
        maps = [row[column] for row in rows if row[column].ndim == 2]
        for axis, row in zip(axes[:, column], rows, strict=True):
            axis.set(xticks=[], yticks=[])
            if row[column].ndim == 3:
                axis.imshow(row[column].clamp(0, 1).permute(1, 2, 0).float().cpu().numpy(), interpolation="nearest")
                continue
            drawn = axis.imshow(row[column].float().cpu().numpy(), cmap="cividis", interpolation="nearest",
                                vmin=min(float(map.min()) for map in maps), vmax=max(float(map.max()) for map in maps))
        if maps:
            bar = figure.colorbar(drawn, ax=axes[:, column], location="bottom", pad=0.02, aspect=12)
            bar.ax.tick_params(labelsize=6)
            bar.locator = MaxNLocator(2)
            bar.formatter.set_powerlimits((-2, 3))
            bar.formatter.set_useMathText(True)
            bar.ax.xaxis.get_offset_text().set_fontsize(6)
            bar.update_ticks()
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, fontsize=9)
    return _png(figure, alt)


def table(values, marks, rows, columns, title, label, alt, limits=(1e-16, 1)):
    """Draw a table of positive numbers on a logarithmic scale of greys, each cell with its mark.

    Parameters
    ----------
    values, marks : dicts from (row, column) to a number and to a short text. Cells that are missing stay white.
    label : of the scale. Numbers outside `limits` are drawn as the nearer limit.
    """
    figure, axes = _figure(1, 1, (2.4 + 0.42 * len(columns), 1.6 + 0.3 * len(rows)))
    axis = axes[0, 0]
    low, high = (math.log10(limit) for limit in limits)
    shades = [[math.nan] * len(columns) for _ in rows]
    for (row, column), value in values.items():
        shade = min(max(math.log10(value), low), high) if value else low
        i, j = rows.index(row), columns.index(column)
        shades[i][j] = shade
        axis.text(j, i, marks[row, column], ha="center", va="center",
                  color="white" if shade < (low + high) / 2 else "black")
    drawn = axis.imshow(shades, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xticks([j + 0.5 for j in range(len(columns) - 1)], minor=True)
    axis.set_yticks([i + 0.5 for i in range(len(rows) - 1)], minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    axis.set_title(title, fontsize=10)
    bar = figure.colorbar(drawn, ax=axis, label=label, pad=0.02)
    ticks = range(math.ceil(low), math.floor(high) + 1, 4)
    bar.set_ticks(list(ticks), labels=[f"$10^{{{tick}}}$" if tick else "1" for tick in ticks])
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
