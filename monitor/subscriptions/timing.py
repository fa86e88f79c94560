"""When events become messages: at once, grouped, or as a digest at a local time; never in quiet hours, never too often.

Everything here is a function of what was asked for, the events that wait and the time; nothing reads a clock.

    immediate   an event is ready as it is recorded; a message for each alert, or for each regional incident
    grouped     the events that wait are ready as soon as the oldest has waited for so long; one message
    daily       an event is ready at the first time of day after it, in the time zone; one message
    weekly      likewise, on one day of the week

Days are those of the time zone: each has one time of day, also where clocks are changed. One that is skipped is taken by the
offset from before the change; of one that comes twice the first counts (PEP 495, fold 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from db.deliveries import WaitingEvent
from db.subscriptions import Subscription


@dataclass(frozen=True)
class Timing:
    """When a subscription is sent."""

    mode: str
    within: timedelta
    at: time
    weekday: int
    zone: ZoneInfo
    quiet: tuple[time, time] | None
    min_interval: timedelta

    @classmethod
    def of(cls, asked: Subscription) -> "Timing":
        """Return when a subscription is sent."""
        quiet = None if asked.quiet_from is None or asked.quiet_to is None else (asked.quiet_from, asked.quiet_to)
        within, interval = timedelta(seconds=asked.within_s), timedelta(seconds=asked.min_interval_s)
        return cls(asked.mode, within, asked.at, asked.weekday, ZoneInfo(asked.zone), quiet, interval)

    def is_quiet(self, now: datetime) -> bool:
        """Return whether a time lies in the quiet hours, which may span midnight."""
        if self.quiet is None:
            return False
        first, last = self.quiet
        local = now.astimezone(self.zone).time()
        return first <= local < last if first < last else local >= first or local < last

    def ready_at(self, recorded_at: datetime) -> datetime:
        """Return when an event may be sent, as far as its mode says."""
        if self.mode == "immediate":
            return recorded_at
        if self.mode == "grouped":
            return recorded_at + self.within
        # Two weeks of days: the first that fits is among them, whatever the zone skips.
        day = recorded_at.astimezone(self.zone).date()
        for _ in range(15):
            at = datetime.combine(day, self.at, self.zone).astimezone(UTC)
            if at > recorded_at and (self.mode == "daily" or day.isoweekday() == self.weekday):
                return at
            day += timedelta(days=1)
        raise AssertionError("two weeks without a day of the week")


def due(
    timing: Timing, waiting: Sequence[WaitingEvent], last_sent: datetime | None, now: datetime
) -> list[list[WaitingEvent]]:
    """Return the messages that are due, each as its events in their order.

    Args:
        waiting: events that are in no message yet, oldest first.
        last_sent: when messages of the subscription were made last, None for never.
    """
    if timing.is_quiet(now) or (last_sent is not None and now < last_sent + timing.min_interval):
        return []
    ready = [event for event in waiting if timing.ready_at(event.recorded_at) <= now]
    if not ready:
        return []
    if timing.mode == "grouped":
        return [[event for event in waiting if event.recorded_at <= now]]
    if timing.mode != "immediate" or timing.min_interval:
        return [ready]
    # What was held back by a night comes in one message; a hundred at six in the morning is what quiet hours are to prevent.
    by_night = {event.event_nr for event in ready if timing.is_quiet(event.recorded_at)}
    told = {event.incident for event in ready if event.event_nr in by_night} - {None}
    held, by_subject = list[WaitingEvent](), dict[tuple[bool, int], list[WaitingEvent]]()
    for event in ready:
        if event.event_nr in by_night or event.incident in told:
            held.append(event)
        else:
            subject = (False, event.alert_key) if event.incident is None else (True, event.incident)
            by_subject.setdefault(subject, []).append(event)
    return ([held] if held else []) + list(by_subject.values())


def in_parts(groups: Sequence[Sequence[WaitingEvent]], longest: int) -> list[Sequence[WaitingEvent]]:
    """Return groups of at most so many events: a mailbox or a receiver takes no message of any size."""
    return [group[start : start + longest] for group in groups for start in range(0, len(group), longest)]


def once_each(groups: Sequence[Sequence[WaitingEvent]]) -> list[Sequence[WaitingEvent]]:
    """Return groups without those of which an earlier one tells all incidents: their events wait, and are folded into its message."""
    told, kept = set[int | None](), list[Sequence[WaitingEvent]]()
    for group in groups:
        of = {event.incident for event in group}
        if None in of or not of <= told:
            kept.append(group)
        told |= of
    return kept
