"""When something becomes known: times that follow the order of commits, so that an answer "as known at T" never changes.

    writer   begin: lock "recording", held to the commit ── recorded_at = max(database's clock, last given + 1 us)
    reader   settle(T): wait for the writers whose transaction began by T ── then read

A reader that did not see a writer's lock asked at a time before the writer's `recorded_at`. So whatever is committed after an
answer as known at T is recorded later than T. Writers do not wait for each other; readers of the past do not wait at all.
The clock is the database's: machines of the chain may disagree. Why, and what else was thought of: docs/decisions/0010-recording.md.
"""

from datetime import datetime

import sqlalchemy as sa


def begin(connection: sa.Connection, now: datetime, n: int = 1) -> datetime:
    """Give the time at which what this transaction is about to write becomes known.

    Called as late as possible: from here to the commit, whoever asks as known at a later time waits.

    Args:
        now: the caller's clock; it counts only in a replay (`take_the_callers_clock`).
        n: consecutive microseconds to have for rows that need an order among themselves; the last of them is returned.
    """
    # The later of the clock and the last time given + 1 us: where the clock steps back, a row is still recorded later
    # than every answer that did not have it.
    recorded_at: datetime = connection.execute(
        sa.text("select recording_begins(:now, :n)"), {"now": now, "n": n}
    ).scalar_one()
    return recorded_at


def settle(connection: sa.Connection, as_known_at: datetime | None) -> None:
    """Wait until all that can still be recorded by a time is committed; None (now) and long past times wait for nothing.

    The functions of SQL that take `as_known_at` do this themselves; a query of tables needs it before its statement.
    """
    connection.execute(sa.text("select settled(:at)"), {"at": as_known_at})


def take_the_callers_clock(connection: sa.Connection) -> None:
    """Let a replay's moved clock give the times of this database; only one process may then write to it."""
    connection.execute(sa.text("update recording set clock = 'caller'"))


def take_the_databases_clock(connection: sa.Connection) -> None:
    """Let the database's clock give the times again, as it does where nothing is replayed."""
    connection.execute(sa.text("update recording set clock = 'database'"))


def present(connection: sa.Connection, now: datetime) -> datetime:
    """Return the time now by the clock that gives the times of this database.

    Args:
        now: the caller's clock; it counts only in a replay.
    """
    at: datetime = connection.execute(
        sa.text("select case clock when 'caller' then :now else clock_timestamp() end from recording"), {"now": now}
    ).scalar_one()
    return at
