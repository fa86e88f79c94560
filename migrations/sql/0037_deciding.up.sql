-- What the API writes for people, and reads of tables to do so: by a role that sees the parcels of the regions of the person alone.

do $$
begin
    create role parcelwatch_decider nologin;
exception when duplicate_object or unique_violation then
    null;
end
$$;
comment on role parcelwatch_decider is 'Records what people decide in the API; sees the parcels that the person it acts for may see.';
do $$
begin
    if not pg_has_role('parcelwatch_decider', 'member') then
        grant parcelwatch_decider to current_user;
    end if;
    if not pg_has_role('parcelwatch_web', 'parcelwatch_decider', 'member') then
        -- To be taken on for a transaction: by itself the server's login may do none of this.
        grant parcelwatch_decider to parcelwatch_web with inherit false, set true;
    end if;
end
$$;

-- Of the decider counts the role of the person it acts for, a setting of the same transaction: only logins of the server take it on.
create or replace function parcelwatch_access.sees_all_regions() returns boolean language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    select pg_has_role(
        coalesce(nullif(case current_setting('role') when 'parcelwatch_decider' then coalesce(current_setting('parcelwatch.role', true), '')
                             else current_setting('role') end, 'none'), session_user::text), 'parcelwatch_reader', 'usage')
$$;
create policy seen_by_decider on parcels for select to parcelwatch_decider
    using (region_key = any ((select parcelwatch_access.my_regions())::smallint[]));

grant select on regions, seasons, parcels, declarations, scenes, found_scenes, s1_observations, s2_observations, models, posteriors,
    ndvi_months, ndvi_daily, crop_progress, findings, alerts, alert_events, policies, recording, chips, chip_parcels, quality_samples,
    quality_strata, quality_items, quality_verdicts, subscriptions, deliveries, outbox, subscription_secrets to parcelwatch_decider;
grant select, update on sequence recording_high_water to parcelwatch_decider;
grant update (state, colour, confidence, departed_on, confirmed_at, verified_at, closed_at) on alerts to parcelwatch_decider;
grant insert on alert_events, quality_verdicts to parcelwatch_decider;
grant insert, update on subscriptions to parcelwatch_decider;
grant insert, update, delete on subscription_secrets to parcelwatch_decider;
grant insert, delete on outbox to parcelwatch_decider;
grant update (state, ended_at, last_error) on deliveries to parcelwatch_decider;

create table answer_photos (
    sha256 bytea primary key check (octet_length(sha256) = 32),
    media_type text not null,
    image bytea not null,
    recorded_at timestamptz not null
);
comment on table answer_photos is 'Photos that answered requests, by their SHA-256, which the log of the alert names.';
grant select, insert on answer_photos to parcelwatch_decider;

create table parcelwatch_access.requests (
    person text not null references parcelwatch_access.people,
    key text not null check (length(key) between 1 and 200),
    asked_sha256 bytea not null,
    answer jsonb not null,
    recorded_at timestamptz not null,
    primary key (person, key)
);
comment on table parcelwatch_access.requests is 'What was answered to requests with an Idempotency-Key: one that comes again is not done again.';
grant usage on schema parcelwatch_access to parcelwatch_decider;
grant select, insert, update, delete on parcelwatch_access.requests to parcelwatch_decider;

-- New events in the order in which they became known: numbers are given before that, and another transaction may commit between.
create index alert_events_recorded on alert_events (recorded_at, event_nr);
create unique index alert_events_nr on alert_events (event_nr);

-- Subscriptions of people of the API ------------------------------------------------------------

alter table subscriptions add column person text references parcelwatch_access.people;
comment on column subscriptions.person is
    'Who made it in the API, and receives events of parcels that they may see when these happen; null: made by who administers the chain.';
create index subscriptions_person on subscriptions (person) where person is not null and ended_at is null;

create function parcelwatch_access.receives(person text, region smallint) returns boolean language sql stable parallel safe
security definer set search_path = pg_catalog, pg_temp as $$
    select exists (
        select from parcelwatch_access.people p where p.name = person and p.ended_at is null and (
            p.role <> 'inspector'
            or exists (select from parcelwatch_access.region_grants g where g.principal = p.name and g.region_key = region)))
$$;
comment on function parcelwatch_access.receives is 'Whether a person of the API may see a region.';

create or replace function alert_events_to_outbox() returns trigger language plpgsql as $$
begin
    if not exists (select from subscriptions where ended_at is null) then
        return null;
    end if;
    insert into outbox (subscription_key, event_nr, alert_key, recorded_at)
    with facts as materialized (
        select e.event_nr, e.alert_key, e.recorded_at, e.event, e.colour, e.confidence, e.evidence ->> 'policy' as scheme,
               a.rule, r.code as region, p.region_key, p.geom,
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
        and (s.person is null or parcelwatch_access.receives(s.person, f.region_key))
    order by s.subscription_key, f.event_nr;
    return null;
end
$$;
