"""Pictures and tables for the notebooks; nothing is computed here.

Every figure is an ``IPython.display.Image``: a PNG with an alternative text, for readers who cannot see it.
"""

import html
import io
import itertools
import math

import torch

_DPI = 110
# In this order they suit streets: light sky, dark road, green trees, warm people and cars.
_COLOURS = (
    "#a6d8f0",
    "#8c6d5a",
    "#e8e8e8",
    "#33334d",
    "#b5a6d0",
    "#2f6e2f",
    "#ffe14d",
    "#6b3d1e",
    "#e03127",
    "#ff9d2e",
    "#111111",
)


def images(pictures, titles, alt, columns=4, width=2.6, legend=None):
    """Show tensors ``(3, H, W)`` side by side, as a screen would: clipped to [0, 1], each pixel a square of pixels.

    Parameters
    ----------
    titles : one a picture, lines separated by newlines. Pictures and titles must be equal in number (ValueError).
    alt : what the figure shows, in words.
    width : of each column, in inches. A picture that is smaller is enlarged by a whole number: by any other, fine
        patterns would beat against the pixels of the figure.
    legend : dict from words to the colours that they explain, drawn below.
    """
    if len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures need as many titles, not {len(titles)} titles")
    from matplotlib.figure import Figure

    columns, gap = min(columns, len(pictures)), 6
    drawn = [
        (picture, *(max(1, int(width * _DPI // picture.shape[2])) * n for n in picture.shape[1:]))
        for picture in pictures
    ]
    across = max(round(width * _DPI), *(right for _, _, right in drawn)) + gap
    rows = [range(start, min(start + columns, len(drawn))) for start in range(0, len(drawn), columns)]
    heads = [12 + 16 * max(1 + titles[place].count("\n") for place in row) for row in rows]
    bottoms = list(
        itertools.accumulate(
            head + max(drawn[place][1] for place in row) + gap for row, head in zip(rows, heads, strict=True)
        )
    )
    size = columns * across, bottoms[-1] + (26 if legend else 0)
    figure = Figure(figsize=[(side + 0.01) / _DPI for side in size])  # matplotlib cuts off fractions of a pixel
    for row, bottom in zip(rows, bottoms, strict=True):
        for column, place in enumerate(row):
            picture, high, wide = drawn[place]
            left = column * across + (across - wide) // 2
            axis = figure.add_axes([left / size[0], 1 - (bottom - gap) / size[1], wide / size[0], high / size[1]])
            show_pixels(axis, picture)
            axis.set_title(titles[place], fontsize=9)
            axis.set_axis_off()
    if legend:
        from matplotlib.patches import Patch

        patches = [Patch(facecolor=colour, edgecolor="black", label=word) for word, colour in legend.items()]
        figure.legend(
            handles=patches,
            loc="lower center",
            ncols=len(legend),
            fontsize=8,
            frameon=False,
            borderpad=0,
            handlelength=1,
            handletextpad=0.4,
            columnspacing=1,
        )
    return to_image(figure, alt)


def colours(words):
    """Return a dict from each word to a colour (red, green, blue) in [0, 1]; neighbours differ in lightness."""
    from matplotlib.colors import to_rgb

    return dict(zip(words, map(to_rgb, itertools.cycle(_COLOURS)), strict=False))


def label_map(labels, colours):
    """Return a map of labels ``(H, W)``, places in `colours`, as a picture ``(3, H, W)``."""
    return labels.new_tensor(list(colours.values()), dtype=torch.float32)[labels].permute(2, 0, 1)


def with_boxes(image, found, words, colours):
    """Return `image` with the boxes of a detection on it.

    Parameters
    ----------
    found : a dict with ``boxes`` and ``labels``, which are places in `words`, as torchvision's detectors return it.
    colours : dict from words to colours.
    """
    from torchvision.utils import draw_bounding_boxes

    if not len(found["boxes"]):
        return image
    drawn = [tuple(round(255 * part) for part in colours[words[label]]) for label in found["labels"]]
    return draw_bounding_boxes((255 * image.clamp(0, 1)).round().byte(), found["boxes"], colors=drawn, width=2) / 255


def perturbation(delta):
    """Return `delta` ``(3, H, W)`` as a picture: zero is mid-grey, its largest entry black or white."""
    return 0.5 + delta / (2 * delta.abs().max())


def sheets(tiles, alt, columns=12, repeat=2):
    """Show lists of small tensors ``(3, h, w)``, one sheet below the other, by their titles.

    Every tile is repeated ``repeat × repeat`` times. `columns` of them stand in a row, with white between.
    """
    from torchvision.utils import make_grid

    drawn = [
        make_grid([tile.tile(1, repeat, repeat) for tile in some], nrow=columns, padding=2, pad_value=1)
        for some in tiles.values()
    ]
    return images(drawn, list(tiles), alt, columns=1, width=7.2)


def overlay(image, heat):
    """Return `image` ``(3, H, W)`` in grey under a map ``(h, w)``, enlarged bilinearly; colours: least to most."""
    from matplotlib import colormaps

    heat = torch.nn.functional.interpolate(heat[None, None].double(), image.shape[1:], mode="bilinear")[0, 0]
    heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-300)
    colour = torch.from_numpy(colormaps["cividis"](heat.cpu().numpy())[..., :3]).permute(2, 0, 1)
    return 0.4 * image.double().cpu().clamp(0, 1).mean(0, keepdim=True) + 0.6 * colour


def heatmaps(matrices, titles, xlabel, ylabel, label, alt, columns=3, limits=None, shared=True, extent=None):
    """Draw tensors ``(rows, columns)``, one a title, as heat maps: nothing is smoothed, row 0 is at the top.

    Parameters
    ----------
    label : of the scale: one for all, or with ``shared=False`` one for each; `limits` are its ends.
    extent : ``(left, right, bottom, top)`` of the axes; by default the numbers of columns and rows.
    """
    if len(matrices) != len(titles):
        raise ValueError(f"{len(matrices)} matrices need as many titles, not {len(titles)} titles")
    if shared and limits is None:
        limits = min(float(m.min()) for m in matrices), max(float(m.max()) for m in matrices)
    low, high = limits or (None, None)
    columns = min(columns, len(matrices))
    figure, axes = subplots(math.ceil(len(matrices) / columns), columns, (2.7, 2.8) if shared else (4.6, 3.7))
    for axis, matrix, title in zip(axes.flat, matrices, titles, strict=False):
        drawn = axis.imshow(
            matrix.float().cpu().numpy(), cmap="cividis", interpolation="nearest", vmin=low, vmax=high, extent=extent
        )
        axis.set_title(title, fontsize=9)
        if not shared:
            figure.colorbar(drawn, ax=axis, label=label)
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    if shared:
        figure.colorbar(drawn, ax=axes, label=label)
    return to_image(figure, alt)


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
    sort = (
        "const head=this.parentNode,body=head.closest('table').tBodies[0],up=head.ariaSort!='ascending',"
        "key=row=>row.cells[head.cellIndex].innerText.replaceAll(',','');"
        "[...head.parentNode.cells].forEach(other=>other.ariaSort='none');"
        "head.ariaSort=up?'ascending':'descending';"
        "[...body.rows].sort((a,b)=>(up?1:-1)*key(a).localeCompare(key(b),'en',{numeric:true}))"
        ".forEach(row=>body.append(row))"
    )
    heads = "".join(
        f'<th scope="col"><button type="button" onclick="{sort}">{html.escape(column)}</button></th>'
        for column in columns
    )
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return HTML(
        f'<div style="max-height: 24em; overflow: auto"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def map_grid(rows, labels, titles, alt):
    """Show rows of pictures ``(3, H, W)`` and maps ``(h, w)``, one label a row and one title a column.

    The maps of a column share one scale, from the smallest of their entries to the largest, drawn below. Each entry is
    one square: nothing is smoothed.
    """
    if len(rows) != len(labels) or any(len(row) != len(titles) for row in rows):
        raise ValueError(
            f"{len(labels)} labels and {len(titles)} titles do not fit rows of lengths {[len(row) for row in rows]}"
        )
    from matplotlib.ticker import MaxNLocator

    figure, axes = subplots(len(rows), len(titles), (1.9, 2.1))
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=9)
        maps = [row[column] for row in rows if row[column].ndim == 2]
        for axis, row in zip(axes[:, column], rows, strict=True):
            axis.set(xticks=[], yticks=[])
            if row[column].ndim == 3:
                show_pixels(axis, row[column])
                continue
            drawn = axis.imshow(
                row[column].float().cpu().numpy(),
                cmap="cividis",
                interpolation="nearest",
                vmin=min(float(map.min()) for map in maps),
                vmax=max(float(map.max()) for map in maps),
            )
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
    return to_image(figure, alt)


def subplots(rows, columns, size, **options):
    """Return a matplotlib figure and its axes ``(rows, columns)`` of `size` inches; `options` are ``add_subplot``'s."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, subplot_kw=options)


def show_pixels(axis, picture):
    """Draw a tensor ``(3, H, W)`` on matplotlib axes as a screen would: clipped to [0, 1], nothing smoothed."""
    axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy(), interpolation="nearest")


def to_image(figure, alt):
    """Return a matplotlib figure as an ``IPython.display.Image`` with an alternative text."""
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return Image(data=buffer.getvalue(), alt=alt)
