"""The ledger of the supplement's claims, ``data/claims.toml``, and the check that keeps it true."""


import difflib
import operator
import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LEDGER = _ROOT / "data" / "claims.toml"


def ledger():
    """Return the ledger: a dict from a claim's id to its entry (claim, supplement, notebook, verdict, evidence)."""
    return tomllib.loads(_LEDGER.read_text(encoding="utf-8"))


def section(claim):
    """Return the heading of the section of its notebook in which a claim is decided."""
    heading = found = None
    source = _ROOT / "notebooks" / f"{ledger()[claim]['notebook']}.py"
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ## "):
            heading = line.removeprefix("# ## ")
        elif f'"{claim}"' in line:
            found = heading
    return found


def check(claim, verdict, **measured):
    """Hold a measured verdict and its numbers against the ledger; return the ledger's line for the claim.

    Parameters
    ----------
    claim : the id of an entry.
    verdict : what the measurement says, in the ledger's words.
    measured : one number for each piece of the entry's evidence, which states what it ``at_most`` or ``at_least`` is.

    AssertionError if the ledger says otherwise; ValueError for an id, or for evidence, that it does not have.
    """
    entries = ledger()
    if claim not in entries:
        near = difflib.get_close_matches(claim, entries, n=3, cutoff=0.3) or entries
        raise ValueError(f"the ledger has no claim {claim!r}; near matches: {', '.join(near)}")
    entry = entries[claim]
    evidence = entry["evidence"]
    if set(evidence) != set(measured):
        raise ValueError(f"the evidence of {claim!r} is {', '.join(evidence)}, not {', '.join(measured) or 'nothing'}")
    assert verdict == entry["verdict"], f"{claim}: measured {verdict!r}, the ledger says {entry['verdict']!r}"
    for name, value in measured.items():
        bounds = evidence[name]
        for word, holds in (("at_most", operator.le), ("at_least", operator.ge)):
            bound = bounds.get(word, value)
            assert holds(value, bound), f"{claim}: {name} is {value}, not {word.replace('_', ' ')} {bound}"
    return f"{claim}: {verdict}"
