"""Pictures drawn in a few milliseconds, for widgets that redraw while a slider moves; Matplotlib takes longer."""

import functools
import io
import math

from PIL import Image, ImageDraw, ImageFont

_GAP, _WORDS, _CHART, _NAMES, _FOOT = 12, 40, 430, 150, 34
_FLOOR, _TOP = -17, 2  # powers of ten
_INPUT, _LAYER = (190, 190, 190), (40, 70, 110)


def pixels(picture, smallest=224):
    """Return a tensor ``(3, H, W)`` or ``(1, H, W)`` as 8-bit RGB ``(H', W', 3)``, clipped to [0, 1].

    Small pictures are enlarged by a whole number, so that each is at least `smallest` pixels high.
    """
    grey_levels = (255 * picture.detach().clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
    factor = max(1, math.ceil(smallest / grey_levels.shape[0]))
    if grey_levels.shape[2] == 1:
        grey_levels = grey_levels.repeat(3, axis=2)
    return grey_levels.repeat(factor, axis=0).repeat(factor, axis=1)


def board(cells, before, changes, bound):
    """Return a lossless WebP, as bytes: pictures in two columns, and beside them the relative change of every layer.

    Parameters
    ----------
    cells : pairs of :func:`pixels`, of one size, and the two lines of words below them.
    before : names of the first layers of `changes`, which see the input alone; their bars are set apart.
    changes : dict from a layer's name to its relative change, as in :class:`~collide_utils.comparison.Comparison`.
    bound : the rounding level, drawn as a line.
    """
    high, wide = cells[0][0].shape[:2]
    left = 2 * (wide + _GAP)
    size = left + _CHART, math.ceil(len(cells) / 2) * (high + _WORDS)
    rows = _rows(tuple(changes), len(before), size[1])
    image = _background(size, left, tuple(changes), rows).copy()
    draw = ImageDraw.Draw(image)
    for place, (picture, words) in enumerate(cells):
        corner = place % 2 * (wide + _GAP), place // 2 * (high + _WORDS)
        image.paste(Image.fromarray(picture), corner)
        for line, text in enumerate(words):
            length = _font(15).getlength(text)
            text = text if length <= wide else text[: int(len(text) * wide / length) - 1] + "…"
            draw.text((corner[0], corner[1] + high + 2 + 18 * line), text, fill="black", font=_font(15))
    for (name, change), (top, thick) in zip(changes.items(), rows, strict=True):
        fill = _INPUT if name in before else _LAYER
        draw.rectangle([left + _NAMES, top, _across(change, left), top + thick - 1], fill=fill)
    line = _across(bound, left)
    for top in range(rows[0][0], size[1] - _FOOT, 6):
        draw.line([(line, top), (line, top + 2)], fill="black", width=2)
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=True, quality=0, method=0)  # half the time of a PNG of noise
    return buffer.getvalue()


def _rows(names, before, height):
    """The top and the thickness of every bar; there is a gap behind those of the input."""
    step = min(18.0, (height - _FOOT - 24) / (len(names) + (before > 0)))
    return tuple(
        (round(24 + step * (place + (0 < before <= place))), max(1, round(step) - 2)) for place in range(len(names))
    )


def _across(change, left):
    power = math.log10(min(max(change, 10**_FLOOR), 10**_TOP))
    return left + _NAMES + round((power - _FLOOR) / (_TOP - _FLOOR) * (_CHART - _NAMES - 12))


@functools.lru_cache
def _font(size):
    return ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=8)
def _background(size, left, names, rows):
    """What does not move: names of the layers as far as there is room for them, grid and axis labels."""
    image = Image.new("RGB", size, "white")
    draw, small, foot = ImageDraw.Draw(image), _font(11), size[1] - _FOOT
    draw.text((left, 2), "relative change, layer by layer; grey: the input", fill="black", font=_font(13))
    for power in range(-16, _TOP + 1, 4):
        across = _across(10.0**power, left)
        draw.line([(across, 22), (across, foot)], fill=(215, 215, 215))
        draw.text((across, foot + 3), f"1e{power:+d}" if power else "1", fill="black", font=small, anchor="ma")
    draw.text((left + _NAMES, foot + 18), "dotted: rounding reaches up to here", fill="black", font=small)
    free = 0
    for name, (top, thick) in zip(names, rows, strict=True):
        if top >= free:
            short = name if small.getlength(name) < _NAMES - 8 else "…" + name[-20:]
            draw.text((left + _NAMES - 5, top + thick / 2), short, fill="black", font=small, anchor="rm")
            free = top + 11
    return image
