"""The monitor's processes: workers work off what is pending, one leader keeps the crops' progress, by APScheduler.

Any number of monitors may run, on any number of machines. Parcels are claimed, so none is worked on twice. The one that holds
the database's advisory lock leads: it keeps how each crop stands, every minute if that is cheap, else as often as it can afford.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from apscheduler.schedulers.background import BackgroundScheduler

from db import identities, weekly_ndvi, work
from db.connect import drop_pooled, engine
from db.errors import DATABASE_ERRORS, DatabaseUnavailable, first_line, is_away
from db.leader import Leadership
from db.seasons import previous_season, season_by_name
from monitor import crop_progress, flooded_land
from monitor.alerts.escalation import escalate
from monitor.batch import Counts
from monitor.errors import NothingWorks
from monitor.season_views import LeaderMemory
from monitor.settings import MonitorSettings
from monitor.worker import Worker

log = logging.getLogger(__name__)

_REPORT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 60.0
_ROLL_UP_S: Final = 5.0
"""So long weeks are rolled up at a time: a store that is new to it has a season of them, and progress must not wait for all."""
_SIGN_INS_KEPT: Final = timedelta(days=30)
"""After their end, so that it can be asked who was signed in when something was seen to be amiss."""
_SIGN_INS_REMOVED: Final = 10_000
"""At a time: the rest waits a minute."""
_SHARE_OF_LEADING: Final = 0.05
"""The leader computes progress at most so much of its time."""


def lead(dsn: str, settings: MonitorSettings, now: datetime, memory: LeaderMemory | None = None) -> int:
    """Bring the progress of every season that is watched up to date, roll up weeks and escalate overdue alerts; return the groups stored.

    Sign-ins that ended long ago are removed. `memory` is what this process keeps from one time to the next.
    """
    memory = memory or LeaderMemory()
    with engine(dsn).begin() as connection:
        groups = 0
        for name, collection in work.watched_seasons(connection, now):
            season = season_by_name(connection, name)
            earlier = previous_season(connection, collection, season)
            if earlier is not None:  # once: its harvest says what is early in this season
                groups += crop_progress.finish_season(connection, earlier, collection, settings.rules, now)
            groups += crop_progress.refresh(connection, season, collection, settings.rules, now, memory)
    count_low_neighbours(dsn, memory, now)
    roll_up_weeks(dsn, _ROLL_UP_S)
    with engine(dsn).begin() as connection:  # its own: it holds alerts, which people decide on meanwhile
        escalate(connection, settings.escalate_after_days, now)
    with engine(dsn).begin() as connection:
        identities.remove_ended(connection, _SIGN_INS_KEPT, _SIGN_INS_REMOVED)
    return groups


def count_low_neighbours(dsn: str, memory: LeaderMemory, now: datetime) -> int:
    """Count low neighbours at the passes that moved, in every season that is watched; return how many parcels are marked."""
    with engine(dsn).begin() as connection:
        watched = work.watched_seasons(connection, now)
        seasons = [(season_by_name(connection, name), collection) for name, collection in watched]
        return sum(flooded_land.refresh(connection, *one, memory, now) for one in seasons)


def roll_up_weeks(dsn: str, at_most_s: float = math.inf) -> int:
    """Roll up weeks of regional NDVI that are due, the newest first, each in a transaction; return how many.

    After `at_most_s` none is begun any more.
    """
    until, n = time.monotonic() + at_most_s, 0
    with engine(dsn).begin() as connection:
        due = weekly_ndvi.due(connection)
    for week in due:
        if time.monotonic() > until:
            break
        with engine(dsn).begin() as connection:
            n += weekly_ndvi.roll_up(connection, week)
    return n


def once(worker: Worker, now: datetime) -> Counts:
    """Do the leader's work, then all that is pending: what `monitor once` and the replays call."""
    # First: what the leader marks is then worked off in the same call, so that findings do not depend on how often it is made.
    lead(worker.dsn, worker.settings, now, worker.memory)
    counts = worker.poll(now)
    # Which parcels are low the workers find: their neighbours are counted afterwards, and what that marks is worked off, too.
    return counts + worker.poll(now) if count_low_neighbours(worker.dsn, worker.memory, now) else counts


def run(dsn: str, settings: MonitorSettings, clock: Callable[[], datetime]) -> None:
    """Run until the process is asked to stop (SIGTERM or SIGINT end it after the batch in hand)."""
    stop = threading.Event()
    stop_on_signals(stop)
    leader = _Leader(dsn, settings, clock, stop)
    scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"max_instances": 1, "coalesce": True})
    scheduler.add_job(leader.tick, "interval", seconds=settings.lead_s, next_run_time=clock(), id="lead")
    scheduler.start()
    try:
        _work(Worker(dsn, settings), clock, stop)
    finally:
        scheduler.shutdown(wait=True)
        leader.release()


def stop_on_signals(stop: threading.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _work(worker: Worker, clock: Callable[[], datetime], stop: threading.Event) -> None:
    """Works off what is pending, and waits where there is nothing, or nothing that works."""
    trouble, report = _Trouble(worker.dsn, stop), _Report()
    while not stop.is_set():
        try:
            counts = worker.poll(clock(), stop)
        except NothingWorks as error:
            trouble.wait(str(error), worker.settings.retry_s)
            continue
        except (*DATABASE_ERRORS, DatabaseUnavailable) as error:
            if not is_away(error):
                raise
            trouble.wait(f"{first_line(error)}; waiting for it", 1.0)
            continue
        trouble.over()
        report.add(counts)
        stop.wait(worker.settings.interval_s)


class _Report:
    """Counts for the log: at once after a pause, then once a minute."""

    def __init__(self) -> None:
        self._counts, self._at = Counts(), 0.0

    def add(self, counts: Counts) -> None:
        """Add what was done, and log it if it is time."""
        self._counts += counts
        if self._counts != Counts() and time.monotonic() - self._at >= _REPORT_S:
            log.info("%s", " ".join(f"{name}={value}" for name, value in self._counts.__dict__.items()))
            self._counts, self._at = Counts(), time.monotonic()


class _Leader:
    """The leader's thread: one process's try to lead, and the leader's work."""

    def __init__(
        self, dsn: str, settings: MonitorSettings, clock: Callable[[], datetime], stop: threading.Event
    ) -> None:
        self._dsn, self._settings, self._clock = dsn, settings, clock
        self._leadership, self._trouble, self._not_before = Leadership(dsn), _Trouble(dsn, stop), 0.0
        self._memory = LeaderMemory()

    def tick(self) -> None:
        """Lead if nobody else does, unless leading takes too much of the time."""
        if time.monotonic() < self._not_before:
            return
        try:
            if self._leadership.is_held():
                begun = time.monotonic()
                lead(self._dsn, self._settings, self._clock(), self._memory)
                self._not_before = time.monotonic() + (time.monotonic() - begun) / _SHARE_OF_LEADING
            self._trouble.over()
        except (*DATABASE_ERRORS, DatabaseUnavailable) as error:
            self._trouble.report(f"leading: {first_line(error)}; tried again")

    def release(self) -> None:
        """Let go of the lead."""
        self._leadership.release()


class _Trouble:
    """What is wrong for one thread: logged when it begins and when it is over, with waits that grow in between."""

    def __init__(self, dsn: str, stop: threading.Event) -> None:
        self._dsn, self._stop, self._what, self._wait_s = dsn, stop, "", 0.0

    def report(self, what: str) -> None:
        """Log what is wrong, once for each thing; the next connection is a new one."""
        if what != self._what:
            log.warning("%s", what)
        self._what = what
        drop_pooled(self._dsn)

    def wait(self, what: str, first_s: float) -> None:
        """Report, and wait for the next try."""
        self._wait_s = min(max(2 * self._wait_s, first_s), max(_LONGEST_WAIT_S, first_s)) if self._what else first_s
        self.report(what)
        self._stop.wait(self._wait_s)

    def over(self) -> None:
        """Log that all is well again."""
        if self._what:
            log.warning("it works again")
        self._what, self._wait_s = "", 0.0
