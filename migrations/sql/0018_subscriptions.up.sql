-- Who receives which alerts: subscriptions, and the outbox, written in the transaction of the alert's own log.

create table subscriptions (
    subscription_key bigint generated always as identity primary key,
    name text not null,
    channel text not null check (channel in ('email', 'webhook', 'atom', 'icalendar', 'apprise')),
    address text not null,
    events text[] not null,
    regions text[], crops text[], schemes text[], rules text[], colours colour[], min_confidence real,
    area geometry(MultiPolygon, 4326),
    except_regions text[], except_crops text[], except_schemes text[], except_rules text[],
    except_area geometry(MultiPolygon, 4326),
    mode text not null check (mode in ('immediate', 'grouped', 'daily', 'weekly')),
    within_s integer not null check (within_s >= 0),
    at time not null,
    weekday smallint not null check (weekday between 1 and 7),
    zone text not null,
    quiet_from time, quiet_to time,
    min_interval_s integer not null check (min_interval_s >= 0),
    created_at timestamptz not null,
    created_by text not null,
    suspended_at timestamptz, suspended_because text,
    ended_at timestamptz,
    failures smallint not null default 0,
    not_before timestamptz,
    check ((quiet_from is null) = (quiet_to is null) and quiet_from <> quiet_to),
    check ((suspended_at is null) = (suspended_because is null))
);
create unique index subscriptions_name on subscriptions (name) where ended_at is null;
comment on table subscriptions is
    'Who receives which events of alerts, when and how. null in a filter: any. address is what may be shown; the whole one is in subscription_secrets.';
comment on column subscriptions.crops is 'Names or codes of declared crops, in lower case.';
comment on column subscriptions.schemes is 'Names of policies, as the evidence of an event says.';
comment on column subscriptions.weekday is '1 Monday to 7 Sunday (ISO 8601).';

comment on column subscriptions.not_before is
    'After failures in a row: nothing is tried before, so that a receiver that is away does not hold up those of others.';

create table subscription_secrets (
    subscription_key bigint primary key references subscriptions,
    address text, signing text
);
comment on table subscription_secrets is 'Addresses that hold secrets, and the keys that webhooks are signed with; no command prints them.';

create table deliveries (
    delivery_key bigint generated always as identity primary key,
    idempotency_key uuid not null unique,
    subscription_key bigint not null references subscriptions,
    state text not null default 'pending' check (state in ('pending', 'sent', 'dead')),
    formed_at timestamptz not null,
    attempts smallint not null default 0,
    next_try_at timestamptz not null,
    ended_at timestamptz,
    last_error text,
    check ((state = 'pending') = (ended_at is null))
);
comment on table deliveries is 'One message of one subscription: sent at least once, under one key however often it is tried.';
comment on column deliveries.next_try_at is 'While a sender is at it: when its lease ends and any other may take it.';
-- What a sender asks every few seconds, however much was delivered.
create index deliveries_due on deliveries (subscription_key, next_try_at, delivery_key) where state = 'pending';
create index deliveries_dead on deliveries (subscription_key) where state = 'dead';
create index deliveries_formed on deliveries (subscription_key, formed_at);

create table outbox (
    subscription_key bigint not null references subscriptions,
    event_nr bigint not null,
    alert_key bigint not null,
    recorded_at timestamptz not null,
    delivery_key bigint references deliveries,
    primary key (subscription_key, event_nr),
    foreign key (alert_key, event_nr) references alert_events
);
comment on table outbox is 'Events that a subscription is to receive; delivery_key null: not yet part of a message.';
create index outbox_waiting on outbox (subscription_key, event_nr) where delivery_key is null;
create index outbox_delivery on outbox (delivery_key) where delivery_key is not null;

-- A trigger, not the monitor: whoever writes to the log, in the same transaction, and nobody can forget it.
create function alert_events_to_outbox() returns trigger language plpgsql as $$
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
comment on function alert_events_to_outbox is 'Puts what was just recorded of alerts into the outbox of each subscription whose filter it passes.';
create trigger to_outbox after insert on alert_events referencing new table as happened
    for each statement execute function alert_events_to_outbox();
