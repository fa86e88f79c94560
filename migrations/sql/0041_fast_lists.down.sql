drop function parcelwatch.round_changes, parcelwatch.parcels_in;
drop policy seen_by_decider on alerts;
drop policy of_all on alerts;
alter table alerts disable row level security;
drop trigger alerts_follow_updated on declarations;
drop trigger alerts_follow_inserted on declarations;
drop trigger alerts_follow on parcels;
drop trigger placed on alerts;
drop function parcelwatch_access.alerts_follow_declarations, parcelwatch_access.alerts_follow_parcels, parcelwatch_access.place_alert;
alter table alerts drop column parcel_point, drop column parcel_crop_code, drop column parcel_area_ha, drop column parcel_region_key,
    drop column parcel_collection, drop column parcel_season_key;

create or replace function parcelwatch_access.principal() returns text language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    select coalesce(case when pg_has_role(session_user, 'parcelwatch_web', 'member')
                         then nullif(current_setting('parcelwatch.principal', true), '') end, session_user::text)
$$;

create or replace function parcelwatch_access.sees_all_regions() returns boolean language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    select pg_has_role(
        coalesce(nullif(case current_setting('role') when 'parcelwatch_decider' then coalesce(current_setting('parcelwatch.role', true), '')
                             else current_setting('role') end, 'none'), session_user::text), 'parcelwatch_reader', 'usage')
$$;

create or replace function parcelwatch_access.my_regions() returns smallint[] language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp as $$
    select coalesce(array_agg(region_key), '{}') from public.regions
    where parcelwatch_access.sees_all_regions()
       or region_key in (select g.region_key from parcelwatch_access.region_grants g where g.principal = parcelwatch_access.principal())
$$;

create or replace function parcelwatch_map.newest_shape(season smallint, region smallint) returns timestamptz
language sql stable set search_path = public, pg_temp as $$
    select max(changed_at) from parcelwatch_map.shapes where season_key = season and region_key = region
$$;

create or replace function parcelwatch_map.recorded_to() returns bigint
language sql volatile set search_path = public, pg_temp as $$
    select last_value from recording_high_water, recording where clock = 'database'
$$;

create or replace function parcelwatch_map.due(season smallint, collection_ text, at timestamptz, max_age interval) returns smallint[]
language sql volatile set search_path = public, pg_temp as $$
    select coalesce(array_agg(region), '{}') from unnest(parcelwatch_access.my_regions()) region
    where exists (select from parcels p where p.season_key = season and p.region_key = region and p.collection = collection_)
      and not exists (
        select from parcelwatch_map.snapshots k
        where k.season_key = season and k.collection = collection_ and k.as_known_at = at and k.region_key = region
          and (k.is_final or k.recorded_to = parcelwatch_map.recorded_to() or k.made_at > clock_timestamp() - max_age)
          and k.shapes_to is not distinct from parcelwatch_map.newest_shape(season, region))
$$;

-- Beyond the latitudes that tiles show there is no Web Mercator; there are no fields either.
create view parcelwatch_map.drawn as
select parcel_key, season_key, region_key, source_id, drawn.shape,
       ((ST_X(middle) + 20037508.342789244) / 40075016.685578488 * 65536)::int as cell_x,
       ((20037508.342789244 - ST_Y(middle)) / 40075016.685578488 * 65536)::int as cell_y
from parcels cross join lateral (select ST_SimplifyPreserveTopology(ST_Transform(geom, 3857), 2) as shape) drawn
cross join lateral (select ST_Centroid(ST_Envelope(drawn.shape)) as middle) centre
where geom is not null and not ST_IsEmpty(geom) and geom @ ST_MakeEnvelope(-179.9, -85, 179.9, 85, 4326);
comment on view parcelwatch_map.drawn is 'Outlines of parcels as tiles need them.';

create or replace function parcelwatch_map.draw() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        delete from parcelwatch_map.shapes s using changed where s.parcel_key = changed.parcel_key;
    end if;
    insert into parcelwatch_map.shapes
    select parcel_key, season_key, region_key, source_id, clock_timestamp(), cell_x, cell_y, shape
    from parcelwatch_map.drawn where parcel_key in (select parcel_key from changed);
    return null;
end
$$;
