-- The log of an alert is append-only and says what a person did with it; the row in `alerts` is its fold.

drop view open_alerts;
drop function alerts_known, alerts_recorded_by;

-- Made anew: a value that is added to a type cannot be used in the same transaction.
alter table alerts drop constraint alerts_check;
alter type alert_state rename to alert_state_before;
create type alert_state as enum ('open', 'acknowledged', 'in_review', 'information_requested', 'dismissed', 'confirmed', 'closed');
alter table alerts alter state type alert_state using state::text::alert_state;
drop type alert_state_before;
alter table alerts add constraint alerts_check check ((state = 'closed') = (closed_at is not null));
alter table alerts add column verified_at timestamptz;

-- The order of a log, given under the lock of its alert: a batch that waited for a person's decision recorded its time before that.
-- What is stored is numbered in its order.
alter table alert_events add column departed_on date, add column event_nr bigint;
update alert_events set event_nr = nr from (
    select alert_key, recorded_at, event, row_number() over (order by recorded_at, alert_key, event = 'opened' desc, event) as nr
    from alert_events) numbered
where (alert_events.alert_key, alert_events.recorded_at, alert_events.event) = (numbered.alert_key, numbered.recorded_at, numbered.event);
alter table alert_events alter event_nr set not null, alter event_nr add generated always as identity;
select setval(pg_get_serial_sequence('alert_events', 'event_nr'), coalesce(max(event_nr), 0) + 1, false) from alert_events;
alter table alert_events drop constraint alert_events_pkey, add primary key (alert_key, event_nr);
alter table alert_events drop constraint alert_events_event_check, add constraint alert_events_event_check check (event in (
    'opened', 'changed', 'confirmed', 'flagged', 'acknowledged', 'reviewed', 'requested', 'answered', 'dismissed', 'verified',
    'closed', 'reopened', 'assigned', 'commented'));

create function alert_log_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the log of alerts is append-only: nothing in it is changed or removed'
        using errcode = 'restrict_violation', hint = 'Append an event that says what is right.';
end
$$;
comment on function alert_log_is_append_only is 'Refuses to change or remove what the log of alerts says.';
create trigger append_only before update or delete on alert_events
    for each row execute function alert_log_is_append_only();
create trigger append_only_truncate before truncate on alert_events
    for each statement execute function alert_log_is_append_only();

-- The newest alert of a parcel and rule, closed ones too: whether its departure is the same episode.
create index alerts_parcel_rule on alerts (parcel_key, rule, closed_at);

create function state_after(event text) returns alert_state language sql immutable parallel safe as $$
    select case event when 'opened' then 'open' when 'reopened' then 'open' when 'acknowledged' then 'acknowledged'
                      when 'reviewed' then 'in_review' when 'answered' then 'in_review' when 'flagged' then 'in_review'
                      when 'requested' then 'information_requested' when 'dismissed' then 'dismissed'
                      when 'verified' then 'confirmed' when 'closed' then 'closed' end::alert_state
$$;
comment on function state_after is 'The state of an alert after an event of its log; null where the event changes no state.';

-- The columns of open_alerts in their order, then what is new.
create function alerts_recorded_by(at timestamptz)
returns table (
    alert_key bigint, parcel_key bigint, collection text, season text, source_id text, region text, declared_crop text,
    rule text, state alert_state, colour colour, confidence real, departed_on date, opened_at timestamptz,
    confirmed_at timestamptz, evidence jsonb, closed_at timestamptz, decided_by text, decided_at timestamptz,
    decision_reason text, area_ha real, geom geometry)
language sql stable parallel safe rows 1000 as $$
    select a.alert_key, p.parcel_key, p.collection, s.name, p.source_id, r.code, declared.crop_name,
           a.rule, case when a.closed_at <= at then 'closed' else coalesce(moved.state, 'open') end,
           newest.colour, newest.confidence, coalesce(departure.departed_on, a.departed_on), a.opened_at,
           case when newest.colour <> 'yellow' then confirmed.recorded_at end, newest.evidence, 
           case when a.closed_at <= at then a.closed_at when moved.state = 'closed' then moved.recorded_at end,
           decided.evidence -> 'decision' ->> 'by', decided.recorded_at,
           decided.evidence -> 'decision' ->> 'reason', p.area_ha, p.geom
    from alerts a
    join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
    cross join lateral (
        select e.colour, e.confidence, e.evidence from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at order by e.event_nr desc limit 1
    ) newest
    left join lateral (
        select e.recorded_at from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at and e.event = 'confirmed' order by e.recorded_at desc limit 1
    ) confirmed on true
    left join lateral (
        select state_after(e.event) as state, e.recorded_at from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at and state_after(e.event) is not null
        order by e.event_nr desc limit 1
    ) moved on true
    left join lateral (
        select e.recorded_at, e.evidence from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at and e.evidence ? 'decision' and state_after(e.event) is not null
        order by e.event_nr desc limit 1
    ) decided on true
    left join lateral (
        select f.departed_on from findings f
        where f.parcel_key = a.parcel_key and f.rule = a.rule and f.departed_on is not null
          and f.recorded_at between a.opened_at and least(at, a.closed_at) order by f.recorded_at desc limit 1
    ) departure on true
    left join lateral (
        select d.crop_name from declarations d where d.parcel_key = a.parcel_key and d.recorded_at <= at
        order by d.recorded_at desc limit 1
    ) declared on true
$$;
comment on function alerts_recorded_by is 'Alerts as known at a time that is settled; in other respects alerts_known.';

create function alerts_known(as_known_at timestamptz default 'infinity')
returns table (
    alert_key bigint, parcel_key bigint, collection text, season text, source_id text, region text, declared_crop text,
    rule text, state alert_state, colour colour, confidence real, departed_on date, opened_at timestamptz,
    confirmed_at timestamptz, evidence jsonb, closed_at timestamptz, decided_by text, decided_at timestamptz,
    decision_reason text, area_ha real, geom geometry)
language plpgsql volatile rows 1000 as $$
begin
    perform settled(as_known_at);
    return query select * from alerts_recorded_by(as_known_at);
end
$$;
comment on function alerts_known is
    'Alerts, closed ones too, as known at a time: state, colour and evidence of that time, and who decided. The outline is today''s.';

create view open_alerts as
select * from alerts_recorded_by('infinity') where closed_at is null;
comment on view open_alerts is 'Alerts not closed yet, with the evidence of their last change, the last decision on them, area and outline.';
