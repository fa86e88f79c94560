"""NDVI of regions and declared crops by week, rolled up: one writer, told by the ledger of scenes which weeks have changed.

Every stored observation, revisions and withdrawals too, raises the count of its scene in the ledger, in its own transaction. A week
whose counts are others than those it was rolled up from is rolled up anew, whole: so late, revised and withdrawn views need nothing of
who stores them, however many do. What else a week rests on, declarations and regions, only an import changes, which calls `forget`.
"""

import time
from datetime import date
from typing import Final

import sqlalchemy as sa

_SHARE: Final = 0.002
"""A week is rolled up anew at most so much of the time: while the chain works at 330 us an acquisition that is 0.7 us of each."""

_STORED: Final = """
select date_trunc('week', observed_at, 'UTC')::date as week, sum(parcels)::bigint as n_stored
from scene_ledger join scenes using (scene_key) where outcome = 'stored' and sensor = 'S2'"""


def due(connection: sa.Connection) -> list[date]:
    """Return the Mondays of weeks that have changed since they were rolled up and are not too dear to be so again, newest first."""
    # By the server's clock in a replay, too: its moved one says nothing of what the work costs.
    rows = connection.execute(
        sa.text(f"""select week from ({_STORED} group by 1) stored left join ndvi_weeks known using (week)
                    where known.n_stored is distinct from stored.n_stored
                      and coalesce(recorded_at + took_s / {_SHARE} * interval '1 second' <= clock_timestamp(), true)
                    order by week desc""")
    )
    return list(rows.scalars())


def roll_up(connection: sa.Connection, week: date) -> bool:
    """Roll up a week in a transaction in read committed; return False where another, or an import, is at it."""
    if not connection.execute(sa.text(f"select pg_try_advisory_xact_lock({_LOCK})")).scalar_one():
        return False
    begun, where = time.perf_counter(), {"week": week}
    # The count first: what is stored after it is perhaps rolled up too, and the week due once more for nothing. The other way
    # round it could be missing for good.
    connection.execute(
        sa.text(f"""insert into ndvi_weeks (week, n_stored, recorded_at, took_s)
                    select :week, coalesce(sum(n_stored), 0), clock_timestamp(), 0
                    from ({_STORED} and observed_at >= cast(:week as date)::timestamp at time zone 'UTC'
                            and observed_at < (cast(:week as date) + 7)::timestamp at time zone 'UTC' group by 1) stored
                    on conflict (week) do update set (n_stored, recorded_at) = (excluded.n_stored, excluded.recorded_at)"""),
        where,
    )
    connection.execute(sa.text("delete from weekly_ndvi where week = :week"), where)
    connection.execute(
        sa.text("""insert into weekly_ndvi
                   select * from weekly_ndvi_read(null, null, :week, cast(:week as date) + 7, 'infinity')"""),
        where,
    )
    connection.execute(
        sa.text("update ndvi_weeks set took_s = :took_s where week = :week"),
        {**where, "took_s": time.perf_counter() - begun},
    )
    return True


def forget(connection: sa.Connection, season_key: int) -> None:
    """Have the weeks of a season rolled up anew once this transaction is committed; who rolls up meanwhile is waited for."""
    connection.execute(sa.text(f"select pg_advisory_xact_lock({_LOCK})"))
    connection.execute(
        sa.text("""update ndvi_weeks set n_stored = -1, took_s = 0
                   where week in (select week from weekly_ndvi where season_key = :season_key)"""),
        {"season_key": season_key},
    )


_LOCK: Final = "hashtext('parcelwatch.weekly_ndvi')"
