"""Pictures drawn in a few milliseconds, for widgets that redraw while a slider moves; Matplotlib takes longer."""


import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _HEAD, _CHART, _LEFT, _FOOT = 12, 20, 150, 52, 22
_FLOOR, _TOP = -17, 2  # powers of ten


def pixels(picture, smallest=224):
    """Return a tensor ``(3, H, W)`` or ``(1, H, W)`` as 8-bit RGB ``(H', W', 3)``, clipped to [0, 1].

    Small pictures are enlarged by a whole number, so that each is at least `smallest` pixels high.
    """
    grey_levels = (255 * picture.detach().clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
    factor = max(1, math.ceil(smallest / grey_levels.shape[0]))
    if grey_levels.shape[2] == 1:
        grey_levels = grey_levels.repeat(3, axis=2)
    return grey_levels.repeat(factor, axis=0).repeat(factor, axis=1)


def side_by_side(pictures, titles, changes, bound):
    """Return a PNG, as bytes: named :func:`pixels` in a row, and under them the relative change of every layer.

    Parameters
    ----------
    changes : dict from a layer's name to its relative change, as in :class:`~collide_utils.comparison.Comparison`.
    bound : the rounding level, drawn as a line.
    """
    width = sum(picture.shape[1] + _GAP for picture in pictures) - _GAP
    height = pictures[0].shape[0]
    canvas = _background(width, height, tuple(picture.shape[1] for picture in pictures), tuple(titles)).copy()
    left = 0
    for picture in pictures:
        canvas[_HEAD:_HEAD + height, left:left + picture.shape[1]] = picture
        left += picture.shape[1] + _GAP
    base = _HEAD + height + _GAP + _CHART
    bar = (width - _LEFT) / len(changes)
    for place, change in enumerate(changes.values()):
        start = _LEFT + place * bar
        canvas[_row(change, base):base, round(start):max(round(start) + 1, round(start + 0.8 * bar))] = 70
    canvas[_row(bound, base), _LEFT::4] = 0
    canvas[_row(bound, base), _LEFT + 1::4] = 0
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _row(change, base):
    power = math.log10(min(max(change, 10**_FLOOR), 10**_TOP))
    return base - round((power - _FLOOR) / (_TOP - _FLOOR) * (_CHART - 24)) - 1


@functools.lru_cache(maxsize=8)
def _background(width, height, widths, titles):
    """What does not move: titles, grid and axis labels."""
    base = _HEAD + height + _GAP + _CHART
    image = Image.new("RGB", (width, base + _FOOT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    left = 0
    for one, title in zip(widths, titles, strict=True):
        draw.text((left, 2), title, fill="black", font=font)
        left += one + _GAP
    draw.text((0, base - _CHART), "relative feature change, layer by layer (dotted: the rounding level)", fill="black",
              font=font)
    for power in range(-16, _TOP + 1, 4):
        row = _row(10.0**power, base)
        draw.line([(_LEFT, row), (width, row)], fill=(205, 205, 205))
        draw.text((_LEFT - 8, row), f"1e{power:+d}" if power else "1", fill="black", font=font, anchor="rm")
    draw.text((_LEFT, base + 4), "first layer", fill="black", font=font)
    draw.text((width, base + 4), "logits", fill="black", font=font, anchor="ra")
    return np.asarray(image)
