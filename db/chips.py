"""Chips: pictures of parcels cut from scenes, what they could be cut from, and which parcels are to have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa

from db import recording
from db.keys import Scene, scene_keys
from db.sensors import SENSORS

CutFor = Literal["alert", "sample", "request"]
Role = Literal["before", "after", "newest"]
_CLEAR: Final = 0.5
"""Share of a parcel that must be clear for a picture before or after, where there is such a one (chosen: the larger half)."""


EARLIER: Final = timedelta(days=60)
"""Before a departure, in which the picture from before is sought (chosen: twelve passes of Sentinel-2, one clear at least)."""
NO_RASTER: Final = "its observations came as messages: no raster of this scene is known here"
"""Why there is no picture, where the ledger does not hold the scene."""


@dataclass(frozen=True, slots=True)
class NewChip:
    """A picture to store, or why there is none (`missing`, and then no other field after it)."""

    parcel_key: int
    revision: int
    composite: str
    cut_for: CutFor
    missing: str | None = None
    image: bytes | None = field(default=None, repr=False)
    sha256: bytes | None = None
    crs: str | None = None
    left_m: float | None = None
    top_m: float | None = None
    pixel_m: float | None = None
    width: int | None = None
    bar_m: int | None = None
    stretch: str | None = None


@dataclass(frozen=True, slots=True)
class ChipRow:
    """A stored picture; `image` None where there is none (`missing`), or none any more (`removed_at`)."""

    chip_key: int
    parcel_key: int
    source_id: str
    collection: str
    season: str
    scene_key: int
    scene_id: str
    sensor: str
    relative_orbit: int
    observed_at: datetime
    revision: int
    composite: str
    recorded_at: datetime
    cut_for: str
    missing: str | None
    removed_at: datetime | None
    sha256: str | None
    """Hexadecimal."""
    crs: str | None
    left_m: float | None
    top_m: float | None
    pixel_m: float | None
    width: int | None
    bar_m: int | None
    stretch: str | None
    size: int | None
    """Bytes of the picture."""
    image: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """An observation of a parcel, and the scene that a picture of it can be cut from."""

    sensor: str
    scene_key: int
    scene_id: str
    observed_at: datetime
    revision: int
    relative_orbit: int
    clear_fraction: float | None
    """None of radar."""
    record: Mapping[str, Any] | None = field(repr=False)
    """How to open the scene; None where no raster is known: its observations came as messages of somebody else."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A place in a pair of pictures, and the observation that takes it; None where there is no observation."""

    role: Role
    sensor: str
    source: Source | None


def parcels_to_cut(connection: sa.Connection, parcel_keys: Sequence[int]) -> dict[int, CutFor]:
    """Return which of some parcels every scene is to have a picture of: those that stand yellow or red, and the sampled."""
    rows = connection.execute(
        sa.text("""select parcel_key, min(cut_for) as cut_for from (
                       select parcel_key, 'alert' as cut_for from alerts
                       where parcel_key = any(:keys) and closed_at is null and state <> 'dismissed'
                       union all select parcel_key, 'sample' from chip_parcels where parcel_key = any(:keys)) wanted
                   group by parcel_key"""),
        {"keys": list(parcel_keys)},
    )
    return {row.parcel_key: row.cut_for for row in rows}


def sample(connection: sa.Connection, parcel_keys: Sequence[int], now: datetime) -> None:
    """Enter parcels that every later scene is to have a picture of, whatever their colour."""
    connection.execute(
        sa.text("""insert into chip_parcels (parcel_key, recorded_at) select unnest(cast(:keys as bigint[])), :now
                   on conflict (parcel_key) do nothing"""),
        {"keys": list(parcel_keys), "now": now},
    )


def sampled(connection: sa.Connection) -> list[int]:
    """Return the parcels of that list."""
    return list(connection.execute(sa.text("select parcel_key from chip_parcels order by parcel_key")).scalars())


def sampled_since(connection: sa.Connection, parcel_keys: Sequence[int], since: datetime) -> None:
    """Keep that parcels of that list have pictures of every scene observed since a time, where they had them of later ones."""
    connection.execute(
        sa.text("update chip_parcels set recorded_at = :since where parcel_key = any(:keys) and recorded_at > :since"),
        {"keys": list(parcel_keys), "since": since},
    )


def unsample(connection: sa.Connection, parcel_keys: Sequence[int]) -> None:
    """Take parcels from that list; their pictures stay until retention removes them."""
    connection.execute(sa.text("delete from chip_parcels where parcel_key = any(:keys)"), {"keys": list(parcel_keys)})


@dataclass(frozen=True, slots=True)
class Departure:
    """What an alert's pictures are chosen by."""

    alert_key: int
    parcel_key: int
    departed_on: date
    last_event_at: datetime
    """When the last event of its log was recorded: the time as of which its evidence is shown."""
    attempts: int
    """How often pictures from before and after were tried."""


def alerts_without_pair(connection: sa.Connection, now: datetime, limit: int) -> list[Departure]:
    """Return open alerts of which pictures from before and after the departure were not tried yet, or are to be tried again."""
    return _departures(
        connection,
        "closed_at is null and state <> 'dismissed' and (t.alert_key is null or t.next_try_at <= :now)",
        {"now": now, "limit": limit},
    )


def departure(connection: sa.Connection, alert_key: int) -> Departure | None:
    """Return what an alert's pictures are chosen by; None where there is none with that key."""
    return next(iter(_departures(connection, "alert_key = :key", {"key": alert_key, "limit": 1})), None)


def _departures(connection: sa.Connection, condition: str, values: Mapping[str, Any]) -> list[Departure]:
    rows = connection.execute(
        sa.text(f"""select alert_key, parcel_key, departed_on,
                           coalesce((select max(recorded_at) from alert_events e where e.alert_key = a.alert_key),
                                    opened_at) as last_event_at, coalesce(t.attempts, 0) as attempts
                    from alerts a left join chip_pairs t using (alert_key)
                    where {condition} order by alert_key limit :limit"""),
        dict(values),
    )
    return [Departure(**row._mapping) for row in rows]


def tried_pair(
    connection: sa.Connection,
    of: Departure,
    now: datetime,
    error: str | None = None,
    next_try_at: datetime | None = None,
) -> None:
    """Keep that pictures from before and after an alert's departure were tried.

    Args:
        of: the alert, with the attempts that were known: where another worker tried meanwhile, its outcome stays.
        error: why one could not be cut, where trying again may help.
        next_try_at: when they are tried again; None: not by themselves.
    """
    connection.execute(
        sa.text("""insert into chip_pairs (alert_key, recorded_at, next_try_at, last_error)
                   values (:key, :now, :next_try_at, :error)
                   on conflict (alert_key) do update set recorded_at = :now, attempts = least(chip_pairs.attempts + 1, 32767),
                       next_try_at = :next_try_at, last_error = :error where chip_pairs.attempts = :attempts""").bindparams(
            sa.bindparam("next_try_at", type_=sa.TIMESTAMP(timezone=True))
        ),
        {
            "key": of.alert_key,
            "now": now,
            "attempts": of.attempts,
            "error": None if error is None else error[:500],
            "next_try_at": next_try_at,
        },
    )


def pictured(connection: sa.Connection, parcel_key: int) -> set[tuple[int, int]]:
    """Return the observations of a parcel, as scene and revision, of which there are pictures."""
    rows = connection.execute(
        sa.text("select distinct scene_key, revision from chips where parcel_key = :parcel and missing is null"),
        {"parcel": parcel_key},
    )
    return {(row.scene_key, row.revision) for row in rows}


def sources(
    connection: sa.Connection,
    parcel_key: int,
    first: datetime,
    last: datetime,
    as_known_at: datetime | None = None,
    *,
    any_scene: bool = False,
) -> list[Source]:
    """Return observations of a parcel from `first` on and before `last`, as known at a time, in order of time.

    With `any_scene` also scenes that the ledger learnt of later count: they can be read now.
    """
    found = " union all ".join(
        f"""select '{name}' as sensor, scene_key, observed_at, revision, relative_orbit,
                   {"clear_fraction" if name == "S2" else "null::real"} as clear_fraction
            from {name.lower()}_known(:parcel, :first, :last, coalesce(:at, 'infinity')) where not is_withdrawn"""
        for name in SENSORS
    )
    rows = connection.execute(
        sa.text(f"""select o.sensor, scene_key, s.scene_id, o.observed_at, o.revision, o.relative_orbit,
                           o.clear_fraction, f.record
                    from ({found}) o join scenes s using (scene_key)
                    left join found_scenes f on f.scene_id = s.scene_id
                        and (:any_scene or f.recorded_at <= coalesce(:at, timestamptz 'infinity'))
                    order by o.observed_at, o.sensor, scene_key""").bindparams(_at()),
        {"parcel": parcel_key, "first": first, "last": last, "at": as_known_at, "any_scene": any_scene},
    )
    return [Source(**row._mapping) for row in rows]


def around(
    connection: sa.Connection,
    parcel_key: int,
    departed_on: date,
    as_known_at: datetime | None = None,
    *,
    any_scene: bool = False,
) -> list[Wanted]:
    """Return the observations of a parcel that show it before and after a departure, as known at a time (None: now)."""
    first = datetime.combine(departed_on, time(), UTC) - EARLIER
    last = as_known_at or datetime.max.replace(tzinfo=UTC)
    return before_and_after(sources(connection, parcel_key, first, last, as_known_at, any_scene=any_scene), departed_on)


def to_show(connection: sa.Connection, of: Departure) -> list[Source]:
    """Return the observations that show an alert's parcel before and after, as known at its last event and now; each once."""
    found = around(connection, of.parcel_key, of.departed_on, of.last_event_at, any_scene=True)
    found += around(connection, of.parcel_key, of.departed_on)
    return list(
        {(one.source.scene_key, one.source.revision): one.source for one in found if one.source is not None}.values()
    )


def before_and_after(found: Sequence[Source], departed_on: date) -> list[Wanted]:
    """Return which of a parcel's observations (in order of time) show it before and after a departure, and now.

    Of Sentinel-2 the nearest that are clear enough, else the clearest; of Sentinel-1 the nearest of one orbit, because pictures
    from different sides cannot be compared.
    """
    wanted: list[Wanted] = []
    for sensor in ("S2", "S1"):
        own = [one for one in found if one.sensor == sensor]
        before = _clear([one for one in own if one.observed_at.date() < departed_on])
        after = _clear([one for one in own if one.observed_at.date() >= departed_on])
        first = before[-1] if before else None
        if sensor == "S1" and first is not None:
            after = [one for one in after if one.relative_orbit == first.relative_orbit] or after
        wanted.append(Wanted("before", sensor, first))
        wanted.append(Wanted("after", sensor, after[0] if after else None))
        if len(after) > 1:
            same = [one for one in after[1:] if sensor == "S2" or one.relative_orbit == after[0].relative_orbit]
            wanted += [Wanted("newest", sensor, same[-1])] if same else []
    return wanted


def _clear(found: Sequence[Source]) -> list[Source]:
    enough = [one for one in found if one.clear_fraction is None or one.clear_fraction >= _CLEAR]
    return enough or sorted(found, key=lambda one: one.clear_fraction or 0.0)[-1:]


def store(connection: sa.Connection, scene: Scene, chips: Sequence[NewChip], now: datetime) -> int:
    """Store the pictures of a scene; return how many are new. What is stored stays: another picture is another row.

    A picture that retention removed is put back into its row where it is cut again pixel for pixel.
    """
    if not chips:
        return 0
    key = scene_keys(connection, [scene], now)[scene.scene_id]
    names = [one.name for one in fields(NewChip)]
    insert = sa.text(f"""insert into chips (scene_key, observed_at, recorded_at, height, {", ".join(names)})
                         values (:scene_key, :observed_at, :recorded_at, :width, {", ".join(f":{name}" for name in names)})
                         on conflict (parcel_key, scene_key, revision, composite, sha256) do update
                             set image = excluded.image, removed_at = null where chips.removed_at is not null""")
    recorded_at = recording.begin(connection, now)
    return sum(connection.execute(insert, _values(one, key, scene, recorded_at)).rowcount for one in chips)


def _values(chip: NewChip, scene_key: int, scene: Scene, recorded_at: datetime) -> dict[str, Any]:
    own = {one.name: getattr(chip, one.name) for one in fields(NewChip)}
    return own | {"scene_key": scene_key, "observed_at": scene.observed_at, "recorded_at": recorded_at}


def chips_of(
    connection: sa.Connection,
    parcel_key: int,
    first: datetime | None = None,
    last: datetime | None = None,
    limit: int | None = None,
    *,
    with_images: bool = True,
) -> list[ChipRow]:
    """Return the pictures of a parcel (with a limit the newest), in order of what they show; of one scene the newest last."""
    rows = connection.execute(
        sa.text(f"""{_WITH_IMAGES[with_images]} where c.parcel_key = :parcel and c.observed_at >= coalesce(:first, '-infinity'::timestamptz)
                      and c.observed_at < coalesce(:last, 'infinity'::timestamptz)
                    order by c.observed_at desc, c.revision desc, c.scene_key desc, c.composite desc, c.chip_key desc
                    limit :limit""").bindparams(
            *(sa.bindparam(name, type_=sa.TIMESTAMP(timezone=True)) for name in ("first", "last"))
        ),
        {"parcel": parcel_key, "first": first, "last": last, "limit": limit},
    )
    return [_row(row) for row in rows][::-1]


def chip(connection: sa.Connection, chip_key: int) -> ChipRow | None:
    """Return a picture by its key; None where there is none."""
    row = connection.execute(sa.text(f"{_SELECT} where chip_key = :key"), {"key": chip_key}).one_or_none()
    return None if row is None else _row(row)


def shown_by(found: Sequence[ChipRow], source: Source, composite: str, at: datetime) -> ChipRow | None:
    """Return the picture of an observation that counts at a time, or else the row that says why there is none; None: not cut.

    The newest that was cut by then, else the first one cut since: what was once shown is never replaced by a later cut.
    """
    own = [
        one
        for one in found
        if (one.scene_key, one.revision, one.composite) == (source.scene_key, source.revision, composite)
    ]
    pictures = [one for one in own if one.missing is None]
    by_then = [one for one in pictures if one.recorded_at <= at]
    return next(iter(by_then[-1:] or pictures[:1] or own[-1:]), None)


def newest(connection: sa.Connection, limit: int) -> list[ChipRow]:
    """Return the pictures that were cut last, of all parcels."""
    rows = connection.execute(sa.text(f"{_SELECT} order by c.chip_key desc limit :limit"), {"limit": limit})
    return [_row(row) for row in rows]


def prune(connection: sa.Connection, recorded_before: datetime, now: datetime) -> int:
    """Remove pictures stored before a time, of parcels without an open alert that were not sampled since; return how many.

    Their rows stay, with the digest: what was shown to whom can still be checked.
    """
    removed = connection.execute(
        sa.text("""update chips c set image = null, removed_at = :now
                   where image is not null and recorded_at < :before
                     and not exists (select from alerts a where a.parcel_key = c.parcel_key
                                     and (closed_at is null or closed_at >= :before))
                     and not exists (select from chip_parcels p where p.parcel_key = c.parcel_key
                                     and p.recorded_at >= :before)"""),
        {"before": recorded_before, "now": now},
    )
    return removed.rowcount


def _at() -> Any:
    return sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))


def _row(row: sa.Row[Any]) -> ChipRow:
    found = dict(row._mapping)
    return ChipRow(**found | {"image": None if found["image"] is None else bytes(found["image"])})


_CHIPS: Final = """
    select c.chip_key, c.parcel_key, source_id, collection, n.name as season, c.scene_key, scene_id, s.sensor::text,
           s.relative_orbit, c.observed_at, c.revision, composite, c.recorded_at, cut_for, missing, removed_at,
           encode(sha256, 'hex') as sha256, crs, left_m, top_m, pixel_m, width, bar_m, stretch,
           octet_length(image) as size, {image}
    from chips c join scenes s using (scene_key) join parcels using (parcel_key) join seasons n using (season_key)"""
_SELECT: Final = _CHIPS.format(image="image")
_WITH_IMAGES: Final = {True: _SELECT, False: _CHIPS.format(image="null::bytea as image")}
