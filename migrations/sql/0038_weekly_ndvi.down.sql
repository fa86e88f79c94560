drop function parcelwatch.weekly_ndvi_known;
drop view parcelwatch.weekly_ndvi, parcelwatch.crop_bands, parcelwatch.chain_state;
revoke select on dead_letters, pending_work, deliveries from parcelwatch_contract;
revoke select (reason_code, recorded_at, redriven_at) on dead_letters from parcelwatch_contract;
revoke select (season_key, collection, recorded_at) on pending_work from parcelwatch_contract;
revoke select (state, formed_at) on deliveries from parcelwatch_contract;
revoke select (state, found_at) on found_scenes from parcelwatch_contract;
create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.0' $$;
drop function weekly_ndvi_read;
drop table weekly_ndvi, ndvi_weeks;

grant create on schema parcelwatch to parcelwatch_contract;
create or replace view parcelwatch.s2_observations with (security_barrier) as
select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.n_clear, o.clear_fraction, o.ndvi, o.ndvi_sd, o.nbr2, o.bsi, o.s2wi,
       o.b02, o.b03, o.b04, o.b05, o.b06, o.b07, o.b08, o.b8a, o.b11, o.b12, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s2_observations where s2_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;

create or replace view parcelwatch.s1_observations with (security_barrier) as
select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.direction, o.radiometry, o.n_pixels,
       (10 * log(nullif(greatest(o.vv, 0), 0)))::real as vv_db, (10 * log(nullif(greatest(o.vh, 0), 0)))::real as vh_db,
       o.vv, o.vh, o.vv_sd, o.vh_sd, o.coherence_vv, o.coherence_vh, o.coherence_with, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s1_observations where s1_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;

create or replace view parcelwatch.daily_ndvi with (security_barrier) as
select curve.* from parcels p cross join lateral (
    select m.parcel_key, m.month + nr - 1 as day, m.ndvi[nr] as ndvi, m.ndvi_sd[nr] as ndvi_sd,
           case when m.is_observed >> nr - 1 & 1 = 1 then 'observed' else 'reconstructed' end as origin,
           case when m.is_causal >> nr - 1 & 1 = 1 then 'causal' else 'retrospective' end as mode, m.recorded_at, m.model_key
    from (select distinct on (month) * from ndvi_months where ndvi_months.parcel_key = p.parcel_key order by month, recorded_at desc) m
    cross join generate_series(1, 31) nr where m.ndvi[nr] <> 'NaN'
) curve;

create view parcelwatch.crop_bands with (security_barrier) as
select newest.season, newest.collection, r.code as region, newest.crop_code, newest.first_day + (nr - 1)::int as day, newest.n_parcels,
       nullif(newest.standing_share[nr], 'NaN') as standing_share, nullif(newest.median_ndvi[nr], 'NaN') as median_ndvi, newest.recorded_at
from regions r cross join lateral (
    select distinct on (season_key, collection, crop_code) c.season_key, c.collection, c.region_key, c.crop_code, c.recorded_at, c.n_parcels,
           c.first_day, c.standing_share, c.median_ndvi, c.n_observations, s.name as season from crop_progress c join seasons s using (season_key)
    where c.region_key = r.region_key and r.region_key = any ((select parcelwatch_access.my_regions())::smallint[])
    order by season_key, collection, crop_code, c.recorded_at desc
) newest cross join lateral generate_subscripts(newest.median_ndvi, 1) nr;
comment on view parcelwatch.crop_bands is 'How the parcels of each region and declared crop stand, by day: what rules compare with.';
alter view parcelwatch.crop_bands owner to parcelwatch_contract;
grant select on parcelwatch.crop_bands to parcelwatch_reader, parcelwatch_inspector;
revoke create on schema parcelwatch from parcelwatch_contract;
