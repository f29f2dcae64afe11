"""Run a lesson's code again, with other seeds or another network: do its bounds hold there, too?

    python tests/lesson_runs.py [LESSON ...]

runs lessons (all, or those whose names start so) with twenty seeds and prints, for each number of the ledger, its range
and its bounds. Pictures are not drawn.
"""

import contextlib
import io
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from unittest import mock

import jupytext

from collide_utils import claims, show

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ROOMS = ("canvas", "charts", "drawings", "panels", "pictures", "scene")


def run(lesson, seed=0, network=None, check=claims.check):
    """Run the code of a lesson before its exercises, in its folder, without its pictures; return what it prints.

    `seed` is added to every seed of the lesson, `network` stands in for the name at its top, and `check` for
    :func:`collide_utils.claims.check`.
    """
    found = jupytext.read(next(NOTEBOOKS.glob(f"{lesson}*.py"))).cells
    end = next((place for place, cell in enumerate(found) if "## Exercises" in cell.source), len(found))
    code = "\n".join(cell.source for cell in found[:end] if cell.cell_type == "code")
    code = re.sub(r"(manual_seed|default_rng)\((\w+)\)", rf"\1(\2 + {seed})", code)
    if network:
        code, changed = re.subn(r'(?m)^(network\b[^=\n]*= )"[^"]*"', rf'\1"{network}"', code, count=1)
        assert changed, f"{lesson} has no network at its top"
    drawn = {room: mock.MagicMock() for room in ROOMS}
    before = Path.cwd()
    with (
        mock.patch.multiple(show, create=True, **drawn),
        mock.patch.object(claims, "check", check),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        os.chdir(NOTEBOOKS)
        try:
            exec(compile(code, lesson, "exec"), {"__name__": "lesson"})
        finally:
            os.chdir(before)
    return out.getvalue()


def main(lessons):
    found = defaultdict(list)

    def note(claim, **measured):
        for name, value in measured.items():
            found[claim, name].append(float(value))
        return claim

    for lesson in lessons or sorted(script.name[:2] for script in NOTEBOOKS.glob("[0-9]*.py")):
        found.clear()
        for seed in range(1, 21):
            run(lesson, seed=1000 * seed, check=note)
        for (claim, name), values in found.items():
            number = claims.ledger()[claim]["evidence"][name]
            low, high = number.get("at_least", float("-inf")), number.get("at_most", float("inf"))
            inside = sum(low <= value <= high for value in values)
            print(
                f"{claim} {name}: {min(values):.3g} to {max(values):.3g}, bounds {low:g} to {high:g}, "
                f"{inside} of {len(values)} inside",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
