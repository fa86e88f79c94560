"""Windows without alerts, and obligations that a policy no longer has: what the log of an alert says, and what is kept without one."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest

from db import work
from db.alerts import latest_findings
from db.connect import engine
from db.parcels import declared_parcels
from db.seasons import Season
from monitor.alerts.rules import VERDICTS, Found
from monitor.policies.known import Asked
from monitor.policies.policy import Policy, Red, Suppression
from monitor.stages.markers import _windows_moved
from tests.integration.test_policies import POLICY, VIEWS, lights, poll, run, season, store
from tests.lights import DAY, START, add_findings

__all__ = ["run", "season"]  # fixtures
Run = Callable[..., Any]
DROUGHT = """
[[suppress]]
name = "drought"
reason = "derogation of 1 April"
rules = ["not_ploughed"]
from = 2025-04-15
until = 2025-05-10
"""


class Agency:
    """Who puts policies in force and reads what comes of them."""

    def __init__(self, dsn: str, run: Run, folder: Path) -> None:
        self._dsn, self._run, self._file, self._version = dsn, run, folder / "p.toml", 0

    def activate(self, policy: str) -> None:
        """Put a policy in force as its next version."""
        self._version += 1
        self._file.write_text(policy.replace("version = 1", f"version = {self._version}"))
        self._run("policy", "activate", str(self._file), "--season", "2025", "--why", "agreed")

    def log(self) -> list[tuple[str, str]]:
        """Return what happened to the alerts, in order, and because of what."""
        with psycopg.connect(self._dsn) as connection:
            rows = connection.execute(
                "select event, coalesce(evidence ->> 'because', '') from alert_events order by event_nr"
            )
            return rows.fetchall()

    def listed(self, *words: str) -> list[dict[str, Any]]:
        """Return what a command of alerts lists."""
        return [json.loads(line) for line in self._run("alerts", *words, "--json").output.splitlines()]


@pytest.fixture
def agency(dsn: str, run: Run, tmp_path: Path) -> Agency:
    return Agency(dsn, run, tmp_path)


def plough(dsn: str, late: bool = False) -> None:
    """Store a field that is bare from 1 May on; as it is observed, or all at once in October."""
    for day, ndvi in VIEWS:
        store(dsn, "ploughed", day, ndvi, known=280 if late else day)


@pytest.mark.parametrize("late", [False, True])
def test_a_departure_in_a_window_gives_no_alert_whenever_it_is_found(
    late: bool, agency: Agency, dsn: str, run: Run
) -> None:
    agency.activate(POLICY + DROUGHT)
    plough(dsn, late)
    poll(dsn, 281 if late else 140)
    assert lights(dsn, "not_ploughed")["ploughed"] == "red", "the light says what is seen"
    assert agency.log() == []
    (row,) = agency.listed("suppressed")
    assert (row["source_id"], row["rule"], row["departed_on"]) == ("ploughed", "not_ploughed", "2025-05-01")
    assert row["evidence"]["suppressed"]["reason"] == "derogation of 1 April"
    assert "drought, 2025-04-15 to 2025-05-10" in " ".join(run("alerts", "suppressed").output.split())
    assert agency.listed("suppressed", "--rule", "cover") == []
    # The first bare view is withdrawn: the departure is dated after the window.
    store(dsn, "ploughed", 120, None, revision=1, known=282)
    poll(dsn, 282)
    assert [event for event, _ in agency.log()] == ["opened"]
    assert agency.listed("suppressed") == []


def test_a_window_that_comes_later_closes_the_alert_and_its_end_opens_it_again(agency: Agency, dsn: str) -> None:
    agency.activate(POLICY)
    plough(dsn)
    poll(dsn, 140)
    agency.activate(POLICY + DROUGHT)
    poll(dsn, 141)
    agency.activate(POLICY)
    poll(dsn, 142)
    assert [event for event, _ in agency.log()] == ["opened", "confirmed", "closed", "reopened", "confirmed"]
    assert "the window drought" in agency.log()[2][1]
    assert "derogation of 1 April" in agency.log()[2][1]


OF_WHEAT = POLICY.replace("code:265", "code:1")
WITHOUT = OF_WHEAT.replace('name = "not_ploughed"', 'name = "kept_green"')


@pytest.mark.parametrize(
    ("other", "says"), [(WITHOUT, "policy in force does not ask"), (OF_WHEAT, "does not ask this of the parcel")]
)
def test_what_a_new_policy_does_not_ask_closes_its_alert_and_asked_again_opens_it(
    other: str, says: str, agency: Agency, dsn: str
) -> None:
    agency.activate(POLICY)
    plough(dsn)
    poll(dsn, 140)
    agency.activate(other)
    poll(dsn, 141)
    event, because = agency.log()[2]
    assert event == "closed"
    assert says in because
    assert "grass version 2, SHA-256 " in because
    assert lights(dsn, "not_ploughed")["ploughed"] == "NOT_EXECUTED"
    agency.activate(POLICY)
    poll(dsn, 142)
    assert [event for event, _ in agency.log()] == ["opened", "confirmed", "closed", "reopened", "confirmed"]
    (row,) = agency.listed("--rule", "not_ploughed")
    assert (row["state"], row["departed_on"]) == ("open", "2025-05-01")


def test_a_dismissed_alert_stays_silent_when_its_obligation_returns(agency: Agency, dsn: str, run: Run) -> None:
    agency.activate(POLICY)
    plough(dsn)
    poll(dsn, 140)
    (row,) = agency.listed()
    run("alerts", "dismiss", str(row["alert_key"]), "--why", "agreed with the holder")
    agency.activate(WITHOUT)
    poll(dsn, 141)
    agency.activate(POLICY)
    poll(dsn, 142)
    assert [event for event, _ in agency.log()] == ["opened", "confirmed", "dismissed", "closed"]


def test_a_mismatch_of_before_is_held_by_a_window_that_comes_later(dsn: str) -> None:
    """No acquisition decides it anew: the finding that is stored says so from now on, and no longer once the window is gone."""
    window = Suppression.model_validate({"name": "w", "reason": "why", "from": "2025-04-01", "until": "2025-05-31"})
    with engine(dsn).begin() as connection:
        add_findings(connection, "crop_mismatch", {"mown": "red"}, START, {"declared": "grass"})
        of = connection.exec_driver_sql("select season_key, parcel_key from parcels where source_id = 'mown'").one()
        keys = np.array([of.parcel_key])
        pending = np.array([(of.parcel_key, 3)], [("parcel_key", "i8"), ("task_nr", "i2")])
        course = SimpleNamespace(posteriors=SimpleNamespace(parcel_key=np.zeros(0, int)), rebuilt=np.zeros(0, int))
        before = Found(np.array([VERDICTS.index(("OK", "red"))]), np.array([START.date()], "M8[D]"))
        asked = Asked(declared_parcels(connection, keys), [""])
        claim = work.Claim(of.season_key, "test", keys, pending)

        def moved(*windows: Suppression, red: tuple[Red, ...] = ()) -> list[Any]:
            others = (window.model_copy(update={"rules": ("flooding",)}),)
            batch: Any = SimpleNamespace(
                policy=Policy(name="p", version=1, suppress=windows or others, red=red),
                claim=claim,
                classified=course,
                connection=connection,
                season=Season(of.season_key, "2025", date(2025, 1, 1), date(2025, 12, 31)),
            )
            return [row for row, _ in _windows_moved(batch, before, asked)]

        assert moved() == []
        (row,) = moved(window)
        assert row.evidence["suppressed"]["name"] == "w"
        assert (row.colour, row.confidence, row.evidence["declared"]) == ("red", pytest.approx(0.9), "grass")
        add_findings(connection, "crop_mismatch", {"mown": "red"}, START + DAY, row.evidence)
        assert moved(window) == []
        (row,) = moved()
        assert row.evidence == {"declared": "grass"}
        # So is the colour, by a day before which nothing is red.
        red = (Red(rule="crop_mismatch", not_before="06-01"),)
        (row,) = moved(red=red)
        assert (row.colour, row.evidence["held_at_yellow"]["not_before"]) == ("yellow", "2025-06-01")
        add_findings(connection, "crop_mismatch", {"mown": "yellow"}, START + 2 * DAY, row.evidence)
        newest = latest_findings(connection, keys, ["crop_mismatch"], VERDICTS)
        assert newest["verdict_nr"].tolist() == [VERDICTS.index(("OK", "red"))], "the rule goes on from its own"
        assert moved(red=red) == []
        (row,) = moved()
        assert (row.colour, row.evidence) == ("red", {"declared": "grass"})
