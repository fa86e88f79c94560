"""When events become messages: nothing lost, nothing twice, nothing in quiet hours, whatever a zone does with its clocks."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from db.deliveries import WaitingEvent
from monitor.subscriptions.timing import Timing, due, in_parts, once_each

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
# Clocks go forward and back, by an hour and by half of one; a day that is left out; none of it.
ZONES = ("Europe/Amsterdam", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia", "UTC")
TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
# Around changes of clocks (March and October 2025) and Samoa's missing 30 December 2011.
MOMENTS = st.sampled_from(
    [datetime(2025, 3, 28, tzinfo=UTC), datetime(2025, 10, 24, tzinfo=UTC), datetime(2011, 12, 28, tzinfo=UTC)]
)
TIMINGS = st.builds(
    Timing,
    st.sampled_from(["immediate", "grouped", "daily", "weekly"]),
    st.integers(0, 7200).map(lambda s: timedelta(seconds=s)),
    TIMES,
    st.integers(1, 7),
    st.sampled_from(ZONES).map(ZoneInfo),
    st.none() | st.tuples(TIMES, TIMES).filter(lambda pair: pair[0] != pair[1]),
    st.sampled_from([timedelta(), timedelta(minutes=30), timedelta(hours=5)]),
)


def timing(
    mode: str, at: time = time(7), quiet: tuple[time, time] | None = None, interval: int = 0, weekday: int = 1
) -> Timing:
    return Timing(mode, timedelta(minutes=15), at, weekday, AMSTERDAM, quiet, timedelta(seconds=interval))


def event(nr: int, recorded_at: datetime, alert: int | None = None, incident: int | None = None) -> WaitingEvent:
    return WaitingEvent(nr, nr if alert is None else alert, recorded_at, incident)


def open_minutes(first: time, last: time) -> int:
    """Return the minutes of a day that quiet hours leave."""
    return (first.hour * 60 + first.minute - last.hour * 60 - last.minute) % 1440


def numbers(groups: list[list[WaitingEvent]]) -> list[list[int]]:
    return [[one.event_nr for one in group] for group in groups]


@given(
    TIMINGS,
    MOMENTS,
    st.lists(st.integers(0, 4 * 86400), max_size=12),
    st.lists(st.integers(60, 40000), min_size=1, max_size=30),
)
def test_each_event_is_sent_once_and_never_when_it_must_not_be(
    asked: Timing, begin: datetime, offsets: list[int], pauses: list[int]
) -> None:
    events = [
        event(nr, begin + timedelta(seconds=offset), incident=(None, 1, 2)[nr % 3])
        for nr, offset in enumerate(sorted(offsets))
    ]
    now, last, waiting, sent = begin, None, list(events), dict[int, datetime]()
    for step in range(3000):
        here = [one for one in waiting if one.recorded_at <= now]  # as a sender sees it: what is committed by then
        groups = due(asked, here, last, now)
        if groups:
            assert not asked.is_quiet(now)
            assert last is None or now >= last + asked.min_interval
            if asked.mode != "immediate" or asked.min_interval:
                assert len(groups) == 1
            last = now
        for one in (one for group in groups for one in group):
            assert one.event_nr not in sent
            sent[one.event_nr] = now
        waiting = [one for one in waiting if one.event_nr not in sent]
        if not waiting and now > begin + timedelta(days=4):
            break
        now += timedelta(seconds=pauses[step % len(pauses)])
    for one in events:
        if one.event_nr in sent and asked.mode in ("immediate", "daily", "weekly"):
            assert sent[one.event_nr] >= asked.ready_at(one.recorded_at)


@given(TIMINGS, MOMENTS, st.lists(st.integers(0, 3 * 86400), min_size=1, max_size=8))
def test_a_sender_that_is_always_there_sends_all_within_the_time_that_was_asked(
    asked: Timing, begin: datetime, offsets: list[int]
) -> None:
    assume(asked.quiet is None or open_minutes(*asked.quiet) >= 90)  # two polls, also where clocks skip an hour
    waiting = [event(nr, begin + timedelta(seconds=offset)) for nr, offset in enumerate(sorted(offsets))]
    now, last = begin, None
    longest = timedelta(days=8 if asked.mode == "weekly" else 2)
    for _ in range(15 * 96):
        here = [one for one in waiting if one.recorded_at <= now]
        if groups := due(asked, here, last, now):
            last = now
        gone = {one.event_nr for group in groups for one in group}
        waiting = [one for one in waiting if one.event_nr not in gone]
        if asked.quiet is None:
            assert all(now - one.recorded_at <= longest for one in waiting)
        now += timedelta(minutes=15)
    assert not waiting


@given(st.sampled_from(ZONES).map(ZoneInfo), TIMES, MOMENTS, st.integers(0, 10 * 86400))
def test_a_day_has_one_digest(zone: ZoneInfo, at: time, begin: datetime, offset: int) -> None:
    asked = Timing("daily", timedelta(), at, 1, zone, None, timedelta())
    recorded = begin + timedelta(seconds=offset)
    slot = asked.ready_at(recorded)
    # 25 hours where clocks go back.
    assert timedelta() < slot - recorded <= timedelta(hours=25)
    assert asked.ready_at(slot) > slot
    assert asked.ready_at(slot - timedelta(microseconds=1)) == slot


def test_a_digest_keeps_its_local_time_when_clocks_change() -> None:
    asked = timing("daily")
    before, after = datetime(2025, 3, 29, 12, tzinfo=UTC), datetime(2025, 3, 30, 12, tzinfo=UTC)
    assert asked.ready_at(before) == datetime(2025, 3, 30, 5, tzinfo=UTC)  # 07:00 in summer
    assert asked.ready_at(after) == datetime(2025, 3, 31, 5, tzinfo=UTC)
    assert asked.ready_at(before - timedelta(days=1)) == datetime(2025, 3, 29, 6, tzinfo=UTC)  # 07:00 in winter


def test_a_time_that_does_not_exist_and_one_that_comes_twice_are_one_time_each() -> None:
    assert timing("daily", time(2, 30)).ready_at(datetime(2025, 3, 30, tzinfo=UTC)) == datetime(
        2025, 3, 30, 1, 30, tzinfo=UTC
    )
    night = timing("daily", time(2, 30))
    assert night.ready_at(datetime(2025, 10, 26, tzinfo=UTC)) == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert night.ready_at(datetime(2025, 10, 26, 0, 30, tzinfo=UTC)) == datetime(2025, 10, 27, 1, 30, tzinfo=UTC)


def test_a_weekly_digest_comes_on_its_day() -> None:
    asked = timing("weekly", weekday=5)
    slot = asked.ready_at(datetime(2025, 6, 6, 5, tzinfo=UTC))  # Friday, 07:00 sharp: the next one
    assert slot == datetime(2025, 6, 13, 5, tzinfo=UTC)


def test_an_immediate_message_is_of_one_alert() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    waiting = [event(1, now, 7), event(2, now, 7), event(3, now, 8)]
    assert numbers(due(timing("immediate"), waiting, None, now)) == [[1, 2], [3]]


def test_what_a_night_held_back_comes_in_one_message() -> None:
    asked = timing("immediate", quiet=(time(22), time(6)))
    night, morning = datetime(2025, 6, 1, 22, tzinfo=UTC), datetime(2025, 6, 2, 4, 0, tzinfo=UTC)
    waiting = [event(1, night), event(2, night + timedelta(hours=1)), event(3, morning)]
    assert due(asked, waiting, None, morning - timedelta(minutes=1)) == []
    assert numbers(due(asked, waiting, None, morning)) == [[1, 2], [3]]


def test_an_incident_is_one_message_also_where_it_goes_on_after_the_night() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    waiting = [event(1, now, incident=9), event(2, now, 2), event(3, now, incident=9), event(4, now, 9)]
    assert numbers(due(timing("immediate"), waiting, None, now)) == [[1, 3], [2], [4]], "alert 9 is not incident 9"
    night, morning = datetime(2025, 6, 1, 22, tzinfo=UTC), datetime(2025, 6, 2, 4, 0, tzinfo=UTC)
    waiting = [event(1, night, incident=9), event(2, morning), event(3, morning, incident=9)]
    asked = timing("immediate", quiet=(time(22), time(6)))
    assert numbers(due(asked, waiting, None, morning)) == [[1, 3], [2]]


def test_what_an_earlier_message_tells_of_waits_for_it() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    of = {name: event(nr, now, incident=nr if name != "apart" else None) for nr, name in enumerate(("a", "b", "apart"))}
    kept = once_each([[of["a"]], [of["a"]], [of["a"], of["b"]], [of["b"]], [of["apart"]], [of["a"], of["apart"]]])
    assert kept == [[of["a"]], [of["a"], of["b"]], [of["apart"]], [of["a"], of["apart"]]]


def test_a_group_waits_for_its_oldest() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    waiting = [event(1, now - timedelta(minutes=15)), event(2, now)]
    assert numbers(due(timing("grouped"), waiting, None, now)) == [[1, 2]]
    assert due(timing("grouped"), waiting, None, now - timedelta(seconds=1)) == []


def test_an_interval_makes_one_message_of_what_waits() -> None:
    now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    asked, waiting = timing("immediate", interval=3600), [event(1, now), event(2, now)]
    assert due(asked, waiting, now - timedelta(minutes=59), now) == []
    assert numbers(due(asked, waiting, now - timedelta(minutes=60), now)) == [[1, 2]]


@given(st.lists(st.lists(st.integers(), max_size=20), max_size=5), st.integers(1, 7))
def test_parts_hold_what_groups_held(groups: list[list[int]], longest: int) -> None:
    made = [[event(one, datetime(2025, 6, 1, tzinfo=UTC)) for one in group] for group in groups]
    parts = in_parts(made, longest)
    assert [one for part in parts for one in part] == [one for group in made for one in group]
    assert all(0 < len(part) <= longest for part in parts)


@pytest.mark.parametrize(
    ("now", "is_quiet"), [(time(21, 59), False), (time(22), True), (time(5, 59), True), (time(6), False)]
)
def test_quiet_hours_span_midnight(now: time, is_quiet: bool) -> None:
    moment = datetime(2025, 6, 1, now.hour, now.minute, tzinfo=AMSTERDAM)
    assert timing("immediate", quiet=(time(22), time(6))).is_quiet(moment.astimezone(UTC)) == is_quiet
