"""The monitor's clock: workers look for news, one leader keeps the daily work, both on APScheduler.

Any number of monitors may run, on any number of machines. Each looks for news; parcels are claimed, so none is worked on
twice. The one that holds the database's advisory lock leads: it refreshes how each crop stands, once a day.
"""

import logging
import signal
import threading
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from apscheduler.schedulers.blocking import BlockingScheduler

from db import work
from db.connect import DatabaseUnavailable, engine
from db.leader import Leadership
from db.parcels import previous_season, season_by_name
from monitor import progress
from monitor.settings import MonitorSettings
from monitor.worker import Counts, Worker

log = logging.getLogger(__name__)


def lead(dsn: str, settings: MonitorSettings, now: datetime) -> int:
    """The leader's daily work for every season that is watched; returns the groups refreshed."""
    with engine(dsn).begin() as connection:
        groups = 0
        for name, collection in work.watched_seasons(connection, now):
            season = season_by_name(connection, name)
            groups += progress.refresh(connection, season, collection, settings.rules, now)
            earlier = previous_season(connection, collection, season)
            if earlier is not None:  # once: its harvest tells this season's rules what is early
                groups += progress.settle(connection, earlier, collection, settings.rules, now)
        return groups


def once(worker: Worker, now: datetime) -> Counts:
    """The leader's work, then all the news there is: what `monitor once` and the replays call."""
    lead(worker.dsn, worker.settings, now)
    return worker.look(now)


def run(dsn: str, settings: MonitorSettings, clock: Callable[[], datetime]) -> None:
    """Runs until the process is told to stop (SIGTERM or SIGINT end it after the batch in hand)."""
    worker, leadership = Worker(dsn, settings), Leadership(dsn)
    scheduler = BlockingScheduler(timezone="UTC", job_defaults={"max_instances": 1, "coalesce": True})
    is_away = False

    def guarded(job: Callable[[], object]) -> None:
        nonlocal is_away
        try:
            job()
        except (sa.exc.OperationalError, DatabaseUnavailable) as error:
            if not is_away:  # once, not at every look
                log.warning("%s; waiting for it", str(error).splitlines()[0])
            is_away = True
        else:
            if is_away:
                log.warning("the database is back")
            is_away = False

    def look() -> None:
        counts = worker.look(clock())
        if counts != Counts():
            log.info("%s", " ".join(f"{name}={value}" for name, value in counts.__dict__.items()))

    def leading() -> None:
        if leadership.is_held():
            lead(dsn, settings, clock())

    scheduler.add_job(guarded, "interval", [leading], seconds=60, next_run_time=clock(), id="lead")
    scheduler.add_job(guarded, "interval", [look], seconds=settings.interval_s, next_run_time=clock(), id="look")
    stop_on_signals(scheduler)
    try:
        scheduler.start()
    finally:
        leadership.release()


def stop_on_signals(scheduler: BlockingScheduler) -> None:
    """SIGTERM and SIGINT shut the scheduler down once its running jobs have ended."""

    def stop(*_: object) -> None:
        # In a thread: shutdown waits for the job in hand, a signal handler must not.
        threading.Thread(target=scheduler.shutdown, kwargs={"wait": True}).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
