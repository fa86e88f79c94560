"""The life of an alert."""

from datetime import date, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.evidence import LACKS_OBSERVATIONS
from monitor.alerts.lifecycle import ALIVE, Actor, Episode, Event, OpenAlert, Refused, State, after, events
from monitor.alerts.rules import Colour, Finding
from tests.alert_log import Alert, Logged, fold


def finding(colour: Colour | None) -> Finding:
    return Finding("early_loss", "OK" if colour else "NOT_VALID", colour, 0.9 if colour else None, None, {})


@pytest.mark.parametrize(
    ("alert", "colour", "expected"),
    [
        (None, "green", ()),
        (None, "yellow", ("opened",)),
        (None, "red", ("opened", "confirmed")),
        (OpenAlert(1, "yellow", is_confirmed=False), "yellow", ()),
        (OpenAlert(1, "yellow", is_confirmed=False), "red", ("confirmed",)),
        (OpenAlert(1, "red", is_confirmed=True), "red", ()),
        (OpenAlert(1, "red", is_confirmed=True), "yellow", ("changed",)),
        (OpenAlert(1, "red", is_confirmed=True), "green", ("closed",)),
        (OpenAlert(1, "red", is_confirmed=True), None, ()),
        (None, None, ()),
    ],
)
def test_events(alert: OpenAlert | None, colour: Colour | None, expected: tuple[Event, ...]) -> None:
    assert events(alert, finding(colour)) == expected


SEEN = date(2025, 5, 1)


def departing(colour: Colour, departed_on: date) -> Finding:
    return Finding("early_loss", "OK", colour, 0.9, departed_on, {})


def withdrawn() -> Finding:
    return Finding("early_loss", "NOT_VALID", None, None, None, {"reason": "0", "lacks": LACKS_OBSERVATIONS})


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        (None, ()),
        (OpenAlert(1, "red", is_confirmed=True), ("closed",)),
        (OpenAlert(1, "red", is_confirmed=True, is_verified=True, state="confirmed"), ("flagged",)),
        (OpenAlert(1, "red", is_confirmed=True, is_verified=True, state="in_review"), ()),
    ],
)
def test_withdrawn_evidence_moves_what_rested_on_it(alert: OpenAlert | None, expected: tuple[Event, ...]) -> None:
    assert events(alert, withdrawn()) == expected


@pytest.mark.parametrize(
    ("days", "is_silent", "colour", "expected"),
    [
        (0, True, "red", ()),
        (-3, True, "yellow", ()),
        (1, True, "yellow", ("opened",)),
        (0, False, "yellow", ("reopened",)),
        (0, False, "red", ("reopened", "confirmed")),
        (1, False, "red", ("opened", "confirmed")),
    ],
)
def test_an_episode_is_judged_by_the_day_of_the_behaviour(
    days: int, is_silent: bool, colour: Colour, expected: tuple[Event, ...]
) -> None:
    assert events(None, departing(colour, SEEN + timedelta(days)), Episode(SEEN, is_silent)) == expected


STATES: tuple[State, ...] = ("candidate", *ALIVE, "closed")
ENTRIES = st.builds(
    Logged, st.sampled_from(("monitor", "person")), st.sampled_from(get_args(Event)), st.sampled_from(get_args(Colour))
)


@given(st.lists(ENTRIES, max_size=40))
def test_any_sequence_of_events_keeps_the_invariants(tried: list[Logged]) -> None:
    alert, log, refused = Alert(), list[Logged](), list[str]()
    for entry in tried:
        try:
            then = alert.then(entry)
        except Refused as error:
            refused.append(str(error))
            continue
        log.append(entry)
        assert then.state in STATES
        assert then.state != "candidate"
        assert (alert.state == "candidate") == (entry.event == "opened")
        if alert.is_verified and entry.actor == "monitor":
            assert then.is_verified or entry.event == "reopened"
            assert then.state != "closed" or alert.state != "confirmed"
        if then.state == "confirmed":
            assert then.is_verified
        alert = then
        assert fold(log) == alert
    assert all(len(line.splitlines()) == 1 for line in refused)


@given(st.lists(st.tuples(st.sampled_from(["green", "yellow", "red", "withdrawn"]), st.integers(0, 5)), max_size=30))
def test_one_alert_is_alive_whatever_is_found(found: list[tuple[str, int]]) -> None:
    """A dismissed episode stays silent; what the monitor does is always allowed."""
    alert, before = Alert(), None
    departed_on = SEEN
    for what, days in found:
        finding = withdrawn() if what == "withdrawn" else departing(what, SEEN + timedelta(days))  # type: ignore[arg-type]
        alive = alert.state in ALIVE
        known = OpenAlert(1, alert.colour, alert.is_confirmed, alert.is_verified, alert.state) if alive else None
        happened = events(known, finding, before)
        if happened[:1] == ("opened",):
            assert not alive
            assert before is None or finding.departed_on is None or finding.departed_on > before.ended_on
            alert = Alert()
        for event in happened:
            alert = alert.then(Logged("monitor", event, finding.colour or "green"))
        if alert.state == "closed":
            before = before if not alive else Episode(departed_on, is_silent=False)
        else:
            departed_on = finding.departed_on or departed_on


@pytest.mark.parametrize(("actor", "event"), [("person", "opened"), ("monitor", "dismissed")])
def test_what_is_not_an_actors_is_refused(actor: Actor, event: Event) -> None:
    with pytest.raises(Refused, match=f"is never {event} by a {actor}"):
        after("open", actor, event)
