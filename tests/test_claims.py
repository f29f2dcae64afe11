import pytest

from collide_utils import claims


@pytest.fixture(autouse=True)
def small_ledger(monkeypatch, tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text("""
[sky]
claim = "The sky is blue."
verdict = "holds by day"
evidence.day = {at_least = 0.9}
evidence.night = {at_most = 0.1}
""")
    monkeypatch.setattr(claims, "_LEDGER", path)


def test_a_measurement_that_agrees_gives_the_line():
    assert claims.check("sky", "holds by day", day=0.95, night=0.0) == "sky: holds by day"


@pytest.mark.parametrize(("verdict", "day", "night", "text"), [
    ("holds", 0.95, 0.0, "measured 'holds', the ledger says 'holds by day'"),
    ("holds by day", 0.85, 0.0, "day is 0.85, not at least 0.9"),
    ("holds by day", 0.95, 0.2, "night is 0.2, not at most 0.1"),
    ("holds by day", float("nan"), 0.0, "day is nan, not at"),
])
def test_a_measurement_that_disagrees_fails(verdict, day, night, text):
    with pytest.raises(AssertionError, match=text):
        claims.check("sky", verdict, day=day, night=night)


def test_unknown_claims_and_evidence_are_named():
    with pytest.raises(ValueError, match="'skye'; near matches: sky"):
        claims.check("skye", "holds")
    with pytest.raises(ValueError, match="is day, night, not nothing"):
        claims.check("sky", "holds by day")
