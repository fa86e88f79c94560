"""The life of an alert."""

import pytest

from monitor.alerts.lifecycle import Event, OpenAlert, events
from monitor.alerts.rules import Colour, Finding


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
