"""A report as a page of HTML that stands alone: no script, no request, pictures inside, readable in light and dark."""

import base64
import html
import io

from PIL import Image

from collide_utils.show import canvas, charts

_STYLE = """
.collisions { max-width: 62rem; margin: auto; line-height: 1.5; overflow-wrap: break-word; }
.collisions h1 { font-size: 1.6rem; line-height: 1.2; } .collisions h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.collisions figure { margin: 0; } .collisions figcaption { font-size: .85rem; }
.collisions img { max-width: 100%; height: auto; }
.collisions .chart { background: white; border-radius: 4px; }
.collisions .side { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; }
.collisions .side img { width: 100%; image-rendering: pixelated; }
.collisions .charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.collisions .wide { overflow-x: auto; }
.collisions table { border-collapse: collapse; font-size: .85rem; }
.collisions caption { text-align: left; font-size: .85rem; padding: .4rem 0; }
.collisions th, .collisions td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, .4); }
.collisions td { white-space: nowrap; } .collisions .number { text-align: right; font-variant-numeric: tabular-nums; }
.collisions .error { border-left: .3rem solid #c77700; padding-left: .8rem; }
.collisions dt { margin-top: 1rem; } .collisions dd { margin: 0 0 0 1rem; }
"""
_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ font-family: system-ui, sans-serif; margin: 1rem; background: Canvas; color: CanvasText; }}</style>
</head>
<body>
{fragment}</body>
</html>
"""
_HEADS = {
    "tolerance": "tolerance",
    "nu": "ν, weights",
    "nu_layers": "ν, as layers",
    "total_nullity": "nullities, sum",
    "first_nullity": "first nullity",
    "model": "row of Table 1",
    "mu": "μ",
}


def document(report):
    """Return the page of a :class:`~collide_utils.report.Report` as a whole document, one string."""
    return _DOCUMENT.format(title=_text(f"Exact feature collisions: {report.name}"), fragment=fragment(report))


def fragment(report):
    """Return the page as a part of another, such as a notebook: its style reaches nothing else."""
    sections = "".join(_section(report, name, found) for name, found in report.data["sections"].items())
    head = f"<h1>Exact feature collisions: {_text(report.name)}</h1>\n<p>{_text(report.headline)}</p>\n"
    parts = head, _remarks(report.remarks), _claims(report.data["claims"]), sections
    return f'<style>{_STYLE}</style>\n<article class="collisions">\n{"".join(parts)}</article>\n'


def _remarks(remarks):
    return f'<p class="error">{"<br>".join(map(_text, remarks))}</p>\n' if remarks else ""


def _section(report, name, found):
    parts = [f"<h2>{_text(found['title'])}</h2>", *(f"<p>{_text(words)}</p>" for words in found["words"])]
    if "error" in found:
        parts.append(f'<p class="error">Not measured to the end: {_text(found["error"])}</p>')
    for key, caption in ("sweep", "The count with other tolerances"), ("published", "As Table 1 prints it"):
        if found.get(key):
            parts.append(_table(found[key], [head for head in _HEADS if head in found[key][0]], caption))
    if name == "curves" and "mosaic" in found:
        parts.append(_curves(found))
    if found.get("maps"):
        columns = ["method", "layer", "side", "difference", "verdict", "theory"]
        parts.append(_table(found["maps"], columns, "Relative differences of the maps, and what theory forces"))
    figures = (_figure(_png(image), caption, f"{caption}.") for caption, image in report.pictures.get(name, []))
    return "\n".join([*parts, f'<div class="side">{"".join(figures)}</div>\n'])


def _curves(found):
    betas, both = found["betas"], {"mosaic of null vectors": found["mosaic"], "white noise": found["noise"]}
    beta, drawn = "β (8-bit grey levels per window)", []
    change = {name: [max(value, 1e-17) for value in recipe["most"]] for name, recipe in both.items()}
    drawn.append(
        charts.lines(
            *(betas, change, "Change after the first layer", beta, "relative change (largest)"),
            alt="Largest relative change after the first layer against β. "
            + " ".join(
                f"{name}: {values[0]:.0e} at β = 8, {values[-1]:.0e} at 8192." for name, values in change.items()
            ),
            narrow=True,
        )
    )
    kept = {name: recipe["kept"] for name, recipe in both.items() if "kept" in recipe}
    if kept:
        drawn.append(
            charts.lines(
                *(betas, kept, "What the network still says", beta, "share of the answer that is kept"),
                alt="Share of what the network says that it still says of the changed image, against β. "
                + " ".join(
                    f"{name}: {values[0]:.2f} at β = 8, {values[-1]:.2f} at 8192." for name, values in kept.items()
                ),
                yscale="linear",
                narrow=True,
            )
        )
    return f'<div class="charts">{"".join(_figure(one.data, "", one.alt, "chart") for one in drawn)}</div>'


def _claims(claims):
    parts = ["<h2>The claims</h2>"]
    for answer, state in ("holds here", " open"), ("fails here", " open"), ("not measured", ""):
        group = [claim for claim in claims.values() if claim["here"] == answer]
        items = "".join(
            f"<dt>{_text(claim['claim'])} <em>As stated, in the ledger: {claim['as_stated']}.</em></dt>"
            + "".join(f"<dd>{_text(words)}</dd>" for words in [*map(_number, claim["numbers"]), claim["why"]] if words)
            for claim in group
        )
        if group:
            summary = f"{len(group)} {answer.replace('holds', 'hold').replace('fails', 'fail')}"
            parts.append(f"<details{state}><summary>{summary}</summary><dl>{items}</dl></details>")
    return "\n".join([*parts, ""])


def _number(number):
    limits = {"at_least": "at least", "at_most": "at most"}
    claimed = " and ".join(f"{limits[key]} {value:g}" for key, value in number["claimed"].items())
    value = number["measured"]
    shown = f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return f"{number['what']}: {shown}; claimed is {claimed}"


def _table(rows, columns, caption):
    def cell(value):
        number = not isinstance(value, str)
        shown = f"{value:.1e}" if isinstance(value, float) else f"{value:,}" if number else value
        return f"<td{' class=number' * number}>{_text(shown)}</td>"

    heads = "".join(f'<th scope="col">{_text(_HEADS.get(column, column))}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(cell(row[column]) for column in columns)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table><caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(png, caption, alt, kind="picture"):
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    words = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><img class="{kind}" src="{source}" alt="{_text(alt)}">{words}</figure>'


def _png(image):
    buffer = io.BytesIO()
    Image.fromarray(canvas.pixels(image)).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _text(value):
    return html.escape(str(value))
