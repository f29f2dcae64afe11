"""Drawings of the ideas: what the notebooks show before the code that needs it."""

import math

from collide_utils.show.pictures import subplots, to_image

_INK, _ACCENT, _PALE = "#00224e", "#b8860b", "0.82"  # dark and middle of cividis' range, in grey too


def squeeze(matrices, titles, alt):
    """Draw the circle of unit inputs and what each of `matrices` (numpy, ``(outputs, 2)``) makes of it.

    An image lies in a plane of the outputs, and is drawn there along its two half-axes, the shorter one upright: an
    arrow shows the input that is squeezed most, and where it goes.
    """
    import numpy as np

    figure, axes = subplots(1, 1 + len(matrices), (2.2, 2.4))
    angle = np.linspace(0, 2 * math.pi, 200)
    circle = np.array([np.cos(angle), np.sin(angle)])
    singular = [np.append(np.linalg.svd(matrix, compute_uv=False), 0)[:2] for matrix in matrices]
    reach = 1.05 * max(1, *(values[0] for values in singular))
    for axis, (long, short), title in zip(axes[0], [(1, 1), *singular], ["unit inputs", *titles], strict=True):
        axis.plot(long * circle[0], short * circle[1], color=_INK)
        axis.plot([0, 0], [0, short], color=_ACCENT, linewidth=3, marker="o", markersize=5)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.axis("off")
        axis.set_title(title, fontsize=9)
    return to_image(figure, alt)


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

    figure, axes = subplots(1, 1, (8.6, 2.7))
    axis = axes[0, 0]
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
