"""The ledger of the supplement's claims, ``data/claims.toml``, and the check that keeps it true."""

import csv
import difflib
import math
import tomllib
from collections import Counter

from collide_utils import _data

_LEDGER = _data.FOLDER / "claims.toml"
_MEASURED = _data.FOLDER / "measured.csv"
ANSWERS = ("holds", "fails", "not testable here")
checked = {}  # what check was given in this process, by claim


class ClaimError(Exception):
    """A measured number lies outside the bounds that the ledger gives it."""


def ledger():
    """Return the ledger: a dict from a claim's id to its entry.

    An entry has the ``claim`` in our words, its place in the ``supplement``, the ``notebook`` that measures it, whether
    it holds ``as_stated`` (one of ``ANSWERS``), the strongest true form (``repaired``), and its ``evidence``: for each
    number ``what`` it is, its bounds (``at_least``, ``at_most``) and, where the claim as stated says something about
    that number, what it says (``claimed``, bounds again).
    """
    return tomllib.loads(_LEDGER.read_text(encoding="utf-8"))


def answer(entry):
    """Return what the bounds of an entry say of the claim as stated, whatever its ``as_stated`` says.

    It ``"fails"`` where the bounds of some number and what is claimed of it exclude each other, and ``"holds"`` where
    all bounds lie inside what is claimed. Where nothing is claimed of any number it is ``"not testable here"``.
    ValueError if the bounds leave it open.
    """
    pairs = [
        (_interval(number), _interval(number["claimed"]))
        for number in entry["evidence"].values()
        if "claimed" in number
    ]
    if not pairs:
        return "not testable here"
    if any(high < least or most < low for (low, high), (least, most) in pairs):
        return "fails"
    if all(least <= low and high <= most for (low, high), (least, most) in pairs):
        return "holds"
    raise ValueError(f"the bounds leave open whether it holds: {entry['claim']!r}")


def verdict(claim, **measured):
    """Return what the ledger says of numbers that were measured on one network: ``"holds"`` or ``"fails"``.

    Parameters
    ----------
    claim : the id of an entry.
    measured : numbers for some of the entry's evidence, of which the claim says something (``claimed``).

    The rule is that of :func:`answer`, with each number in the place of its bounds. ValueError for an id or a number
    that the ledger does not have or of which nothing is claimed, for none at all, and for what is not a number.
    """
    entry = _entry(claim)
    for name, value in measured.items():
        if "claimed" not in entry["evidence"].get(name, {}):
            raise ValueError(f"{claim!r} says nothing of {name!r}")
        if math.isnan(value):
            raise ValueError(f"{name} of {claim!r} is not a number")
    if not measured:
        raise ValueError(f"no number was measured for {claim!r}")
    bounds = {name: {"at_least": value, "at_most": value} for name, value in measured.items()}
    return answer(entry | {"evidence": {name: entry["evidence"][name] | bound for name, bound in bounds.items()}})


def check(claim, **measured):
    """Hold what was measured against the ledger's bounds, which alone decide; return the ledger's line for the claim.

    Parameters
    ----------
    claim : the id of an entry.
    measured : one number for each piece of the entry's evidence.

    ClaimError if a number is outside its bounds or not a number; ValueError for an id, or for evidence, that the ledger
    does not have.
    """
    entry = _entry(claim)
    evidence = entry["evidence"]
    if set(evidence) != set(measured):
        raise ValueError(f"the evidence of {claim!r} is {', '.join(evidence)}, not {', '.join(measured) or 'nothing'}")
    for name, value in measured.items():
        low, high = _interval(evidence[name])
        if not low <= value <= high:
            raise ClaimError(f"{claim}: {name} is {value}, not in [{low:g}, {high:g}] ({evidence[name]['what']})")
    checked[claim] = {name: float(value) for name, value in measured.items()}
    return f"{claim}: {_WORDS[entry['as_stated']]}. {entry['repaired']}"


def measured():
    """Return what the notebooks measured when they were last saved: a dict from (claim, name of the number) to it."""
    with open(_MEASURED, newline="", encoding="utf-8") as file:
        return {(row["claim"], row["number"]): float(row["measured"]) for row in csv.DictReader(file)}


def save_measured(numbers):
    """Put `numbers`, as ``checked`` holds them, into ``data/measured.csv``: in the ledger's order, to six digits."""
    known = measured() if _MEASURED.exists() else {}
    known |= {(claim, name): value for claim, values in numbers.items() for name, value in values.items()}
    rows = [
        (claim, name, f"{known[claim, name]:.6g}")
        for claim, entry in ledger().items()
        for name in entry["evidence"]
        if (claim, name) in known
    ]
    with open(_MEASURED, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("claim", "number", "measured"), *rows])


def summary():
    """Return the ledger in a sentence: how many claims hold as stated, fail, and cannot be tested here."""
    count = Counter(entry["as_stated"] for entry in ledger().values())
    return (
        f"Of {count.total()} claims {count['holds']} hold as stated, {count['fails']} fail, and "
        f"{count['not testable here']} cannot be tested here."
    )


def section(claim):
    """Return the heading of the section of its notebook in which a claim is decided; None if it is not.

    The notebooks are part of a clone, not of the installed package: FileNotFoundError outside one.
    """
    heading = found = None
    source = _data.NOTEBOOKS / f"{ledger()[claim]['notebook']}.py"
    if not source.exists():
        raise FileNotFoundError(f"{source}: the notebooks are in a clone of the repository only; run from one")
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ## "):
            heading = line.removeprefix("# ## ")
        elif f'"{claim}"' in line:
            found = heading
    return found


_WORDS = {"holds": "holds as stated", "fails": "fails as stated", "not testable here": "not testable here"}


def _entry(claim):
    entries = ledger()
    if claim not in entries:
        near = difflib.get_close_matches(claim, entries, n=3, cutoff=0.3) or entries
        raise ValueError(f"the ledger has no claim {claim!r}; near matches: {', '.join(near)}")
    return entries[claim]


def _interval(bounds):
    return bounds.get("at_least", -math.inf), bounds.get("at_most", math.inf)
