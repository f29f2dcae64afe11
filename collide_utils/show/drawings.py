"""Drawings of the ideas: what the notebooks show before the code that needs it."""

import math

from collide_utils.show.pictures import images, perturbation, show_pixels, subplots, to_image

_INK, _ACCENT, _PALE = "#00224e", "#b8860b", "0.82"  # dark and middle of cividis' range, in grey too


def squeeze(matrices):
    """Draw the circle of unit inputs and what each of `matrices` (numpy, ``(outputs, 2)``) makes of it.

    An image lies in a plane of the outputs, and is drawn there along its two half-axes, the shorter one upright: an
    arrow shows the input that is squeezed most, and where it goes.
    """
    import numpy as np

    figure, axes = subplots(1, 1 + len(matrices), (2.2, 2.4))
    angle = np.linspace(0, 2 * math.pi, 200)
    circle = np.array([np.cos(angle), np.sin(angle)])
    singular = [np.append(np.linalg.svd(matrix, compute_uv=False), 0)[:2] for matrix in matrices]
    titles = ["unit inputs", *(f"{len(matrix)} output{'s' * (len(matrix) > 1)}" for matrix in matrices)]
    reach = 1.05 * max(1, *(values[0] for values in singular))
    for axis, (long, short), title in zip(axes[0], [(1, 1), *singular], titles, strict=True):
        axis.plot(long * circle[0], short * circle[1], color=_INK)
        axis.plot([0, 0], [0, short], color=_ACCENT, linewidth=3, marker="o", markersize=5)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.axis("off")
        axis.set_title(title, fontsize=9)
    half = ", ".join(f"{title} {short:.1f}" for title, (_, short) in zip(titles[1:], singular, strict=True))
    return to_image(
        figure,
        f"A circle, the unit inputs, and the ellipses that random layers make of it, each with its "
        f"shorter half-axis: {half}. An ellipse whose shorter half-axis is 0 is flat.",
    )


def window_times_weight(image, geometry, place, weight):
    """Draw how a window of `image` ``(3, H, W)`` becomes a column of numbers, and meets the rows of `weight`.

    `place` is the window's row and column in ``geometry.grid``, whose windows must not overlap.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from collide_utils.windows import unfold

    window = unfold(geometry, image.to(weight))[place]
    (high, wide), rows = geometry.window, len(weight)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(2.1, 5, 0.6), height_ratios=(1, 2.6))
    places = (1, 0), (0, 0), (0, 1), (1, 1), (1, 2)
    photo, patch, strip, heat, response = (figure.add_subplot(grid[at]) for at in places)
    show_pixels(photo, image)
    corner = [at * step for at, step in zip(place, geometry.stride, strict=True)]
    photo.add_patch(Rectangle((corner[1] - 0.5, corner[0] - 0.5), wide, high, fill=False, color="white", linewidth=2))
    photo.set_title(f"one window, {high}×{wide} pixels", fontsize=9)
    show_pixels(patch, window.view(-1, high, wide))
    patch.set_title("the window, enlarged", fontsize=9)
    strip.imshow(window[None], aspect="auto", cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    strip.set_title(f"the same as {len(window)} numbers: channel by channel, row by row", fontsize=9)
    limit = float(weight.abs().flatten().quantile(0.99))
    heat.imshow(weight, aspect="auto", cmap="cividis", vmin=-limit, vmax=limit, interpolation="nearest")
    heat.set_title(f"W: {rows} filters, a row each, meet these numbers", fontsize=9)
    response.imshow((weight @ window)[:, None], aspect="auto", cmap="cividis", interpolation="nearest")
    response.set_title(f"{rows}\nresponses", fontsize=9)
    for axis in (photo, patch, strip, heat, response):
        axis.set(xticks=[], yticks=[])
    return to_image(
        figure,
        "A photograph with a small square on it; the square enlarged; its pixels as a strip of grey values; "
        f"below it, in the same {len(window)} columns, the weight as a coloured matrix of {rows} rows; at its "
        "right a column with one response a row.",
    )


def windows_over_tiles(tiles, window, strides):
    """Draw for each of `strides` where the windows of one row lie on `tiles` ``(3, window, n·window)``, side by side.

    A window that meets one tile whole is filled, the others are hatched.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    wide = tiles.shape[2]
    lanes = [-(-window // stride) for stride in strides]  # as many windows overlap
    heights = [window + 1.2 * number + 1 for number in lanes]
    figure = Figure(figsize=(9, 9 * sum(heights) / wide + 0.6), layout="constrained")
    axes = figure.subplots(len(strides), 1, gridspec_kw=dict(height_ratios=heights))
    for axis, stride, number in zip(axes, strides, lanes, strict=True):
        axis.imshow(tiles.permute(1, 2, 0).clamp(0, 1), interpolation="nearest", extent=(0, wide, window, 0))
        axis.vlines(range(0, wide + 1, window), 0, window, color="white", linewidth=3)
        for place, start in enumerate(range(0, wide - window + 1, stride)):
            look = dict(facecolor="white", hatch="////") if start % window else dict(facecolor=_INK)
            corner = start + 0.1, -1.2 - 1.2 * (place % number)
            axis.add_patch(Rectangle(corner, window - 0.2, 0.9, edgecolor=_INK, **look))
        axis.set(xlim=(-0.2, wide + 0.2), ylim=(window, -1.2 * number - 0.4))
        meets = "each window meets one whole tile" if number == 1 else "hatched windows cut across two tiles"
        axis.set_title(f"stride {stride}: {meets}", fontsize=10)
        axis.axis("off")
    return to_image(
        figure,
        f"Equal tiles in a row, once for each of the strides {', '.join(map(str, strides))}. "
        "Above them, as bars, the windows of that stride: filled where a window meets one whole "
        "tile, hatched where it cuts across two.",
    )


def matrix_shapes(shapes=((3, 7), (5, 5), (7, 3))):
    """Draw matrices ``(rows, columns)`` as grids, those columns shaded that are more than the rows can tell apart."""
    from matplotlib.patches import Rectangle

    figure, axes = subplots(1, len(shapes), (2.9, 2.7))
    high, wide = max(rows for rows, _ in shapes), max(columns for _, columns in shapes)
    for axis, (rows, columns) in zip(axes[0], shapes, strict=True):
        for row in range(rows):
            for column in range(columns):
                look = dict(facecolor=_PALE, hatch="////") if column >= rows else dict(facecolor=_INK)
                axis.add_patch(Rectangle((column, -row - 1), 0.92, 0.92, edgecolor="white", **look))
        left = max(0, columns - rows)
        axis.set(xlim=(-0.5, wide + 0.5), ylim=(-high - 0.5, 0.5), aspect="equal")
        axis.set_title(
            f"{rows} rows, {columns} columns:\n"
            + (f"{left} dimensions are not seen" if left else "all are seen, at full rank"),
            fontsize=9,
        )
        axis.axis("off")
    return to_image(
        figure,
        f"Matrices as grids of squares: {', '.join(f'{r} by {c}' for r, c in shapes)}. Where "
        "there are more columns than rows, the columns in excess are hatched.",
    )


def meeting_spaces(alt):
    """Draw two planes through the origin, which meet in a line, and three, which meet in the origin alone."""
    import numpy as np

    normals = np.array([[0.0, 0.35, 1.0], [1.0, 0.3, 0.2], [-0.4, 1.0, 0.25]])
    figure, axes = subplots(1, 2, (3.6, 3.2), projection="3d")
    s, t = np.meshgrid([-1, 1], [-1, 1])
    for axis, count, title in zip(axes[0], (2, 3), ("two planes: a line", "three planes: a point"), strict=True):
        for normal, colour in zip(normals[:count], (_INK, _ACCENT, "0.5"), strict=False):
            _, one, other = np.linalg.svd(normal[None])[2]
            axis.plot_surface(*np.multiply.outer(one, s) + np.multiply.outer(other, t), color=colour, alpha=0.45)
        line = np.cross(normals[0], normals[1])
        ends = np.outer([-1.2, 1.2] if count == 2 else [0, 0], line / np.linalg.norm(line))
        axis.plot(*ends.T, color="black", linewidth=3, marker="o", markersize=4 if count == 3 else 0)
        axis.set_axis_off()
        axis.set_title(title, fontsize=9)
    return to_image(figure, alt)


def one_stem(heads, alt):
    """Draw a network whose stem stops a null-space perturbation, with one of `heads` (words) for each task."""
    from matplotlib.patches import Rectangle

    figure, [[axis]] = subplots(1, 1, (8.6, 2.7))
    axis.set(xlim=(0, 8.6), ylim=(-1.5, 1.3))
    axis.axis("off")

    def arrow(start, end, colour=_INK, width=1.5):
        axis.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=colour, lw=width, shrinkA=0, shrinkB=0))

    def block(left, middle, width, height, words):
        axis.add_patch(Rectangle((left, middle - height / 2), width, height, facecolor="white", edgecolor=_INK, lw=1.5))
        axis.text(left + width / 2, middle, words, ha="center", va="center", fontsize=9)

    axis.text(0.75, 0.55, "photograph $x$", ha="center", va="center", fontsize=10)
    axis.text(0.75, -0.55, "perturbation $\\delta$", ha="center", va="center", fontsize=10, color=_ACCENT)
    arrow((1.45, 0.5), (2.3, 0.15))
    arrow((1.45, -0.5), (2.3, -0.15), _ACCENT, 3)
    block(2.3, 0, 1.1, 2.0, "stem\n$W$")
    axis.text(2.85, -1.08, "$W\\delta = 0$", ha="center", va="top", fontsize=10, color=_ACCENT)
    arrow((3.4, 0), (4.1, 0))
    axis.text(3.75, 0.08, "$Wx$", ha="center", va="bottom", fontsize=10)
    block(4.1, 0, 1.1, 1.2, "body")
    for place, words in enumerate(heads):
        height = 0.95 - 1.9 * place / max(1, len(heads) - 1)
        arrow((5.2, 0), (6.0, height))
        block(6.0, height, 2.5, 0.55, words)
    return to_image(figure, alt)


def vector(window, alt):
    """Draw how a vector of a null space, as a tensor ``(3, h, w)``, becomes a picture: by channel, whole, repeated."""
    window = perturbation(window)
    channels = [channel.expand(3, -1, -1) for channel in window]
    return images(
        [*channels, window, window.tile(1, 4, 4)],
        ["red values", "green values", "blue values", "one window", "repeated"],
        alt,
        columns=5,
        width=1.6,
    )


def sums(windows, labels, alt):
    """Draw, for each label, a window ``(3, h, w)`` as the sum of what a network sees of it and of the rest.

    `windows` are three for each label: whole, seen, rest.
    """
    figure, axes = subplots(len(labels), 3, (2.2, 2.0))
    for place, (axis, window) in enumerate(zip(axes.flat, windows, strict=True)):
        show_pixels(axis, window)
        axis.set(xticks=[], yticks=[])
        axis.set_title(("a window", "what the network sees", "the rest")[place % 3] if place < 3 else "", fontsize=9)
        if place % 3:
            axis.text(-0.12, 0.5, " =+"[place % 3], transform=axis.transAxes, ha="center", va="center", fontsize=16)
        else:
            axis.set_ylabel(labels[place // 3], fontsize=9)
    return to_image(figure, alt)


def nearest_valid(alt):
    """Draw images of two numbers: the valid ones, those with the features of one, and the nearest to a target."""
    from matplotlib.patches import Rectangle

    figure, [[axis]] = subplots(1, 1, (4.6, 3.4))
    axis.add_patch(Rectangle((0, 0), 1, 1, facecolor=_PALE, edgecolor="black"))
    axis.plot([-0.35, 1.6], [0.1, 0.88], color=_INK, linestyle="--")
    axis.plot([0, 1], [0.24, 0.64], color=_INK, linewidth=4)
    axis.annotate("", (1.01, 0.64), (1.3, 1.15), arrowprops=dict(arrowstyle="-|>", color=_ACCENT, lw=2))
    axis.plot([0.3, 1, 1.3], [0.36, 0.64, 1.15], "o", color=_INK, markersize=8, zorder=3)
    for x, y, words in (
        (0.3, 0.26, "photograph $x$"),
        (1.05, 0.52, "nearest valid image"),
        (1.36, 1.13, "target"),
        (0.05, 0.9, "[0, 1]: all valid images"),
        (-0.35, -0.08, "$W z = W x$"),
    ):
        axis.text(x, y, words, fontsize=9, va="center")
    axis.set(xlim=(-0.4, 1.9), ylim=(-0.15, 1.3), aspect="equal")
    axis.axis("off")
    return to_image(figure, alt)


def level_set(alt):
    """Draw a level set of a network of ReLUs in a plane, the tangent at a point, a step along it, and the landing."""
    import numpy as np

    figure, [[axis]] = subplots(1, 1, (6.4, 3.6))
    corners = np.array([[0.0, 0.6], [1.9, 1.0], [3.0, 1.9], [4.1, 2.1], [5.6, 3.3]])
    start, tangent = np.array([0.6, 0.6 + 0.6 * 0.4 / 1.9]), np.array([1.9, 0.4])
    for corner in corners[1:-1]:
        axis.plot([corner[0] - 0.25, corner[0] + 0.25], [corner[1] + 1.3, corner[1] - 1.3], color=_PALE, zorder=0)
    axis.plot(*corners.T, color=_INK, linewidth=2.5)
    aside = start + 1.55 * tangent
    slope = (corners[3] - corners[2]) / np.linalg.norm(corners[3] - corners[2])
    landed = corners[2] + slope * (slope @ (aside - corners[2]))
    axis.annotate("", aside, start, arrowprops=dict(arrowstyle="-|>", color=_ACCENT, lw=2.5, shrinkA=0, shrinkB=0))
    axis.annotate("", landed, aside, arrowprops=dict(arrowstyle="-|>", color="black", lw=1.5, shrinkA=0, shrinkB=0))
    for point, words, shift in (
        (start, "$x$", (-4, 8)),
        (landed, "the next image", (-62, 14)),
        (corners[-1], "$\\{y : F(y) = F(x)\\}$", (-110, -4)),
    ):
        axis.annotate(words, point, shift, textcoords="offset points", fontsize=11)
    axis.text(*(start + 0.8 * tangent + [0.1, -0.28]), "step in null($J$)", color=_ACCENT, fontsize=10)
    axis.text(*((landed + aside) / 2 + [0.12, -0.05]), "Newton lands", fontsize=10)
    axis.plot(*np.transpose([start, landed]), "o", color=_INK, markersize=7)
    axis.set(xlim=(-0.1, 6.2), ylim=(0.1, 3.6), aspect="equal")
    axis.axis("off")
    return to_image(figure, alt)


def part_and_join(steps, collision, alt):
    """Draw the way of two images through the named `steps`: side by side up to `collision`, one line behind it."""
    figure, [[axis]] = subplots(1, 1, (8.4, 1.9))
    join = steps.index(collision)
    for sign, colour in ((1, _INK), (-1, _ACCENT)):
        axis.plot([0, join - 0.3, join], [sign * 0.5, sign * 0.5, 0], color=colour, linewidth=3)
    axis.plot([join, len(steps) - 1], [0, 0], color="black", linewidth=4)
    for place, step in enumerate(steps):
        for height in (0.5, -0.5) if place < join else (0,):
            axis.plot(place, height, "o", color="white", markeredgecolor="black", markersize=9)
        axis.text(place, 0.85, step, ha="center", fontsize=9)
    axis.text(0.1, 0.0, "x ≠ y", va="center")
    axis.text(join + 0.15, -0.45, "the same from here on, forward and backward", fontsize=9)
    axis.set(xlim=(-0.5, len(steps) - 0.5), ylim=(-0.8, 1.1))
    axis.axis("off")
    return to_image(figure, alt)
