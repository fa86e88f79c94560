"""Sources of scenes: how far each has been polled, and what went wrong; and the area that parcels need scenes of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class SceneSource:
    """A place where scenes are searched: a catalogue's sensor over an area, a folder, a subscription."""

    source: str
    since: datetime | None
    """Earliest acquisition that was asked for; None where a source cannot be asked so."""
    polled_to: datetime | None
    """Whatever was published before this has been found."""
    looked_at: datetime | None
    """The last poll that succeeded."""
    new_scenes: int
    """Found here first, ever."""
    rejected: int
    """Things that the last poll found and that could not become scenes."""
    last_rejection: str | None
    errors_in_row: int
    last_error: str | None
    last_error_at: datetime | None
    next_at: datetime | None


def source(connection: sa.Connection, name: str) -> SceneSource | None:
    """Return a source by its name, None before its first poll."""
    row = connection.execute(sa.text("select * from scene_sources where source = :name"), {"name": name}).first()
    return None if row is None else SceneSource(**row._mapping)


def all_sources(connection: sa.Connection) -> Sequence[SceneSource]:
    """Return every source, by name."""
    rows = connection.execute(sa.text("select * from scene_sources order by source"))
    return [SceneSource(**row._mapping) for row in rows]


def forget(connection: sa.Connection, name: str) -> bool:
    """Take a source off the list; False where there was none of that name."""
    return bool(connection.execute(sa.text("delete from scene_sources where source = :name"), {"name": name}).rowcount)


def record_poll(  # one argument per column of a source
    connection: sa.Connection,
    name: str,
    *,
    since: datetime | None,
    polled_to: datetime | None,
    new_scenes: int,
    rejected: int,
    last_rejection: str | None,
    now: datetime,
    next_at: datetime | None,
) -> None:
    """Keep a poll that succeeded: the bookmark moves (never back, unless it begins earlier), failures end."""
    connection.execute(
        sa.text("""insert into scene_sources as s
                       (source, since, polled_to, looked_at, new_scenes, rejected, last_rejection, next_at)
                   values (:source, :since, :polled_to, :now, :new_scenes, :rejected, :last_rejection, :next_at)
                   on conflict (source) do update set
                       since = excluded.since,
                       polled_to = case when s.since = excluded.since then greatest(s.polled_to, excluded.polled_to)
                                        else excluded.polled_to end,
                       looked_at = excluded.looked_at, new_scenes = s.new_scenes + excluded.new_scenes,
                       rejected = excluded.rejected, last_rejection = coalesce(excluded.last_rejection, s.last_rejection),
                       errors_in_row = 0, next_at = excluded.next_at"""),
        {
            "source": name,
            "since": since,
            "polled_to": polled_to,
            "now": now,
            "new_scenes": new_scenes,
            "rejected": rejected,
            "last_rejection": last_rejection,
            "next_at": next_at,
        },
    )


def record_failure(
    connection: sa.Connection,
    name: str,
    message: str,
    now: datetime,
    waits: Sequence[timedelta],
    at_least: timedelta | None,
) -> SceneSource:
    """Keep a poll that failed: the bookmark stays, the next poll is `waits[errors in a row - 1]` (at most the last) off.

    `at_least` is what the source itself asked for.
    """
    errors = sa.text("""insert into scene_sources as s (source, errors_in_row, last_error, last_error_at)
                        values (:source, 1, :told, :now)
                        on conflict (source) do update set errors_in_row = s.errors_in_row + 1,
                            last_error = excluded.last_error, last_error_at = excluded.last_error_at
                        returning errors_in_row""")
    in_row = connection.execute(errors, {"source": name, "told": message, "now": now}).scalar_one()
    wait = max(waits[min(in_row, len(waits)) - 1], at_least or timedelta())
    row = connection.execute(
        sa.text("update scene_sources set next_at = :next_at where source = :source returning *"),
        {"source": name, "next_at": now + wait},
    ).one()
    return SceneSource(**row._mapping)


def parcel_box(
    connection: sa.Connection, season: str | None, collection: str | None, region: str | None
) -> tuple[float, float, float, float] | None:
    """Return west, south, east and north of the parcels of a season, collection and region (each may be any); None: no parcels."""
    row = connection.execute(
        sa.text("""select st_xmin(box), st_ymin(box), st_xmax(box), st_ymax(box)
                   from (select st_extent(geom) as box from parcels
                         join seasons using (season_key) join regions using (region_key)
                         where (cast(:season as text) is null or seasons.name = :season)
                           and (cast(:collection as text) is null or collection = :collection)
                           and (cast(:region as text) is null or regions.code = :region)) extent"""),
        {"season": season, "collection": collection, "region": region},
    ).one()
    return None if row[0] is None else (row[0], row[1], row[2], row[3])
