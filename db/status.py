"""The state of the whole chain: what is stored, which processes live, and what waits for what."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.connect import APPLICATION_NAME

SERVICES = ("ingest run", "monitor run", "scenes work", "deliveries run")
"""Commands that go on until they are stopped, and without which nothing goes on."""


@dataclass(frozen=True)
class Group:
    """A collection in a season: what is active for it and what is pending."""

    collection: str
    season: str
    is_newest: bool
    """No later season of the collection is stored."""
    has_scenes: bool
    """Anything was observed between the season's dates."""
    has_classifier: bool
    has_ndvi_model: bool
    has_policy: bool
    pending_parcels: int
    pending_since: datetime | None


def status(connection: sa.Connection) -> Sequence[tuple[str, str, str]]:
    """Return the state of the chain as (part, what, value), for people; times in UTC."""
    live = live_processes(connection)
    services = [("processes", name, ", ".join(live.get(name, ())) or "none is live") for name in SERVICES]
    stored = [(str(a), str(b), str(c)) for a, b, c in connection.execute(sa.text(_STORED))]
    groups = season_groups(connection)
    waits = [("monitor", f"{one.season} / {one.collection}", why) for one in groups for why in waiting_for(one, live)]
    return sorted([*services, *stored, *waits])


def live_processes(connection: sa.Connection) -> dict[str, list[str]]:
    """Return the processes that are connected to this database, as HOST:PID by command; behind a pooler some are missing."""
    names = connection.execute(
        sa.text("select distinct application_name from pg_stat_activity where datname = current_database() order by 1")
    ).scalars()
    found: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(rf"{APPLICATION_NAME} (.+) (\S+:\d+)", name):
            found.setdefault(match[1], []).append(match[2])
    return found


def season_groups(connection: sa.Connection) -> list[Group]:
    """Return the collections by season that have parcels, newest season first."""
    rows = connection.execute(
        sa.text("""
            with recursive g as (  -- the next one by the index, not all parcels of a country
                (select collection, season_key from parcels order by collection, season_key limit 1)
                union all select next_one.* from g cross join lateral (
                    select p.collection, p.season_key from parcels p
                    where (p.collection, p.season_key) > (g.collection, g.season_key)
                    order by p.collection, p.season_key limit 1) next_one)
            select collection, name as season,
                   starts_on = max(starts_on) over (partition by collection) as is_newest,
                   exists (select from scenes where observed_at >= starts_on and observed_at < ends_on + 1) as has_scenes,
                   exists (select from model_activations a where (a.season_key, a.collection, a.task)
                           = (g.season_key, g.collection, 'classifier')) as has_classifier,
                   exists (select from model_activations a where (a.season_key, a.collection, a.task)
                           = (g.season_key, g.collection, 'ndvi')) as has_ndvi_model,
                   exists (select from policies p where (p.season_key, p.collection) = (g.season_key, g.collection)) as has_policy,
                   coalesce(pending_parcels, 0) as pending_parcels, pending_since
            from g join seasons using (season_key)
            left join (select season_key, collection, count(distinct parcel_key) as pending_parcels,
                              min(w.recorded_at) as pending_since
                       from pending_work w group by 1, 2) w using (season_key, collection)
            order by starts_on desc, collection""")
    )
    return [Group(**row._mapping) for row in rows]


def waiting_for(group: Group, live: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what the alerts of a collection and season wait for, and the command that helps, as sentences."""
    where = f"--season {group.season} --collection {group.collection}"
    n = f"{group.pending_parcels:,} parcels"
    since = f"{group.pending_since:%Y-%m-%d %H:%M} UTC" if group.pending_since else ""
    if not (group.is_newest or group.pending_parcels):
        return []
    if not group.has_scenes:
        return ["no observation between the season's dates is stored: `parcelwatch scenes poll`, or send messages"]
    if not (group.has_classifier or group.has_ndvi_model or group.has_policy):
        pending = f" ({n} pending since {since})" if group.pending_parcels else ""
        return [
            f"waits: no model is active for it{pending}, so no rule is checked: `parcelwatch models activate MODEL {where}`, "
            f"or without a trained one `parcelwatch policy activate FILE {where}` or `parcelwatch models activate whittaker {where}`"
        ]
    sentences = []
    if not group.has_classifier:
        sentences.append("no classifier is active, so crop_mismatch is not checked: `parcelwatch models activate`")
    if not group.has_ndvi_model:
        sentences.append(
            "no NDVI model is active: the daily curve is of the simple smoother, whittaker (`parcelwatch models activate` another)"
        )
    if group.pending_parcels and not live.get("monitor run"):
        sentences.append(f"{n} pending since {since}, and no monitor is live: `parcelwatch monitor run`")
    elif group.pending_parcels:
        sentences.append(f"{n} pending since {since}: the monitor is at work on them")
    return sentences


_STORED = """
    select 'scenes', state || case state when 'failed' then ': ' || cause else '' end, to_char(count(*), 'FM999,999,999')
            || coalesce(', next try ' || to_char(min(next_try_at), 'YYYY-MM-DD HH24:MI:SS') || ' UTC', '')
        from found_scenes group by state, cause
    union all select 'scenes', 'polls failing: ' || source, errors_in_row || ', last: ' || last_error from scene_sources
        where errors_in_row > 0
    union all select 'scenes', 'pictures of alerts: ' || case when next_try_at is null then 'given up' else 'tried again' end,
            count(*) || ' alerts' || coalesce(', next try ' || to_char(min(next_try_at), 'YYYY-MM-DD HH24:MI:SS') || ' UTC',
                                              ': `parcelwatch chips cut ALERT`') || ', last: ' || max(last_error)
        from chip_pairs join alerts using (alert_key)
        where last_error is not null and closed_at is null and state <> 'dismissed' group by next_try_at is null
    union all select 'ingest', 'observations stored of ' || sensor, to_char(sum(parcels), 'FM999,999,999,999')
        from scene_ledger join scenes using (scene_key) where outcome = 'stored' group by sensor
    union all select 'ingest', 'newest observation of ' || of_sensor,
            coalesce(to_char(max(observed_at), 'YYYY-MM-DD HH24:MI') || ' UTC', 'none')
        from unnest(enum_range(null::sensor)) of_sensor left join scenes on sensor = of_sensor group by of_sensor
    union all select 'ingest', 'dead letters: ' || reason_code, count(*) || ' waiting: `parcelwatch ingest dead-letters`'
        from dead_letters where redriven_at is null group by reason_code
    union all select 'parcels', name || ' / ' || collection,
            count(*) filter (where not_monitorable_reason is null) || ' watched, '
            || count(*) filter (where not_monitorable_reason is not null) || ' not monitorable'
        from parcels join seasons using (season_key) group by name, collection
    union all select 'models', task || ' of ' || name || ' / ' || collection,
            left(model_id, 12) || ' since ' || to_char(a.recorded_at, 'YYYY-MM-DD HH24:MI') || ' UTC'
        from (select distinct on (season_key, collection, task) * from model_activations
              order by season_key, collection, task, recorded_at desc) a
        join models using (model_key, task) join seasons using (season_key)
    union all select 'policies', 'in force in ' || s.name || ' / ' || collection,
            p.name || ' version ' || version || ' since ' || to_char(p.recorded_at, 'YYYY-MM-DD HH24:MI') || ' UTC'
        from (select distinct on (season_key, collection) * from policies
              order by season_key, collection, recorded_at desc) p join seasons s using (season_key)
    union all select 'monitor', 'pending in ' || name || ' / ' || collection,
            count(distinct parcel_key) || ' parcels, oldest since ' || to_char(min(w.recorded_at), 'YYYY-MM-DD HH24:MI') || ' UTC'
        from pending_work w join seasons using (season_key) group by name, collection
    union all select 'monitor', 'postponed', count(distinct parcel_key) || ' parcels: ' || max(last_error)
        from pending_work where attempts > 0 having count(*) > 0
    union all select 'deliveries', 'suspended: ' || name, suspended_because from subscriptions
        where ended_at is null and suspended_at is not null
    union all select 'deliveries', 'dead: ' || name, count(*) || ': `parcelwatch deliveries retry`, last: ' || max(d.last_error)
        from deliveries d join subscriptions s using (subscription_key) where state = 'dead' and s.ended_at is null group by name
    union all select 'deliveries', 'pending: ' || name, count(*) || ' messages, oldest since '
            || to_char(min(formed_at), 'YYYY-MM-DD HH24:MI') || ' UTC' || coalesce(': ' || max(d.last_error), '')
        from deliveries d join subscriptions s using (subscription_key) where state = 'pending' group by name
    union all select 'alerts', 'open, ' || rule || ', ' || colour, count(*)::text from alerts
        where closed_at is null group by rule, colour"""
