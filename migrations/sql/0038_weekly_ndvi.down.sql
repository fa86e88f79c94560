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
