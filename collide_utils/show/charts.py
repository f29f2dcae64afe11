"""Charts for the notebooks, as pictures with alternative texts like those of :mod:`~collide_utils.show.pictures`."""

import itertools
import math

from collide_utils.show.pictures import subplots, to_image

_STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--")]


def change_by_layer(comparisons, alt):
    """Draw the relative feature change of every layer, one line for each of the named :class:`Comparison` objects."""
    figure, [[axis]] = subplots(1, 1, (8, 4.2))
    layers = max((list(one.changes) for one in comparisons.values()), key=len)
    series = {name: [max(change, 1e-17) for change in one.changes.values()] for name, one in comparisons.items()}
    _draw(axis, range(len(layers)), series, markersize=3)
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    axis.set(title="Relative feature change, layer by layer", yscale="log")
    axis.set(xlabel="layer, in forward order", ylabel="‖f(y) − f(x)‖ / ‖f(x)‖")
    axis.legend()
    return to_image(figure, alt)


def lines(x, series, title, xlabel, ylabel, alt, guides=None, xscale="log", yscale="log", style="lines", narrow=False):
    """Draw named lists of values against `x`; `guides` are drawn without markers, thin. A short `x` is marked in full.

    `xscale` and `yscale` are matplotlib's, ``"log"`` or ``"linear"``. `style` is how the values are drawn: ``"lines"``,
    ``"steps"`` (each value holds up to the next x) or ``"dots"``. A `narrow` chart can be read on a telephone.
    """
    from matplotlib.ticker import AutoLocator

    figure, [[axis]] = subplots(1, 1, (4.6, 4) if narrow else (8, 4.2))
    look = {"lines": {}, "steps": dict(drawstyle="steps-post"), "dots": dict(linestyle="")}[style]
    _draw(axis, x, series, markevery=max(1, len(x) // (40 if style == "dots" else 16)), **look)
    for (name, values), (_, line) in zip((guides or {}).items(), itertools.cycle(_STYLES[1:]), strict=False):
        axis.plot(x, values, linestyle=line, linewidth=1, color="black", label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    low, high = axis.get_ylim()
    if yscale == "log" and high < 10 * low:  # a logarithmic axis would have no number to show
        axis.yaxis.set_major_locator(AutoLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    if len(x) <= 16:
        axis.set_xticks(x, [f"{value:g}" for value in x], rotation=60 if narrow else 0)
        axis.minorticks_off()
    figure.legend(loc="outside lower center" if narrow else "outside right upper")
    return to_image(figure, alt)


def lines_apart(x, panels, xlabel, ylabel, alt):
    """Draw lists of values against `x`, ``{title: {name: values}}``: a panel a title, on equal logarithmic axes."""
    figure, axes = subplots(1, len(panels), (2.7, 3.4))
    for axis, (title, series) in zip(axes[0], panels.items(), strict=True):
        axis.sharey(axes[0, 0])
        axis.label_outer()
        _draw(axis, x, series)
        axis.set(xscale="log", yscale="log")
        axis.set_title(title, fontsize=10)
    axes[0, 0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(series))
    return to_image(figure, alt)


def waves(shares, title, ylabel, alt):
    """Draw named tensors ``(h, w)`` of numbers in [0, 1], one for each wave of a cosine transform, against frequency.

    That is the number of half-periods down a window, its row, plus those across, its column; the chart shows the mean
    over the waves of each.
    """

    def mean(share):
        return [float(share.flip(1).diagonal(place).mean()) for place in range(share.shape[1] - 1, -len(share), -1)]

    curves = {name: mean(share) for name, share in shares.items()}
    return lines(
        range(len(next(iter(curves.values())))),
        curves,
        title,
        "frequency: half-periods per window, down plus across",
        ylabel,
        alt,
        xscale="linear",
        yscale="linear",
    )


def against_band(series, band, title, xlabel, ylabel, alt):
    """Draw named lists of values by their number, from 1, over a grey band: `band` is ``(name, lower, upper)``."""
    figure, [[axis]] = subplots(1, 1, (8, 4.2))
    name, lower, upper = band
    axis.fill_between(range(1, len(lower) + 1), lower, upper, color="0.8", label=name)
    _draw(axis, range(1, 1 + max(map(len, series.values()))), series, markersize=3)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.legend()
    return to_image(figure, alt)


def histogram(samples, title, xlabel, alt, curves=None, marks=None, upper=None):
    """Draw named samples as filled histograms of the same density scale, from 0 to `upper` (by default the largest).

    Parameters
    ----------
    curves : ``{name: (x, y)}``, drawn over them.
    marks : ``{name: x}``, upright lines.
    """
    import numpy as np

    figure, [[axis]] = subplots(1, 1, (8, 4))
    upper = upper or max(max(sample) for sample in samples.values())
    edges = np.linspace(0, upper, 41)
    for (name, sample), grey in zip(samples.items(), itertools.cycle(("0.8", "0.55", "0.3")), strict=False):
        weights = np.full(len(sample), 1 / len(sample) / edges[1])
        axis.hist(sample, edges, weights=weights, color=grey, edgecolor="white", alpha=0.8, label=name)
    for (name, (x, y)), (_, line, colour) in zip((curves or {}).items(), _styles(), strict=False):
        axis.plot(x, y, linestyle=line, color=colour, linewidth=2, label=name)
    for (name, x), (_, line) in zip((marks or {}).items(), itertools.cycle(_STYLES[1:]), strict=False):
        axis.axvline(x, linestyle=line, color="black", label=name)
    axis.set(title=title, xlabel=xlabel, ylabel="probability density", xlim=(0, upper))
    axis.legend()
    return to_image(figure, alt)


def layer_shapes(shapes, title, alt):
    """Draw layers ``(inputs, outputs)`` as dots, larger where several have one shape, by the line between the cases."""
    import numpy as np

    figure, [[axis]] = subplots(1, 1, (6.5, 5))
    (inputs, outputs), times = np.transpose(sorted(set(shapes))), [shapes.count(one) for one in sorted(set(shapes))]
    low, high = min(inputs.min(), outputs.min()) / 1.7, max(inputs.max(), outputs.max()) * 1.7
    axis.fill_between([low, high], low, [low, high], color="0.88")
    line = np.geomspace(low, high, 50)
    axis.plot(line, line, color="black", label="outputs = inputs, n")
    axis.plot(line, line + np.sqrt(line), color="black", linestyle=":", label="outputs = n + √n")
    axis.scatter(inputs, outputs, [30 * number for number in times], color=_greys()[1], alpha=0.8, zorder=3)
    axis.text(high / 1.1, low * 1.1, "exact null space", ha="right", va="bottom")
    axis.text(low * 1.1, high / 1.1, "no direction is lost", ha="left", va="top")
    axis.set(title=title, xlabel="inputs of the layer", ylabel="outputs")
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    figure.legend(loc="outside lower center", ncols=2)
    return to_image(figure, alt)


def bars(values, title, ylabel, alt):
    """Draw ``{name: number}`` as upright bars, the names below them."""
    figure, [[axis]] = subplots(1, 1, (8, 3.8))
    axis.bar(range(len(values)), list(values.values()), color=_greys()[1])
    axis.axhline(0, color="black", linewidth=1)
    axis.set_xticks(range(len(values)), values, rotation=90, fontsize=8)
    axis.set(title=title, ylabel=ylabel)
    return to_image(figure, alt)


def null_shares(rows, title, alt):
    """Draw each weight (:class:`~collide_utils.counting.LayerCount`) as a bar: rank, then nullity, by columns."""
    figure, [[axis]] = subplots(1, 1, (8, 1.3 + 0.19 * len(rows)))
    shares = [row.nullity / (row.groups * row.columns) for row in rows]
    axis.barh(range(len(rows)), [1 - share for share in shares], color=_greys()[0], label="seen (rank)")
    look = dict(color="0.82", hatch="////", edgecolor="white", label="not seen (null space)")
    axis.barh(range(len(rows)), shares, left=[1 - share for share in shares], **look)
    axis.set_yticks(range(len(rows)), [f"{row.name}  {row.rows}×{row.columns}" for row in rows], fontsize=7)
    axis.set(title=title, xlabel="share of the columns", xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    figure.legend(loc="outside lower center", ncols=2)
    return to_image(figure, alt)


def strips(groups, title, xlabel, alt, xscale="linear", limits=(-0.02, 1.02)):
    """Draw numbers as dots on one line for each group: ``{group: {series: [numbers]}}``, by default from 0 to 1."""
    figure, [[axis]] = subplots(1, 1, (8, 1.6 + max(1.2, 0.24 * len(groups))))
    series = list(next(iter(groups.values())))
    for name, (marker, _, grey) in zip(series, _styles(), strict=False):
        points = [(value, place) for place, group in enumerate(groups.values()) for value in group[name]]
        axis.plot(*zip(*points, strict=True), marker, markersize=6, color=grey, alpha=0.7, label=name)
    axis.set_yticks(range(len(groups)), groups, fontsize=8)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.set(title=title, xlabel=xlabel, xscale=xscale, xlim=limits, ylim=(len(groups) - 0.5, -0.5))
    figure.legend(loc="outside lower center", ncols=len(series))
    return to_image(figure, alt)


def shaded_table(values, marks, rows, columns, title, label, alt, limits=(1e-16, 1)):
    """Draw a table of positive numbers on a logarithmic scale of greys, each cell with its mark.

    Parameters
    ----------
    values, marks : dicts from (row, column) to a number and to a short text. Cells that are missing stay white.
    label : of the scale. Numbers outside `limits` are drawn as the nearer limit.
    """
    figure, [[axis]] = subplots(1, 1, (2.4 + 0.42 * len(columns), 1.6 + 0.3 * len(rows)))
    low, high = (math.log10(limit) for limit in limits)
    shades = [[math.nan] * len(columns) for _ in rows]
    for (row, column), value in values.items():
        shade = min(max(math.log10(value), low), high) if value else low
        i, j = rows.index(row), columns.index(column)
        shades[i][j] = shade
        ink = "white" if shade < (low + high) / 2 else "black"
        axis.text(j, i, marks[row, column], ha="center", va="center", color=ink)
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
    return to_image(figure, alt)


def _draw(axis, x, series, **options):
    for (name, values), (marker, line, colour) in zip(series.items(), _styles(), strict=False):
        look = dict(marker=marker, linestyle=line, markersize=4, color=colour, label=name)
        axis.plot(x[: len(values)], values, **look | options)


def _styles():
    """Marker, line and colour of one series after the other, without end; no two of the first 36 are the same."""
    colours = _greys()
    for number in itertools.count():
        yield *_STYLES[(number + number // 6) % 6], colours[number % 6]


def _greys():
    from matplotlib import colormaps

    return [colormaps["cividis"](place) for place in (0.0, 0.35, 0.65, 0.9, 0.2, 0.5)]
