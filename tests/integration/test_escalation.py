"""Alerts that wait too long, or whose answer was due, are escalated by the monitor's schedule, once for each wait."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from db.alerts import alert_log, states_of
from db.connect import engine
from monitor import schedule
from monitor.alerts.decisions import decide
from monitor.alerts.escalation import overdue
from monitor.settings import MonitorSettings
from tests.lights import DAY, START, add_alert, add_parcels

SETTINGS = MonitorSettings(escalate_after_days=30)


@pytest.fixture
def alert(dsn: str) -> int:
    with engine(dsn).begin() as opened:
        add_parcels(opened, {"a": "maize", "b": "maize"})
        return add_alert(opened, "a", "early_loss", START)


def lead(dsn: str, days: float, settings: MonitorSettings = SETTINGS) -> None:
    schedule.lead(dsn, settings, START + days * DAY)


def decided(dsn: str, key: int, event: Any, days: float, **details: Any) -> None:
    with engine(dsn).begin() as opened:
        decide(opened, key, event, "why", "anna", START + days * DAY, details=details)


def events(dsn: str, key: int) -> list[str]:
    with engine(dsn).connect() as opened:
        return [entry.event for entry in alert_log(opened, key)]


def test_an_alert_that_nobody_moves_on_is_escalated_once_for_each_wait(alert: int, dsn: str) -> None:
    lead(dsn, 29.9)
    assert events(dsn, alert) == ["opened"]
    lead(dsn, 30)
    lead(dsn, 31)
    assert events(dsn, alert) == ["opened", "escalated"]
    decided(dsn, alert, "commented", 32)
    lead(dsn, 70)
    assert events(dsn, alert)[-1] == "commented", "a comment moves nothing on"
    decided(dsn, alert, "acknowledged", 71)
    lead(dsn, 100)
    assert events(dsn, alert)[-1] == "acknowledged"
    lead(dsn, 102)
    with engine(dsn).connect() as opened:
        log = alert_log(opened, alert)
        assert states_of(opened, [alert]) == {alert: "acknowledged"}, "an escalation changes no state"
    assert log[-1].event == "escalated"
    assert log[-1].evidence["because"] == "acknowledged since 2025-07-11, 30 days are the limit"
    assert "decision" not in log[-1].evidence, "nobody decided it"


@pytest.mark.parametrize("event", ["dismissed", "verified", "closed"])
def test_what_is_decided_waits_for_nobody(event: str, alert: int, dsn: str) -> None:
    decided(dsn, alert, event, 1)
    lead(dsn, 100)
    assert events(dsn, alert) == ["opened", event]


def test_a_deadline_that_passes_is_escalated_whatever_the_limit(alert: int, dsn: str) -> None:
    decided(dsn, alert, "requested", 1, deadline=(START + 10 * DAY).isoformat())
    never = MonitorSettings()
    lead(dsn, 9.9, never)
    assert events(dsn, alert) == ["opened", "requested"]
    lead(dsn, 10, never)
    lead(dsn, 11, never)
    assert events(dsn, alert) == ["opened", "requested", "escalated"]
    decided(dsn, alert, "requested", 12, deadline=(START + 20 * DAY).isoformat())
    decided(dsn, alert, "answered", 15)
    lead(dsn, 25, never)
    assert events(dsn, alert)[-1] == "answered", "an answer came in time"


def test_nothing_is_escalated_where_no_limit_is_set(alert: int, dsn: str) -> None:
    lead(dsn, 1000, MonitorSettings())
    assert events(dsn, alert) == ["opened"]


def test_an_alert_that_somebody_holds_is_left_for_the_next_time(alert: int, dsn: str) -> None:
    with engine(dsn).connect() as other:
        other.execute(sa.text("select from alerts for no key update"))
        lead(dsn, 40)
        assert events(dsn, alert) == ["opened"]
        other.rollback()
    lead(dsn, 41)
    assert events(dsn, alert) == ["opened", "escalated"]


NOW = datetime(2025, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "days", "deadline", "limit", "is_overdue"),
    [
        ("open", 30, None, 30, True),
        ("open", 29, None, 30, False),
        ("open", 1000, None, None, False),
        ("in_review", 31, "2025-06-01T00:00:00+00:00", 30, True),
        ("information_requested", 31, "2025-07-02T00:00:00+00:00", 30, False),
        ("information_requested", 1, "2025-07-01T02:00:00+02:00", None, True),
        ("information_requested", 31, "soon", 30, True),
        ("information_requested", 31, "2025-06-01", 30, True),
    ],
)
def test_when_an_alert_is_overdue(
    state: Any, days: int, deadline: str | None, limit: int | None, is_overdue: bool
) -> None:
    assert bool(overdue(state, NOW - timedelta(days=days), deadline, NOW, limit)) == is_overdue
