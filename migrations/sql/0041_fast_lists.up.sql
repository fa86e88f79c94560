-- The inbox is ordered and counted over all alerts that are not closed: what that rests on stands beside each, and no parcel is read.

alter table alerts add column parcel_season_key smallint, add column parcel_collection text, add column parcel_region_key smallint,
    add column parcel_area_ha real, add column parcel_crop_code text, add column parcel_point geometry(Point, 4326);
comment on column alerts.parcel_season_key is 'As the parcel has it now, like the next three: kept by triggers.';
comment on column alerts.parcel_crop_code is 'Of the newest declaration of the parcel.';
comment on column alerts.parcel_point is 'A point of the parcel.';

create function parcelwatch_access.place_alert() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    select p.season_key, p.collection, p.region_key, p.area_ha, ST_PointOnSurface(p.geom), d.crop_code
    into new.parcel_season_key, new.parcel_collection, new.parcel_region_key, new.parcel_area_ha, new.parcel_point, new.parcel_crop_code
    from parcels p left join lateral (
        select crop_code from declarations d where d.parcel_key = p.parcel_key order by recorded_at desc limit 1) d on true
    where p.parcel_key = new.parcel_key;
    return new;
end
$$;
comment on function parcelwatch_access.place_alert is 'Gives a new alert what lists need of its parcel.';
create trigger placed before insert on alerts for each row execute function parcelwatch_access.place_alert();

-- Locked in the order in which the monitor locks them: neither waits for the other in a circle.
create function parcelwatch_access.alerts_follow_parcels() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    with moved as materialized (
        select a.alert_key, p.season_key, p.collection, p.region_key, p.area_ha, ST_PointOnSurface(p.geom) as point
        from alerts a join changed p using (parcel_key)
        where (a.parcel_season_key, a.parcel_collection, a.parcel_region_key, a.parcel_area_ha, a.parcel_point)
              is distinct from (p.season_key, p.collection, p.region_key, p.area_ha, ST_PointOnSurface(p.geom))
        order by a.alert_key for no key update of a)
    update alerts a set parcel_season_key = m.season_key, parcel_collection = m.collection, parcel_region_key = m.region_key,
        parcel_area_ha = m.area_ha, parcel_point = m.point
    from moved m where a.alert_key = m.alert_key;
    return null;
end
$$;
comment on function parcelwatch_access.alerts_follow_parcels is 'Keeps what alerts have of parcels as it is there.';
create trigger alerts_follow after update on parcels referencing new table as changed
    for each statement execute function parcelwatch_access.alerts_follow_parcels();

create function parcelwatch_access.alerts_follow_declarations() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    with declared as materialized (
        select a.alert_key, d.crop_code
        from alerts a join (select distinct parcel_key from changed) c using (parcel_key)
        cross join lateral (
            select crop_code from declarations d where d.parcel_key = a.parcel_key order by recorded_at desc limit 1) d
        where a.parcel_crop_code is distinct from d.crop_code
        order by a.alert_key for no key update of a)
    update alerts a set parcel_crop_code = d.crop_code from declared d where a.alert_key = d.alert_key;
    return null;
end
$$;
comment on function parcelwatch_access.alerts_follow_declarations is 'Keeps the crop of alerts as it is declared.';
create trigger alerts_follow_inserted after insert on declarations referencing new table as changed
    for each statement execute function parcelwatch_access.alerts_follow_declarations();
create trigger alerts_follow_updated after update on declarations referencing new table as changed
    for each statement execute function parcelwatch_access.alerts_follow_declarations();

update alerts a set parcel_season_key = p.season_key, parcel_collection = p.collection, parcel_region_key = p.region_key,
    parcel_area_ha = p.area_ha, parcel_point = ST_PointOnSurface(p.geom), parcel_crop_code = (
        select crop_code from declarations d where d.parcel_key = p.parcel_key order by recorded_at desc limit 1)
from parcels p where p.parcel_key = a.parcel_key;
alter table alerts alter parcel_season_key set not null, alter parcel_collection set not null, alter parcel_region_key set not null;

-- Who decides for a person sees the alerts of that person's regions, also where no parcel is read.
alter table alerts enable row level security;
create policy of_all on alerts using (true) with check (true);
create policy seen_by_decider on alerts as restrictive to parcelwatch_decider
    using (parcel_region_key = any ((select parcelwatch_access.my_regions())::smallint[]));

-- Parcels by place ------------------------------------------------------------------------------

-- A condition on the outline uses no index in a view: who asks could write one that looks at rows of others. Here it is ours alone, and
-- of the index only regions are visited that who asks may see, so that what lies elsewhere cannot be timed.
create function parcelwatch.parcels_in(area geometry, most integer default 20000) returns bigint[]
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
    area_ constant geometry := ST_SetSRID(area, 4326);
    wide geometry;
    keys bigint[];
begin
    if not coalesce(area_ @ ST_MakeEnvelope(-179.8, -84.9, 179.8, 84.9, 4326), false) then
        return null;
    end if;
    wide := ST_Expand(ST_Transform(ST_Envelope(area_), 3857), 3); -- outlines of tiles are simplified to 2 m
    keys := array(
        select h.parcel_key from (
            select min(region) as first, max(region) as last from (
                select region, region - row_number() over (order by region) as run from unnest(parcelwatch_access.my_regions()) region) numbered
            group by run) own
        join parcelwatch_map.shapes h
          on ST_Force4D(h.shape, h.region_key::float8, h.season_key::float8) &&& ST_MakeLine(
                 ST_MakePoint(ST_XMin(wide), ST_YMin(wide), own.first, -32768), ST_MakePoint(ST_XMax(wide), ST_YMax(wide), own.last, 32767))
        limit least(most, 100000) + 1);
    if cardinality(keys) > least(most, 100000) then
        return null;
    end if;
    return array(select p.parcel_key from parcels p where p.parcel_key = any (keys) and ST_Intersects(p.geom, area_) order by p.parcel_key);
end
$$;
comment on function parcelwatch.parcels_in is
    'Keys of the parcels you may see whose outlines meet an area (degrees), by index; null where more than most lie about it, or where it leaves latitudes to 84.9 and longitudes to 179.8: then ask the view.';
do $$
begin
    grant create on schema parcelwatch to parcelwatch_contract;
    alter function parcelwatch.parcels_in owner to parcelwatch_contract;
    revoke create on schema parcelwatch from parcelwatch_contract;
end
$$;
revoke execute on function parcelwatch.parcels_in from public;
grant execute on function parcelwatch.parcels_in to parcelwatch_reader, parcelwatch_inspector;

-- Who asks ---------------------------------------------------------------------------------------

-- Every request asks these several times. A function in SQL with settings of its own is planned at each call; these keep their plans.
create or replace function parcelwatch_access.principal() returns text language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce(case when pg_has_role(session_user, 'parcelwatch_web', 'member')
                         then nullif(current_setting('parcelwatch.principal', true), '') end, session_user::text);
end
$$;

create or replace function parcelwatch_access.sees_all_regions() returns boolean language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
begin
    return pg_has_role(
        coalesce(nullif(case current_setting('role') when 'parcelwatch_decider' then coalesce(current_setting('parcelwatch.role', true), '')
                             else current_setting('role') end, 'none'), session_user::text), 'parcelwatch_reader', 'usage');
end
$$;

create or replace function parcelwatch_access.my_regions() returns smallint[] language plpgsql stable parallel safe security definer
set search_path = pg_catalog, pg_temp as $$
begin
    if parcelwatch_access.sees_all_regions() then
        return array(select region_key from public.regions);
    end if;
    return array(select g.region_key from parcelwatch_access.region_grants g where g.principal = parcelwatch_access.principal());
end
$$;

create or replace function parcelwatch_map.newest_shape(season smallint, region smallint) returns timestamptz
language plpgsql stable set search_path = public, pg_temp as $$
begin
    return (select max(changed_at) from parcelwatch_map.shapes where season_key = season and region_key = region);
end
$$;

create or replace function parcelwatch_map.recorded_to() returns bigint
language plpgsql volatile set search_path = public, pg_temp as $$
begin
    return (select last_value from recording_high_water, recording where clock = 'database');
end
$$;

create or replace function parcelwatch_map.due(season smallint, collection_ text, at timestamptz, max_age interval) returns smallint[]
language plpgsql volatile set search_path = public, pg_temp as $$
begin
    return (
        select coalesce(array_agg(region), '{}') from unnest(parcelwatch_access.my_regions()) region
        where exists (select from parcels p where p.season_key = season and p.region_key = region and p.collection = collection_)
          and not exists (
            select from parcelwatch_map.snapshots k
            where k.season_key = season and k.collection = collection_ and k.as_known_at = at and k.region_key = region
              and (k.is_final or k.recorded_to = parcelwatch_map.recorded_to() or k.made_at > clock_timestamp() - max_age)
              and k.shapes_to is not distinct from parcelwatch_map.newest_shape(season, region)));
end
$$;

-- Outlines of tiles --------------------------------------------------------------------------------

-- From the rows themselves, and each outline simplified once: named in a plain subquery it was computed at each of its three uses.
create or replace function parcelwatch_map.draw() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        delete from parcelwatch_map.shapes s using changed where s.parcel_key = changed.parcel_key;
    end if;
    insert into parcelwatch_map.shapes
    select parcel_key, season_key, region_key, source_id, clock_timestamp(),
           ((ST_X(middle) + 20037508.342789244) / 40075016.685578488 * 65536)::int,
           ((20037508.342789244 - ST_Y(middle)) / 40075016.685578488 * 65536)::int, shape
    from (select parcel_key, season_key, region_key, source_id,
                 -- Of few corners there is nothing to leave out that a tile would be smaller by.
                 case when ST_NPoints(geom) > 16 then ST_SimplifyPreserveTopology(ST_Transform(geom, 3857), 2)
                      else ST_Transform(geom, 3857) end as shape
          from changed
          where geom is not null and not ST_IsEmpty(geom) and geom @ ST_MakeEnvelope(-179.9, -85, 179.9, 85, 4326) offset 0) drawn
    cross join lateral (select ST_Centroid(ST_Envelope(shape)) as middle offset 0) centre;
    return null;
end
$$;
drop view parcelwatch_map.drawn;

-- What changed between two rounds ------------------------------------------------------------------

-- Parcel by parcel, whose lights are one value: a row for each rule is made of those alone whose lights differ.
create function parcelwatch.round_changes(collection_ text, season_ text, earlier text, later text)
returns table (
    parcel_key bigint, source_id text, region text, rule text, light_before text, light_after text, parcel_light_before text,
    parcel_light_after text, alert_state text)
language plpgsql stable security definer rows 10000 set search_path = public, pg_temp set enable_nestloop = off as $$
#variable_conflict use_column
declare
    one_ rounds;
    two_ rounds;
begin
    select r.* into one_ from rounds r join seasons s using (season_key)
    where r.collection = collection_ and s.name = season_ and r.name = earlier;
    select r.* into two_ from rounds r join seasons s using (season_key)
    where r.collection = collection_ and s.name = season_ and r.name = later;
    if one_.round_key is null or two_.round_key is null then
        return;
    end if;
    return query
    with of as materialized (
        select rule, array_position(one_.rules, rule) as before, array_position(two_.rules, rule) as after
        from (select distinct unnest(one_.rules || two_.rules) as rule) known
    ), compared as (
        select parcel_key, one.lights as lights_before, two.lights as lights_after, one.light as before, two.light as after, two.alert_states
        from (select * from round_lights where round_key = one_.round_key) one
        full join (select * from round_lights where round_key = two_.round_key) two using (parcel_key)
        where one_.rules <> two_.rules or one.lights is distinct from two.lights
    )
    select p.parcel_key, p.source_id, g.code, of.rule, lights_before[of.before]::text, lights_after[of.after]::text, b.before::text,
           b.after::text, alert_states[of.after]
    from compared b join parcels p using (parcel_key) join regions g using (region_key) cross join of
    -- A new rule that found nothing changes nothing.
    where coalesce(lights_before[of.before], 'not_executed') <> coalesce(lights_after[of.after], 'not_executed');
end
$$;
comment on function parcelwatch.round_changes is
    'Lights that differ between two rounds: before and after, null where a round does not have the parcel or rule, with the state of the newest alert in the later round.';
do $$
begin
    grant create on schema parcelwatch to parcelwatch_contract;
    alter function parcelwatch.round_changes owner to parcelwatch_contract;
    revoke create on schema parcelwatch from parcelwatch_contract;
end
$$;
revoke execute on function parcelwatch.round_changes from public;
grant execute on function parcelwatch.round_changes to parcelwatch_reader, parcelwatch_inspector;
