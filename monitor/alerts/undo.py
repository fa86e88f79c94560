"""Decisions taken back: as further events, since a log is append-only."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from db import alerts as store
from db import decisions
from db.connect import Connection
from db.decisions import MoveRow
from monitor.alerts.decisions import Decision, decide_each
from monitor.alerts.lifecycle import Event, Refused, State, after, named, named_decision

_TO: Final[Mapping[State, Event]] = {
    "open": "reopened",
    "acknowledged": "acknowledged",
    "in_review": "reviewed",
    "information_requested": "requested",
    "dismissed": "dismissed",
    "confirmed": "verified",
    "closed": "closed",
}
"""The event by which a person brings an alert to a state."""


def undo(connection: Connection, decided: Mapping[int, int], by: str, now: datetime) -> None:
    """Bring alerts back to the states that they had before a person's decisions, all or none.

    Args:
        decided: the number of the decision's event by alert.
        by: who decided, and takes it back.
        now: the caller's clock; it counts only in a replay.

    Raises:
        NoOpenAlert: an alert has gone on since, somebody else decided, or nothing leads back.
    """
    store.lock_alerts(connection, list(decided))
    states = store.states_of(connection, list(decided))
    steps: dict[int, list[Decision]] = {}
    for move in decisions.last_moves(connection, list(decided)):
        if move.event_nr != decided[move.alert_key]:
            raise store.NoOpenAlert(f"alert {move.alert_key} has gone on since; it is {named(states[move.alert_key])}")
        if move.by != by:
            raise store.NoOpenAlert(f"alert {move.alert_key} was not decided on by {by}")
        before = move.decision_before or {}
        kept = {name: value for name, value in before.items() if name not in ("by", "reason", "undoes")}
        reason = f"undone: it was {named_decision(move.event)} by mistake"
        if before.get("reason"):
            reason += f"; before that: {before['reason']}"
        steps[move.alert_key] = [
            Decision(event, reason, {"undoes": move.event_nr} | (kept if event != "reopened" else {}))
            for event in _path(move, states[move.alert_key])
        ]
    # The first steps of all together, then the second ones of those that need two.
    while steps:
        decide_each(connection, {alert: its[0] for alert, its in steps.items()}, by, now)
        steps = {alert: its[1:] for alert, its in steps.items() if its[1:]}


def _path(move: MoveRow, state: str) -> tuple[Event, ...]:
    """Return the events that lead from a state to the one before the last event. Raises NoOpenAlert."""
    to: State = move.state_before or "open"  # type: ignore[assignment]
    for path in ((_TO[to],), ("reopened", _TO[to])):
        try:
            now: State = state  # type: ignore[assignment]
            for event in path:
                now = after(now, "person", event)
        except Refused:
            continue
        if now == to and to != state:
            return path
    raise store.NoOpenAlert(
        f"alert {move.alert_key} was {named_decision(move.event)}: nothing leads back to {named(to)}"
    )
