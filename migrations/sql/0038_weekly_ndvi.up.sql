-- Version 1.1 of the contract: NDVI of regions by week, rolled up; the quartiles of the crops' bands; how the chain does, for operators.

create table ndvi_weeks (
    week date primary key, -- a Monday: weeks are those of ISO 8601, in UTC
    n_stored bigint not null, -- -1: declarations or regions of parcels have changed since
    recorded_at timestamptz not null,
    took_s real not null
);
comment on table ndvi_weeks is
    'Weeks that are rolled up in weekly_ndvi: from how many Sentinel-2 observations, by the ledger of scenes, when, and how long it took.';

create table weekly_ndvi (
    region_key smallint not null references regions,
    season_key smallint not null references seasons,
    collection text not null,
    crop_code text,
    crop_name text,
    week date not null references ndvi_weeks,
    n_parcels integer not null,
    n_observations integer not null,
    mean_ndvi double precision not null,
    sd_ndvi double precision,
    p10_ndvi real not null,
    median_ndvi real not null,
    p90_ndvi real not null,
    unique nulls not distinct (region_key, season_key, collection, week, crop_code, crop_name)
);
create index weekly_ndvi_week on weekly_ndvi (week);
comment on table weekly_ndvi is 'Clear views by region, declared crop and week: kept by the leader (db/weekly_ndvi.py).';

-- A view counts unless a revision came after it: hashed are the few revisions, not all views.
create function weekly_ndvi_read(season smallint, collection_ text, first date, after date, at timestamptz)
returns setof weekly_ndvi language plpgsql stable rows 1000 set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    begins constant timestamptz := first::timestamp at time zone 'UTC';
    ends constant timestamptz := after::timestamp at time zone 'UTC';
begin
    return query
    with seen as (
        select o.parcel_key, date_trunc('week', o.observed_at, 'UTC') as week, array_agg(o.ndvi) as ndvi
        from s2_observations o
        where o.observed_at >= begins and o.observed_at < ends and o.recorded_at <= at and not o.is_withdrawn and o.ndvi is not null
          and not exists (
              select from s2_observations later
              where (later.parcel_key, later.observed_at, later.relative_orbit) = (o.parcel_key, o.observed_at, o.relative_orbit)
                and later.revision > o.revision and later.revision > 0
                and later.observed_at >= begins and later.observed_at < ends and later.recorded_at <= at)
        group by 1, 2
    )
    select p.region_key, p.season_key, p.collection, d.crop_code, d.crop_name, (seen.week at time zone 'UTC')::date,
           (count(*) filter (where v.nr = 1))::int, count(*)::int, avg(v.ndvi::double precision), stddev_samp(v.ndvi::double precision),
           percentile_cont(0.1) within group (order by v.ndvi)::real, percentile_cont(0.5) within group (order by v.ndvi)::real,
           percentile_cont(0.9) within group (order by v.ndvi)::real
    from seen join parcels p using (parcel_key)
    left join lateral (
        select crop_code, crop_name from declarations where declarations.parcel_key = p.parcel_key and declarations.recorded_at <= at
        order by declarations.recorded_at desc limit 1
    ) d on true
    cross join lateral unnest(seen.ndvi) with ordinality v (ndvi, nr)
    where (season is null or p.season_key = season) and (collection_ is null or p.collection = collection_)
    group by 1, 2, 3, 4, 5, 6;
end
$$;
comment on function weekly_ndvi_read is
    'Clear views by region, declared crop and week as known at a time that is settled: of a season and collection, null for all, from one Monday until before another.';

-- The contract ---------------------------------------------------------------------------------

grant select on weekly_ndvi, ndvi_weeks to parcelwatch_contract;
grant create on schema parcelwatch to parcelwatch_contract;

create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.1' $$;

create view parcelwatch.weekly_ndvi with (security_barrier) as
select s.name as season, w.collection, r.code as region, w.crop_code as declared_crop_code, w.crop_name as declared_crop, w.week,
       w.n_parcels, w.n_observations, w.mean_ndvi, w.sd_ndvi, w.p10_ndvi, w.median_ndvi, w.p90_ndvi, k.recorded_at
from weekly_ndvi w join ndvi_weeks k using (week) join regions r using (region_key) join seasons s using (season_key)
where w.region_key = any ((select parcelwatch_access.my_regions())::smallint[]);
comment on view parcelwatch.weekly_ndvi is
    'NDVI by region, declared crop and week (its Monday; ISO 8601, UTC): of the clear views, newest revisions, as stored at recorded_at. Exact at any time: weekly_ndvi_known.';

create function parcelwatch.weekly_ndvi_known(
    collection_ text, season_ text, from_ date default null, to_ date default null, as_known_at timestamptz default 'infinity')
returns table (
    region text, declared_crop_code text, declared_crop text, week date, n_parcels integer, n_observations integer,
    mean_ndvi double precision, sd_ndvi double precision, p10_ndvi real, median_ndvi real, p90_ndvi real)
language plpgsql volatile security definer rows 1000 set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    asked record;
begin
    perform settled(as_known_at);
    select season_key, coalesce(from_, starts_on) as first, coalesce(to_ - 1, ends_on) as last into asked from seasons where name = season_;
    return query
    select r.code, w.crop_code, w.crop_name, w.week, w.n_parcels, w.n_observations, w.mean_ndvi, w.sd_ndvi, w.p10_ndvi, w.median_ndvi,
           w.p90_ndvi
    from weekly_ndvi_read(asked.season_key, collection_, date_trunc('week', asked.first)::date, date_trunc('week', asked.last)::date + 7,
                          as_known_at) w join regions r using (region_key)
    where asked.season_key is not null;
end
$$;
comment on function parcelwatch.weekly_ndvi_known is
    'weekly_ndvi as known at a time, computed from the observations: of the weeks with a day from one until before another, else of the season.';

-- By the key of parcels, which finds the parcel first; a condition on the key of what is in its lateral part is asked of every parcel's rows.
create or replace view parcelwatch.s2_observations with (security_barrier) as
select p.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.n_clear, o.clear_fraction, o.ndvi, o.ndvi_sd, o.nbr2, o.bsi, o.s2wi,
       o.b02, o.b03, o.b04, o.b05, o.b06, o.b07, o.b08, o.b8a, o.b11, o.b12, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s2_observations where s2_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;

create or replace view parcelwatch.s1_observations with (security_barrier) as
select p.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.direction, o.radiometry, o.n_pixels,
       (10 * log(nullif(greatest(o.vv, 0), 0)))::real as vv_db, (10 * log(nullif(greatest(o.vh, 0), 0)))::real as vh_db,
       o.vv, o.vh, o.vv_sd, o.vh_sd, o.coherence_vv, o.coherence_vh, o.coherence_with, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s1_observations where s1_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;

create or replace view parcelwatch.daily_ndvi with (security_barrier) as
select p.parcel_key, curve.day, curve.ndvi, curve.ndvi_sd, curve.origin, curve.mode, curve.recorded_at, curve.model_key
from parcels p cross join lateral (
    select m.month + nr - 1 as day, m.ndvi[nr] as ndvi, m.ndvi_sd[nr] as ndvi_sd,
           case when m.is_observed >> nr - 1 & 1 = 1 then 'observed' else 'reconstructed' end as origin,
           case when m.is_causal >> nr - 1 & 1 = 1 then 'causal' else 'retrospective' end as mode, m.recorded_at, m.model_key
    from (select distinct on (month) * from ndvi_months where ndvi_months.parcel_key = p.parcel_key order by month, recorded_at desc) m
    cross join generate_series(1, 31) nr where m.ndvi[nr] <> 'NaN'
) curve;

create or replace view parcelwatch.crop_bands with (security_barrier) as
select newest.season, newest.collection, r.code as region, newest.crop_code, newest.first_day + (of_day.nr - 1)::int as day, newest.n_parcels,
       nullif(newest.standing_share[of_day.nr], 'NaN') as standing_share, nullif(newest.median_ndvi[of_day.nr], 'NaN') as median_ndvi, newest.recorded_at,
       nullif(newest.lower_ndvi[dekad.nr], 'NaN') as lower_ndvi, nullif(newest.middle_ndvi[dekad.nr], 'NaN') as middle_ndvi,
       nullif(newest.upper_ndvi[dekad.nr], 'NaN') as upper_ndvi
from regions r cross join lateral (
    select distinct on (season_key, collection, crop_code) c.collection, c.crop_code, c.recorded_at, c.n_parcels, c.first_day,
           c.standing_share, c.median_ndvi, c.lower_ndvi, c.middle_ndvi, c.upper_ndvi, s.name as season from crop_progress c join seasons s using (season_key)
    where c.region_key = r.region_key and r.region_key = any ((select parcelwatch_access.my_regions())::smallint[])
    order by season_key, collection, crop_code, c.recorded_at desc
) newest cross join lateral generate_subscripts(newest.median_ndvi, 1) of_day (nr)
-- Dekads from the season's first on: three a month, the last with what is left of it.
cross join lateral (
    select (36 * extract(year from day) + 3 * extract(month from day) + least((extract(day from day)::int - 1) / 10, 2)
            - 36 * extract(year from first_day) - 3 * extract(month from first_day) - least((extract(day from first_day)::int - 1) / 10, 2)
            + 1)::int as nr
    from (select newest.first_day + (of_day.nr - 1)::int as day) one
) dekad;
comment on view parcelwatch.crop_bands is
    'How the parcels of each region and declared crop stand, by day, and the quartiles of their greenest views in its dekad: what rules and markers compare with.';

grant select (state, found_at) on found_scenes to parcelwatch_contract;
grant select (reason_code, recorded_at, redriven_at) on dead_letters to parcelwatch_contract;
grant select (season_key, collection, recorded_at) on pending_work to parcelwatch_contract;
grant select (state, formed_at) on deliveries to parcelwatch_contract;
create view parcelwatch.chain_state as
select 'observed'::text as part, sensor::text as what, coalesce(sum(parcels), 0)::bigint as n, max(observed_at) as newest_at
from scenes left join scene_ledger l on l.scene_key = scenes.scene_key and outcome = 'stored' group by sensor
union all select 'scenes', state::text, count(*), max(found_at) from found_scenes group by state
union all select 'dead letters', reason_code, count(*), max(recorded_at) from dead_letters where redriven_at is null group by reason_code
union all select 'pending', name || ' / ' || collection, count(*), max(recorded_at)
from pending_work join seasons using (season_key) group by name, collection
union all select 'deliveries', state, count(*), max(formed_at) from deliveries group by state;
comment on view parcelwatch.chain_state is
    'How the chain does: observations stored by sensor, found scenes by state, dead letters that wait by reason, pending work by season, deliveries by state.';

alter view parcelwatch.chain_state owner to parcelwatch_contract;
grant select on parcelwatch.chain_state to parcelwatch_operator;
alter view parcelwatch.weekly_ndvi owner to parcelwatch_contract;
alter function parcelwatch.weekly_ndvi_known owner to parcelwatch_contract;
revoke execute on function parcelwatch.weekly_ndvi_known from public;
grant select on parcelwatch.weekly_ndvi to parcelwatch_reader, parcelwatch_inspector;
grant execute on function parcelwatch.weekly_ndvi_known to parcelwatch_reader, parcelwatch_inspector;
revoke create on schema parcelwatch from parcelwatch_contract;
