"""Where files are. ``data/`` is at the top of a clone, and inside the package where that was installed from a wheel."""

import csv
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
FOLDER = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent / "data"
NOTEBOOKS = _PACKAGE.parent / "notebooks"  # in a clone only


def table(*parts):
    """Return the rows of a CSV file below :data:`FOLDER` as dicts, numbers as int or float, empty cells as None."""
    with FOLDER.joinpath(*parts).open(encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def write(path, content):
    """Write bytes to a file, whole or not at all: beside its place first, and then moved there."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None
