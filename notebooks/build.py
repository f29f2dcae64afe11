"""Run every notebook top to bottom; rewrite the .ipynb beside it, or write the site of all of them to build/."""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from tqdm import tqdm

from collide_utils import claims

NOTEBOOKS = Path(__file__).resolve().parent
BUILD = NOTEBOOKS.parent / "build"
STOPPED = "\nstopped; nothing is half-written"
CHECKED = "import json; from collide_utils import claims; print(json.dumps(claims.checked))"


def run(notebook, path, bar):
    """Execute `notebook` in place; return what its claims measured, and None or what failed and where."""
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": NOTEBOOKS}},
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        on_cell_executed=lambda **_: bar.update(),
    )
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKED))
    try:
        _execute(client)
    except DeadKernelError:
        return {}, f"{path.name}: its kernel died, perhaps for want of memory"
    except CellExecutionError as error:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        failed = next(
            number
            for number, cell in enumerate(code, start=1)
            if any(output.output_type == "error" for output in cell.get("outputs", []))
        )
        return {}, f"{path.name}, code cell {failed}: {error.ename}: {error.evalue}"
    finally:
        last = notebook.cells.pop()
    return json.loads(last.outputs[0].text), None


def _execute(client):
    """Run a notebook in a thread, where nbclient leaves Ctrl-C to us: its own answer is to fail as if a cell had."""
    with ThreadPoolExecutor(1) as pool:
        try:  # stderr is what a kernel says when it is stopped
            pool.submit(client.execute, stderr=subprocess.DEVNULL).result()
        except KeyboardInterrupt:
            print(STOPPED, file=sys.stderr)
            os._exit(130)  # the thread would wait for its cell; a kernel ends with its parent


def write_notebook(notebook, path):
    """Write a notebook beside `path` and put it there in one step: a full disk or a stop leaves the old one whole."""
    beside = path.with_name(f".{path.name}.part")
    try:
        nbformat.write(notebook, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="save outputs in the .ipynb files, write no site")
    parser.add_argument("numbers", nargs="*", help="only run these, 03 for example")
    args = parser.parse_args()
    paths = [path for path in sorted(NOTEBOOKS.glob("[0-9]*.py")) if not args.numbers or path.name[:2] in args.numbers]
    if args.rewrite:
        paths.reverse()  # notebook 00 shows what the others measured
    notebooks = [jupytext.read(path) for path in paths]
    cells = sum(cell.cell_type == "code" for notebook in notebooks for cell in notebook.cells)
    report, executed, errors = [], {}, []
    with tqdm(total=cells, unit="cell") as bar:
        for path, notebook in zip(paths, notebooks, strict=True):
            bar.set_description(path.stem)
            start = time.perf_counter()
            measured, error = run(notebook, path, bar)
            seconds = time.perf_counter() - start
            report.append(f"{'failed' if error else 'passed'}  {seconds:5.0f} s  {path.stem}")
            if error:
                errors.append(error)
            if args.rewrite and not error:
                notebook.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
                write_notebook(notebook, path.with_suffix(".ipynb"))
                claims.save_measured(measured)
            executed[path.stem] = notebook
    if not (args.rewrite or args.numbers or errors):
        sys.path.insert(0, str(NOTEBOOKS.parent / "docs"))
        import site_builder

        site_builder.write(executed, BUILD)
    print(*report, *errors, sep="\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(STOPPED)
