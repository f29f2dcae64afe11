"""Run every notebook top to bottom and write one HTML page for each, with an index, to build/."""


import argparse
import html
import math
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm

NOTEBOOKS = Path(__file__).resolve().parent
BUILD = NOTEBOOKS.parent / "build"
# Solutions are code cells with a hidden source, folded on the page as they are in JupyterLab. Pictures carry the
# alternative text that the notebook gives them, which nbconvert's own template leaves out.
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block codecell -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details style="margin-left: 80px"><summary>Solution</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock codecell -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"></div>
{%- endblock data_png -%}"""


def run(notebook, path, bar):
    """Execute `notebook` in place; return None, or what failed and where."""
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}, record_timing=False,
        store_widget_state=False, extra_arguments=["--IPKernelApp.log_level=ERROR"],
        on_cell_executed=lambda **_: bar.update())
    try:
        client.execute()
    except CellExecutionError as error:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        failed = next(number for number, cell in enumerate(code, start=1)
                      if any(output.output_type == "error" for output in cell.get("outputs", [])))
        return f"{path.name}, code cell {failed}: {error.ename}: {error.evalue}"
    return None


def title(notebook):
    return next(line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="save outputs in the .ipynb files, not as HTML")
    parser.add_argument("numbers", nargs="*", help="run only these, 03 for example")
    args = parser.parse_args()
    paths = [path for path in sorted(NOTEBOOKS.glob("[0-9]*.py"))
             if not args.numbers or path.name[:2] in args.numbers]
    if args.rewrite:
        paths.reverse()  # notebook 00 tells how long the others took
    notebooks = [jupytext.read(path) for path in paths]
    cells = sum(cell.cell_type == "code" for notebook in notebooks for cell in notebook.cells)
    exporter = HTMLExporter(extra_loaders=[DictLoader({"course.html.j2": TEMPLATE})], template_file="course.html.j2")
    BUILD.mkdir(exist_ok=True)
    report, rows, errors = [], [], []
    with tqdm(total=cells, unit="cell") as bar:
        for path, notebook in zip(paths, notebooks, strict=True):
            bar.set_description(path.stem)
            start = time.perf_counter()
            error = run(notebook, path, bar)
            seconds = time.perf_counter() - start
            report.append(f"{'failed' if error else 'passed'}  {seconds:5.0f} s  {path.stem}")
            if error:
                errors.append(error)
            if args.rewrite and not error:
                notebook.metadata["seconds"] = math.ceil(seconds)
                notebook.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
                nbformat.write(notebook, path.with_suffix(".ipynb"))
            elif not args.rewrite:
                page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title(notebook)}})
                page = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)  # from page to page
                (BUILD / f"{path.stem}.html").write_text(page, encoding="utf-8")
                rows.append(f'<li><a href="{path.stem}.html">{html.escape(title(notebook))}</a>'
                            + (" (failed)" if error else "") + "</li>")
    if not args.rewrite:
        (BUILD / "index.html").write_text(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Exact feature collisions</title>"
            "<style>body{font:1.1em/1.6 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>"
            f"<h1>Exact feature collisions</h1><ol>{''.join(rows)}</ol></html>", encoding="utf-8")
    print(*report, *errors, sep="\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
