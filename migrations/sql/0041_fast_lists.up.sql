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
