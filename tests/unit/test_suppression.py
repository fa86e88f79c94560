"""Suppression windows: judged by the day of a departure; what is wrong with one is said with its line."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import parcelwatch
from monitor.alerts.evidence import NOT_ASKED, SUPPRESSED
from monitor.alerts.lifecycle import Episode, Event, OpenAlert, events, why_over
from monitor.alerts.rules import GREEN, RED, UNKNOWN, YELLOW, Finding, Found
from monitor.errors import PolicyError
from monitor.policies.policy import Policy, Suppression, read_policy
from monitor.policies.suppression import suppressed, windows_of
from tests.unit.test_obligations import asked

WINDOW = """name = "p"
version = 1

[[obligation]]
name = "one"
kind = "covered"
from = 2025-11-01
until = 2025-12-31

[[suppress]]
name = "drought"
reason = "derogation of 1 July"
rules = ["one", "early_loss"]
from = 2025-07-01
until = 2025-08-31

[suppress.parcels]
regions = ["r"]
"""


def window(name: str = "drought", **more: object) -> Suppression:
    given = {"name": name, "reason": "why", "from": "2025-07-01", "until": "2025-08-31", **more}
    return Suppression.model_validate(given)


def policy(*windows: Suppression) -> Policy:
    return Policy(name="p", version=3, suppress=windows)


def found(*departures: tuple[int, str]) -> Found:
    return Found(np.array([verdict for verdict, _ in departures]), np.array([day for _, day in departures], "M8[D]"))


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("from = 2025-07-01", "from = 2025-09-01", 10, "suppress drought: ends on 2025-08-31, before it begins"),
        ('reason = "derogation of 1 July"', 'reason = ""', 12, "suppress drought reason: String should have at least"),
        ('reason = "derogation of 1 July"', 'reason = "  "', 10, "suppress drought: a reason is needed"),
        ('reason = "derogation of 1 July"', "", 10, "suppress drought reason is missing"),
        ('"early_loss"', '"early_los"', 13, "'early_los' is no rule and no obligation of this policy"),
        ("until = 2025-08-31", "until = 2025-08-32", 15, "not TOML"),
        ('regions = ["r"]', "region = 3", 18, "suppress drought parcels.region: there is no such key"),
        ('regions = ["r"]', 'listed_in = "none.csv"', 18, "No such file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(WINDOW.replace(old, new, 1))
    with pytest.raises(PolicyError) as caught:
        read_policy(file)
    assert f"line {line}" in str(caught.value)
    assert said in str(caught.value)


def test_two_windows_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(WINDOW + WINDOW[WINDOW.index("[[suppress]]") :])
    with pytest.raises(PolicyError, match="two windows are called drought"):
        read_policy(file)


def test_windows_belong_to_the_content_and_policies_without_keep_their_hash(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(WINDOW)
    with_window = read_policy(file)
    assert Policy.stored(with_window.content()) == with_window
    file.write_text(WINDOW[: WINDOW.index("[[suppress]]")])
    without = read_policy(file)
    assert without.hash != with_window.hash
    assert without.hash == "aa13316d5e2f26e5d7b3be42732e1ddc877bf6982ec9456a46b5689cd8dd9f1d"


def test_the_day_of_the_departure_counts() -> None:
    on = found(
        (RED, "2025-06-30"), (RED, "2025-07-01"), (YELLOW, "2025-08-31"), (RED, "2025-09-01"), (GREEN, "2025-07-09")
    )
    of = windows_of(policy(window()), asked(5), np.arange(5), "early_loss", on)
    assert of.tolist() == [-1, 0, 0, -1, -1]
    assert windows_of(None, asked(5), np.arange(5), "early_loss", on).tolist() == [-1] * 5
    nothing = Found.nothing(1)
    assert nothing.verdict[0] == UNKNOWN
    assert windows_of(policy(window()), asked(1), np.arange(1), "early_loss", nothing).tolist() == [-1]


def test_rules_and_parcels_are_chosen() -> None:
    on = found((RED, "2025-07-05"), (RED, "2025-07-05"))
    listed = window(parcels={"listed_in": "x.csv", "source_ids": ["2"]})
    # Places 2 and 3 of a claim of four parcels.
    assert windows_of(policy(listed), asked(4), np.array([2, 3]), "early_loss", on).tolist() == [0, -1]
    assert windows_of(
        policy(window(rules=["flooding"]), window("b")), asked(2), np.arange(2), "early_loss", on
    ).tolist() == [1, 1]
    elsewhere = window(parcels={"except_regions": ["r"]})
    assert windows_of(policy(elsewhere), asked(2), np.arange(2), "early_loss", on).tolist() == [-1, -1]


def departing(day: date, in_window: bool) -> Finding:
    finding = Finding("early_loss", "OK", "red", 0.9, day, {"lost_on": str(day)})
    return suppressed(finding, policy(window()), 0 if in_window else -1)


LOST = date(2025, 7, 5)
OPEN = OpenAlert(1, "red", is_confirmed=True)


@pytest.mark.parametrize(
    ("alert", "in_window", "before", "expected"),
    [
        (None, True, None, ()),
        (None, False, None, ("opened", "confirmed")),
        (OPEN, True, None, ("closed",)),
        (OpenAlert(1, "red", is_confirmed=True, is_verified=True, state="confirmed"), True, None, ("flagged",)),
        (None, False, Episode(LOST, is_silent=False), ("reopened", "confirmed")),
        (None, False, Episode(LOST, is_silent=True), ()),
        (None, True, Episode(LOST, is_silent=False), ()),
    ],
)
def test_a_departure_in_a_window_has_no_alert(
    alert: OpenAlert | None, in_window: bool, before: Episode | None, expected: tuple[Event, ...]
) -> None:
    assert events(alert, departing(LOST, in_window), before) == expected


def test_the_reason_names_the_window() -> None:
    finding = departing(LOST, in_window=True)
    assert finding.evidence["lost_on"] == "2025-07-05"
    assert finding.evidence[SUPPRESSED]["policy_version"] == 3
    assert why_over(finding) == (
        "the departure lies in the window drought (from 2025-07-01 until 2025-08-31), which gives no alerts: why"
    )
    assert SUPPRESSED not in suppressed(finding, policy(window()), -1).evidence


@pytest.mark.parametrize(
    ("outcome", "evidence", "expected"),
    [
        ("NOT_EXECUTED", {"reason": "not asked", **NOT_ASKED}, ("closed",)),
        ("NOT_VALID", {"reason": "may be met until 2025-08-01", "deadline": "2025-08-01"}, ("closed",)),
        ("NOT_EXECUTED", {"reason": "fewer than 8 neighbours"}, ()),
        ("NOT_VALID", {"reason": "cloud"}, ()),
    ],
)
def test_what_is_not_asked_any_more_closes_its_alert(
    outcome: str, evidence: dict[str, object], expected: object
) -> None:
    assert events(OPEN, Finding("it", outcome, None, None, None, evidence)) == expected  # type: ignore[arg-type]


def test_windows_are_explained_in_words(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(WINDOW)
    said = CliRunner().invoke(parcelwatch.app, ["policy", "explain", str(file)]).output
    assert "drought: no alert of one, early_loss from a departure between 2025-07-01 and 2025-08-31" in said
    assert "parcels in r" in said
    assert "derogation of 1 July" in said
    assert "windows without alerts: 1" in CliRunner().invoke(parcelwatch.app, ["policy", "check", str(file)]).output
