"""When a departure may be red: what people see of it, what is wrong with a table, and how one is written into a file."""

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import parcelwatch
from db.seasons import Season
from monitor.alerts.evidence import HELD, why
from monitor.alerts.lifecycle import OpenAlert, events
from monitor.alerts.rules import GREEN, RED, YELLOW, Case, Decisions, Finding, Found, Posteriors, crop_mismatch
from monitor.alerts.settings import RuleSettings
from monitor.errors import PolicyError
from monitor.policies.calibrate import with_red
from monitor.policies.policy import Policy, Red, read_policy
from monitor.policies.red import first_red_day, seen, seen_of_all
from monitor.policies.risk import Truth, choose
from tests.refused_policy import assert_refused

SEASON = Season(1, "2025", date(2025, 1, 1), date(2025, 12, 31))
CHOSEN = Red(
    rule="early_loss",
    above=0.97,
    risk=0.001,
    confidence=0.9,
    n=2400,
    source="quality sample 3 of nl, 2025",
    source_sha256="0" * 64,
    chosen_on=date(2025, 11, 29),
)
TABLE = """name = "p"
version = 1

[[obligation]]
name = "one"
kind = "covered"
from = 2025-11-01
until = 2025-12-31

# What may be red.
[[red]]
rule = "one"
not_before = "05-15"

[[red]]
rule = "early_loss"
above = 0.97
risk = 0.001
confidence = 0.9
n = 2400
source = "quality sample 3 of nl, 2025"
source_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
chosen_on = 2025-11-29

# Holidays.
[[suppress]]
name = "august"
reason = "holidays"
from = 2025-08-01
until = 2025-08-31
"""


def policy(*tables: Red) -> Policy:
    return Policy(name="p", version=3, red=tables)


def departure(confidence: float = 0.96, to: str = "2025-06-20", colour: str = "red") -> Finding:
    views = [["2025-05-01", 0.2], [to, 0.2]]
    return Finding("early_loss", "OK", colour, confidence, date(2025, 5, 1), {"clear_views": views})  # type: ignore[arg-type]


def test_below_the_threshold_it_is_yellow_and_says_why() -> None:
    finding = seen(departure(), policy(CHOSEN), SEASON)
    assert (finding.colour, finding.confidence, finding.departed_on) == ("yellow", 0.96, date(2025, 5, 1))
    held = finding.evidence[HELD]
    assert (held["above"], held["confidence"], held["risk"], held["risk_confidence"]) == (0.97, 0.96, 0.001, 0.9)
    assert held["policy_version"] == 3
    said = why("early_loss", {**finding.evidence, "lost_on": "2025-05-01", "neighbours": 9})
    assert "held at yellow by p version 3: red from a confidence of 0.97 on, this has 0.96" in said
    assert seen(departure(0.97), policy(CHOSEN), SEASON) == departure(0.97)


@pytest.mark.parametrize("other", [None, policy(CHOSEN.model_copy(update={"rule": "flooding"}))])
def test_without_a_table_of_the_rule_nothing_changes(other: Policy | None) -> None:
    assert seen(departure(0.1), other, SEASON) == departure(0.1)
    # Held by a former policy: red again, and nothing is left of why.
    assert seen(seen(departure(), policy(CHOSEN), SEASON), other, SEASON) == departure()


def test_what_is_yellow_or_green_stays_so() -> None:
    for colour in ("yellow", "green"):
        assert seen(departure(0.5, colour=colour), policy(CHOSEN), SEASON) == departure(0.5, colour=colour)


@pytest.mark.parametrize(("to", "colour"), [("2025-05-14", "yellow"), ("2025-05-15", "red"), ("2025-11-01", "red")])
def test_nothing_is_red_as_of_an_earlier_day(to: str, colour: str) -> None:
    finding = seen(departure(1.0, to), policy(Red(rule="early_loss", not_before="05-15")), SEASON)
    assert finding.colour == colour
    if colour == "yellow":
        assert finding.evidence[HELD]["not_before"] == "2025-05-15"
        assert "above" not in finding.evidence[HELD]
        assert "nothing is red before 2025-05-15" in why(
            "early_loss", {**finding.evidence, "lost_on": "2025-05-01", "neighbours": 9}
        )


@pytest.mark.parametrize(
    ("begins", "ends", "day"),
    [
        (date(2025, 1, 1), date(2025, 12, 31), date(2025, 5, 15)),
        (date(2024, 9, 1), date(2025, 8, 31), date(2025, 5, 15)),
        (date(2025, 6, 1), date(2025, 12, 31), date(2025, 5, 15)),  # begins after it: it restrains nothing
    ],
)
def test_the_day_is_that_of_the_season(begins: date, ends: date, day: date) -> None:
    assert first_red_day("05-15", Season(1, "s", begins, ends)) == day


def test_of_all_parcels_only_reds_that_may_not_be_are_masked() -> None:
    verdict = np.array([RED, RED, YELLOW, GREEN])
    confidence = [0.99, 0.9, 0.5, 0.4]
    cases = [
        Case(verdict == one, one, lambda _: {"lost_on": "2025-06-01"}, lambda nr: confidence[nr])
        for one in (RED, YELLOW, GREEN)
    ]
    decisions = Decisions("early_loss", cases, np.full(4, np.datetime64("2025-06-01")))
    assert seen_of_all(decisions, policy(CHOSEN), SEASON).verdict.tolist() == [RED, YELLOW, YELLOW, GREEN]
    other = CHOSEN.model_copy(update={"rule": "flooding"})
    assert seen_of_all(decisions, policy(other), SEASON).verdict.tolist() == verdict.tolist()
    assert decisions.found.verdict.tolist() == verdict.tolist()


def step(probabilities: list[float], day: str, before: Found) -> Decisions:
    classes = ("wheat", "maize", "beet")
    posterior = Posteriors(classes, np.array([probabilities]), np.array([99]), np.array([day], "M8[D]"))
    return crop_mismatch(["wheat"], posterior, before, RuleSettings())


def test_a_mismatch_goes_on_from_its_own_verdict_and_not_from_the_colour_that_is_seen() -> None:
    """Red in the rule's own eyes from 1 July on, so that in August it is although no other crop is nearly sure any more."""
    rule = CHOSEN.model_copy(update={"rule": "crop_mismatch", "above": 0.99, "not_before": "07-15"})
    found, colours = Found.nothing(1), []
    for probabilities, day in (
        ([0.004, 0.96, 0.036], "2025-06-01"),
        ([0.004, 0.96, 0.036], "2025-07-01"),
        ([0.006, 0.50, 0.494], "2025-08-01"),
    ):
        decisions = step(probabilities, day, found)
        found = decisions.found
        colours.append(seen(decisions.finding(0), policy(rule), SEASON).colour)
    assert found.verdict.tolist() == [RED]
    assert colours == ["yellow", "yellow", "red"]
    as_seen = Found(np.array([YELLOW]), found.departed_on)
    assert step([0.006, 0.50, 0.494], "2025-08-01", as_seen).found.verdict.tolist() == [YELLOW]


def test_the_alert_follows_the_colour_that_is_seen() -> None:
    held, red = seen(departure(), policy(CHOSEN), SEASON), departure()
    assert events(None, held) == ("opened",)
    assert events(OpenAlert(1, "yellow", is_confirmed=False), red) == ("confirmed",)
    assert events(OpenAlert(1, "red", is_confirmed=True), held) == ("changed",)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('rule = "one"', 'rule = "on"', 12, "red 1 rule: 'on' is no rule and no obligation of this policy"),
        ('not_before = "05-15"', 'not_before = "15-05"', 13, "no day of every year"),
        ('not_before = "05-15"', 'not_before = "02-29"', 13, "no day of every year"),
        ('not_before = "05-15"', 'not_before = "5-1"', 13, "no day of every year"),
        ('not_before = "05-15"', "", 11, "red 1: says nothing"),
        ("above = 0.97", "above = 1.2", 17, "less than or equal to 1"),
        ("risk = 0.001", "", 15, "risk missing: a threshold stands with its guarantee"),
        ("n = 2400", "n = 0", 20, "red 2 n: Input should be greater"),
        ('00000000"', '0000000G"', 22, "red 2 source_sha256"),
        ("risk = 0.001", "risk = 0.001\nlevel = 3", 19, "level: there is no such key"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert_refused(tmp_path / "p.toml", TABLE.replace(old, new, 1), line, said)


def test_two_tables_of_a_rule_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(TABLE + '\n[[red]]\nrule = "one"\nnot_before = "06-01"\n')
    with pytest.raises(PolicyError, match=r"two tables \[\[red\]\] are of one"):
        read_policy(file)


def test_a_table_is_written_in_the_place_of_the_former_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(with_red(TABLE, CHOSEN.model_copy(update={"rule": "one", "source": 'say "x" – ü \\'})))
    written = read_policy(file)
    assert [one.rule for one in written.red] == ["early_loss", "one"]
    one = written.red_of("one")
    assert one is not None
    assert (one.above, one.not_before, one.source) == (0.97, "05-15", 'say "x" – ü \\')
    text = file.read_text()
    assert text.startswith(TABLE[: TABLE.index("[[red]]")])
    assert "# Holidays.\n[[suppress]]" in text
    assert with_red(text, one) == text
    plain = TABLE[: TABLE.index("# What")]
    assert with_red(plain, CHOSEN).startswith(plain)
    file.write_text(with_red(plain, CHOSEN))
    assert read_policy(file).red == (CHOSEN,)
    assert Policy.stored(read_policy(file).content()) == read_policy(file)


def test_it_is_explained_in_words(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(TABLE)
    said = CliRunner().invoke(parcelwatch.app, ["policy", "explain", str(file)]).output
    assert "early_loss: when a departure may be red, else it is yellow" in said
    assert "of 0.97 at least" in said
    assert "at most 1 of 1,000 parcels are falsely red, with 90% confidence" in said
    assert "2,400 verdicts: quality sample 3 of nl, 2025, chosen on 2025-11-29" in said
    assert "none as of an earlier day of the season than 05-15" in said
    assert "rules whose red is bounded: 2" in CliRunner().invoke(parcelwatch.app, ["policy", "check", str(file)]).output


def test_without_mapie_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mapie.risk_control", None)
    with pytest.raises(PolicyError, match=r"not installed here .*\.\[calibrate\]"):
        choose(Truth(np.ones(1), np.ones(1, bool), np.ones(1), 1.0), 0.001, 0.9)
