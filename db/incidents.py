"""Regional incidents: alerts of one rule that lie close together and departed in the same week, found anew whenever they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import recording
from db.columns import Kind, fetch_columns


@dataclass(frozen=True)
class IncidentRow:
    """Alerts that one event of weather explains better than as many holders."""

    collection: str
    season: str
    rule: str
    week: date
    """Its Monday."""
    departed_from: date
    departed_to: date
    n_alerts: int
    n_parcels: int
    """Parcels that touch the hull of the alerted ones."""
    area_ha: float
    longitude: float
    latitude: float
    crops: Sequence[str]
    """Declared crops of the alerted parcels, the most frequent first."""
    alert_keys: Sequence[int]
    """The lowest names the incident."""

    @property
    def name(self) -> str:
        """Return what people call it: I and its lowest alert."""
        return f"I{self.alert_keys[0]}"


_NOW: Final = """
    select alert_key, p.collection, s.name as season, rule, departed_on, declared.crop_name as declared_crop, area_ha, geom
    from (select * from alerts where alert_key = any(:crowded)) a join parcels p using (parcel_key) join seasons s using (season_key)
    left join lateral (select crop_name from declarations d where d.parcel_key = p.parcel_key
                       order by recorded_at desc limit 1) declared on true"""
"""The rows of open alerts, and not their logs: of those alone that may be part of an incident."""
_PLACES: Final = """
    select alert_key,
           hashtextextended(parcel_collection || ' ' || rule, parcel_season_key::bigint << 32 | (week - date '1900-01-01')) as week_hash,
           ST_X(parcel_point) as longitude, ST_Y(parcel_point) as latitude
    from (select *, date_trunc('week', departed_on)::date as week from alerts
          where rule = any(%(rules)s) and closed_at is null and state <> 'dismissed' and not ST_IsEmpty(parcel_point)) open
    where (%(season)s::text is null or parcel_season_key = (select season_key from seasons where name = %(season)s))
      and (%(collection)s::text is null or parcel_collection = %(collection)s)
      and (%(keys)s::bigint[] is null or (parcel_collection, parcel_season_key, rule, week) in (
          select parcel_collection, parcel_season_key, rule, date_trunc('week', departed_on)::date
          from alerts where alert_key = any(%(keys)s)))"""
_THEN: Final = """
    select alert_key, collection, season, rule, departed_on, declared_crop, area_ha, geom
    from alerts_recorded_by(:at)"""
# Degrees become metres at the mean latitude of the alerts that are compared: clustering knows no sphere. An incident is of one rule and
# week, so that those of some alerts need no others.
_INCIDENTS: Final = """
with open as materialized (
    select found.*, date_trunc('week', departed_on)::date as week from ({source}
    where rule = any(:rules) and closed_at is null and state <> 'dismissed' and geom is not null) found
    where (cast(:season as text) is null or season = :season) and (cast(:collection as text) is null or collection = :collection)),
near as (
    select open.*, ST_PointOnSurface(geom) as point from open
    where cast(:keys as bigint[]) is null
       or (collection, season, rule, week) in (select collection, season, rule, week from open where alert_key = any(:keys))),
placed as (
    select near.*, ST_MakePoint(ST_X(point) * 111320 * cos(radians(avg(ST_Y(point)) over same_week)), ST_Y(point) * 110574) as metres
    from near window same_week as (partition by collection, season, rule, week)),
clustered as (
    select placed.*, ST_ClusterDBSCAN(metres, :distance_m, :n_near) over (partition by collection, season, rule, week) as cluster
    from placed),
grouped as (
    select collection, season, rule, week, min(departed_on) as departed_from, max(departed_on) as departed_to, count(*) as n_alerts,
           sum(coalesce(area_ha, 0)) as area_ha, ST_ConcaveHull(ST_Collect(point), 0.3) as hull, ST_Centroid(ST_Collect(point)) as centre,
           array_agg(coalesce(declared_crop, 'nothing')) as declared, array_agg(alert_key order by alert_key) as alert_keys
    from clustered where cluster is not null group by collection, season, rule, week, cluster
    having count(*) >= :n_alerts)
select g.collection, g.season, g.rule, g.week, departed_from, departed_to, n_alerts, around.n_parcels, g.area_ha,
       ST_X(centre) as longitude, ST_Y(centre) as latitude,
       (select array_agg(crop order by n desc, crop)
        from (select crop, count(*) as n from unnest(declared) crop group by crop) counted) as crops, alert_keys
from grouped g join seasons s on s.name = g.season
cross join lateral (
    select count(*) as n_parcels from parcels p
    where p.season_key = s.season_key and p.collection = g.collection and ST_Intersects(p.geom, g.hull)) around
where n_alerts >= :share * around.n_parcels
order by week, rule, alert_keys"""


@dataclass(frozen=True)
class Closeness:
    """What makes alerts an incident (monitor.alerts.incidents)."""

    rules: Sequence[str]
    distance_m: float
    n_near: int
    n_alerts: int
    share: float


def incidents(
    connection: sa.Connection,
    closeness: Closeness,
    season: str | None = None,
    collection: str | None = None,
    as_known_at: datetime | None = None,
    alert_keys: Sequence[int] | None = None,
) -> list[IncidentRow]:
    """Return the incidents of alerts that are open, as known at a time (None: now), by week; with keys, those in their weeks."""
    recording.settle(connection, as_known_at)
    asked = {"season": season, "collection": collection, "keys": None if alert_keys is None else list(alert_keys)}
    if as_known_at is None:
        given = asked | {"rules": list(closeness.rules)}
        crowded = _crowded(fetch_columns(connection, _PLACES, given, _PLACE), closeness)
        if not len(crowded):
            return []
        asked |= {"crowded": crowded.tolist(), "keys": None}  # they are of those weeks
    rows = connection.execute(
        sa.text(_INCIDENTS.format(source=_NOW if as_known_at is None else _THEN)),
        closeness.__dict__
        | asked
        | {"rules": list(closeness.rules)}
        | ({} if as_known_at is None else {"at": as_known_at}),
    )
    return [IncidentRow(**row._mapping) for row in rows]


_PLACE: Final[dict[str, Kind | int]] = {
    "alert_key": "bigint",
    "week_hash": "bigint",
    "longitude": "real",
    "latitude": "real",
}


def _crowded(places: NDArray[np.void], closeness: Closeness) -> NDArray[np.int64]:
    """Return the alerts that may be part of an incident: near a cell with as many alerts of the week around it as a cluster needs.

    Outlines and clusters are for these alone: of losses by chance one in ten, where all took most of a second in 50,000.
    """
    if not len(places):
        return np.zeros(0, np.int64)
    latitude = places["latitude"].astype(np.float64)
    # The metre of the highest latitude: at any other, alerts are at least as far from each other. One part in a hundred for rounding.
    a_degree = 111320 * np.cos(np.radians(np.abs(latitude).max())), 110574
    x, y = (
        np.floor((degrees - degrees.min()) * length / (1.01 * closeness.distance_m)).astype(np.int64)
        for degrees, length in zip((places["longitude"].astype(np.float64), latitude), a_degree, strict=True)
    )
    _, week = np.unique(places["week_hash"], return_inverse=True)
    width, height = x.max() + 3, y.max() + 3  # an empty cell between the last of a row and the first of the next
    cells, cell, n = np.unique((week * height + y) * width + x, return_inverse=True, return_counts=True)

    def around(values: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.zeros_like(values)
        for step in (dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            at = np.searchsorted(cells, cells + step)
            at[at == len(cells)] = 0
            total += np.where(cells[at] == cells + step, values[at], 0)
        return total

    has_core = around(n) >= closeness.n_near
    is_near = around(has_core.astype(np.int64))[cell] > 0
    is_near &= np.bincount(week, is_near)[week] >= closeness.n_alerts
    keys: NDArray[np.int64] = places["alert_key"][is_near]
    return keys
