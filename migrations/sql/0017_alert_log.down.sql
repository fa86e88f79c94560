drop view open_alerts;
drop function alerts_known, alerts_recorded_by;
drop function state_after;
drop index alerts_parcel_rule;
drop trigger append_only on alert_events;
drop trigger append_only_truncate on alert_events;
drop function alert_log_is_append_only;

-- What the version before has no word for: a person's work on an alert is acknowledged; the events go.
delete from alert_events where event not in ('opened', 'changed', 'confirmed', 'acknowledged', 'dismissed', 'closed');
delete from alert_events one using alert_events later
where (one.alert_key, one.recorded_at, one.event) = (later.alert_key, later.recorded_at, later.event) and one.event_nr < later.event_nr;
alter table alert_events drop constraint alert_events_pkey, drop constraint alert_events_event_check;
alter table alert_events drop column departed_on, drop column event_nr;
alter table alert_events add primary key (alert_key, recorded_at, event), add constraint alert_events_event_check
    check (event in ('opened', 'changed', 'confirmed', 'acknowledged', 'dismissed', 'closed'));

alter table alerts drop column verified_at;
alter table alerts drop constraint alerts_check;
alter type alert_state rename to alert_state_after;
create type alert_state as enum ('open', 'acknowledged', 'dismissed', 'closed');
alter table alerts alter state type alert_state using
    case when state in ('open', 'acknowledged', 'dismissed', 'closed') then state::text else 'acknowledged' end::alert_state;
drop type alert_state_after;
alter table alerts add constraint alerts_check check ((state = 'closed') = (closed_at is not null));

-- The columns of open_alerts in their order, then what is new.
create function alerts_recorded_by(at timestamptz)
returns table (
    alert_key bigint, parcel_key bigint, collection text, season text, source_id text, region text, declared_crop text,
    rule text, state alert_state, colour colour, confidence real, departed_on date, opened_at timestamptz,
    confirmed_at timestamptz, evidence jsonb, closed_at timestamptz, decided_by text, decided_at timestamptz,
    decision_reason text, area_ha real, geom geometry)
language sql stable parallel safe rows 1000 as $$
    select a.alert_key, p.parcel_key, p.collection, s.name, p.source_id, r.code, declared.crop_name,
           a.rule, case when a.closed_at <= at then 'closed' else coalesce(decided.event, 'open') end::alert_state,
           newest.colour, newest.confidence, coalesce(departure.departed_on, a.departed_on), a.opened_at,
           case when newest.colour <> 'yellow' then confirmed.recorded_at end, newest.evidence, case when a.closed_at <= at then a.closed_at end,
           decided.evidence -> 'decision' ->> 'by', decided.recorded_at,
           decided.evidence -> 'decision' ->> 'reason', p.area_ha, p.geom
    from alerts a
    join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
    cross join lateral (
        select e.colour, e.confidence, e.evidence from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at order by e.recorded_at desc, e.event desc limit 1
    ) newest
    left join lateral (
        select e.recorded_at from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at and e.event = 'confirmed' order by e.recorded_at desc limit 1
    ) confirmed on true
    left join lateral (
        select e.event, e.recorded_at, e.evidence from alert_events e
        where e.alert_key = a.alert_key and e.recorded_at <= at and e.event in ('acknowledged', 'dismissed')
        order by e.recorded_at desc, e.event desc limit 1
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
