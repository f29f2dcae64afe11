import re
import tomllib

import pytest

from collide_utils import claims

LEDGER = """
[sky]
claim = "The sky is blue."
as_stated = "fails"
repaired = "The sky is blue by day."
evidence.day = {what = "share of blue, noon", at_least = 0.9, claimed = {at_least = 0.5}}
evidence.night = {what = "share of blue, midnight", at_most = 0.1, claimed = {at_least = 0.5}}
"""


@pytest.fixture
def small_ledger(monkeypatch, tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(LEDGER)
    monkeypatch.setattr(claims, "_LEDGER", path)


def test_a_measurement_inside_the_bounds_gives_the_line(small_ledger):
    assert claims.check("sky", day=0.95, night=0.0) == "sky: fails as stated. The sky is blue by day."
    assert claims.summary() == "Of 1 claims 0 hold as stated, 1 fail, and 0 cannot be tested here."


@pytest.mark.parametrize(
    ("day", "night", "text"),
    [
        (0.85, 0.0, r"day is 0.85, not in \[0.9, inf\] \(share of blue, noon\)"),
        (0.95, 0.2, r"night is 0.2, not in \[-inf, 0.1\]"),
        (float("nan"), 0.0, "day is nan, not in"),
    ],
)
def test_a_measurement_outside_its_bounds_fails_with_or_without_asserts(small_ledger, day, night, text):
    with pytest.raises(claims.ClaimError, match=text):
        claims.check("sky", day=day, night=night)


def test_a_number_of_one_network_takes_the_place_of_its_bounds(small_ledger):
    assert claims.verdict("sky", day=0.5) == claims.verdict("sky", day=0.7, night=0.6) == "holds"
    assert claims.verdict("sky", day=0.49) == claims.verdict("sky", day=0.7, night=0.4) == "fails"
    for measured, text in (
        ({"noon": 1}, "'sky' says nothing of 'noon'"),
        ({"day": float("nan")}, "day of 'sky' is not a number"),
        ({}, "no number was measured for 'sky'"),
    ):
        with pytest.raises(ValueError, match=text):
            claims.verdict("sky", **measured)
    with pytest.raises(ValueError, match="near matches: sky"):
        claims.verdict("skye", day=1)


def test_unknown_claims_and_evidence_are_named(small_ledger):
    with pytest.raises(ValueError, match="'skye'; near matches: sky"):
        claims.check("skye")
    with pytest.raises(ValueError, match="is day, night, not nothing"):
        claims.check("sky")


def test_the_answer_follows_from_the_bounds():
    entry = tomllib.loads(LEDGER)["sky"]
    assert claims.answer(entry) == "fails"
    del entry["evidence"]["night"]
    assert claims.answer(entry) == "holds"
    entry["evidence"]["day"]["at_least"] = 0.4
    with pytest.raises(ValueError, match="leave open"):
        claims.answer(entry)
    del entry["evidence"]["day"]["claimed"]
    assert claims.answer(entry) == "not testable here"


@pytest.mark.parametrize("claim", claims.ledger())
def test_every_entry_is_complete_and_its_bounds_give_its_answer(claim):
    entry = claims.ledger()[claim]
    assert set(entry) == {"claim", "supplement", "notebook", "as_stated", "repaired", "evidence"}
    assert re.fullmatch(r"[A-Z].*[.]", entry["claim"]) and re.fullmatch(r"[A-Z].*[.]", entry["repaired"])
    for number in entry["evidence"].values():
        assert {"what"} < set(number) <= {"what", "at_most", "at_least", "claimed"}
        assert set(number) & {"at_most", "at_least"}, "a number without a bound is no evidence"
    assert entry["evidence"] and entry["as_stated"] == claims.answer(entry)


@pytest.mark.parametrize("claim", [c for c, e in claims.ledger().items() if e["as_stated"] != "not testable here"])
def test_every_claim_is_decided_in_a_section_of_its_notebook(claim):
    assert claims.section(claim)


def test_what_was_measured_last_lies_inside_the_bounds():
    found = claims.measured()
    assert set(found) == {(c, n) for c, entry in claims.ledger().items() for n in entry["evidence"]}
    for claim, entry in claims.ledger().items():
        claims.check(claim, **{name: found[claim, name] for name in entry["evidence"]})


def test_saved_numbers_replace_older_ones_and_keep_the_others(small_ledger, monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "_MEASURED", tmp_path / "measured.csv")
    claims.save_measured({"sky": {"night": 0.03, "day": 0.95}})
    claims.save_measured({"sky": {"day": 0.987}, "no longer in the ledger": {"x": 1.0}})
    assert claims.measured() == {("sky", "day"): 0.987, ("sky", "night"): 0.03}
