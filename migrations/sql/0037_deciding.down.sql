drop policy seen_by_decider on parcels;
create or replace function parcelwatch_access.sees_all_regions() returns boolean language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    -- The role that was set counts for those who set one: the login of the API may take on many.
    select pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user::text), 'parcelwatch_reader', 'usage')
$$;
create or replace function alert_events_to_outbox() returns trigger language plpgsql as $$
begin
    if not exists (select from subscriptions where ended_at is null) then
        return null;
    end if;
    insert into outbox (subscription_key, event_nr, alert_key, recorded_at)
    with facts as materialized (
        select e.event_nr, e.alert_key, e.recorded_at, e.event, e.colour, e.confidence, e.evidence ->> 'policy' as scheme,
               a.rule, r.code as region, p.geom,
               array_remove(array[lower(d.crop_name), lower(d.crop_code)], null) as crop
        from happened e join alerts a using (alert_key) join parcels p using (parcel_key) join regions r using (region_key)
        left join lateral (select crop_name, crop_code from declarations d where d.parcel_key = p.parcel_key
                           order by d.recorded_at desc limit 1) d on true)
    select s.subscription_key, f.event_nr, f.alert_key, f.recorded_at
    from facts f join subscriptions s on s.ended_at is null and f.event = any(s.events)
        and (s.rules is null or f.rule = any(s.rules))
        and (s.colours is null or f.colour = any(s.colours))
        and (s.min_confidence is null or f.confidence >= s.min_confidence)
        and (s.regions is null or f.region = any(s.regions))
        and (s.crops is null or f.crop && s.crops)
        and (s.schemes is null or coalesce(f.scheme = any(s.schemes), false))
        and (s.area is null or coalesce(ST_Intersects(s.area, f.geom), false))
        and not coalesce(f.rule = any(s.except_rules), false)
        and not coalesce(f.region = any(s.except_regions), false)
        and not coalesce(f.crop && s.except_crops, false)
        and not coalesce(f.scheme = any(s.except_schemes), false)
        and not coalesce(ST_Intersects(s.except_area, f.geom), false)
    order by s.subscription_key, f.event_nr;
    return null;
end
$$;
drop function parcelwatch_access.receives;
alter table subscriptions drop column person;
drop index alert_events_recorded, alert_events_nr;
drop table parcelwatch_access.requests, answer_photos;
-- The role is the server's, and may be another database's too: it stays, without rights in this one.
drop owned by parcelwatch_decider;
