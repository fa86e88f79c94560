-- One message for a regional incident; finished deliveries are removed after a time; suppressed lights.

-- Deliveries -----------------------------------------------------------------------------------

alter table deliveries drop constraint deliveries_state_check,
    add constraint deliveries_state_check check (state in ('pending', 'sent', 'dead', 'discarded', 'folded')),
    add column folded_into bigint references deliveries on delete set null;

comment on column deliveries.folded_into is
    'Of a folded delivery, which nobody receives: the message that told of the incident; null once that was removed.';
create index deliveries_folded on deliveries (folded_into) where folded_into is not null;

alter table outbox add column incident bigint;
comment on column outbox.incident is 'The lowest alert of the regional incident that a message told of with this event; null: of none.';
-- Which message told of an incident is asked by its alerts: its name may be another by then.
create index outbox_incidents on outbox (subscription_key, alert_key) where incident is not null;

-- What a sender asks in each pass: the oldest of those that nobody has anything to do with any more.
create index deliveries_finished on deliveries (ended_at) where state in ('sent', 'folded', 'discarded');

-- Lights ---------------------------------------------------------------------------------------

-- A departure in a window without alerts: known, and nothing to act on. It hides no green and no doubt, and accuses nobody.
alter type light add value 'suppressed' before 'yellow';

create or replace function lights_recorded_by(of_season smallint, of_collection text, at timestamptz)
returns table (
    parcel_key bigint, rule text, light light, rule_version text, found_at timestamptz, departed_on date, alert_key bigint,
    alert_state text)
-- Hash joins: where statistics are missing, as after an import, the planner would ask for all alerts again for each finding.
language sql stable parallel safe rows 100000 set enable_nestloop = off as $$
    -- Where a rule cannot decide any more, an alert that nobody dismissed stays as it is, and so does the light.
    select f.parcel_key, f.rule,
           -- As text: the new value cannot be used in the transaction that adds it.
           case when is_suppressed then 'suppressed'::text::light
                when f.outcome = 'OK' then f.colour::text::light
                when a.state not in ('dismissed', 'closed') then a.colour::text::light
                else lower(f.outcome::text)::light end,
           f.rule_version, f.recorded_at, f.departed_on, a.alert_key,
           case when is_suppressed then f.colour || ', suppressed until ' || (f.evidence #>> '{suppressed,until}') else a.state::text end
    from (
        select distinct on (found.parcel_key, found.rule) found.*
        from parcels p join findings found using (parcel_key)
        where p.season_key = of_season and p.collection = of_collection and found.recorded_at <= at
        order by found.parcel_key, found.rule, found.recorded_at desc
    ) f
    cross join lateral (
        select f.outcome = 'OK' and f.colour <> 'green' and f.evidence ? 'suppressed' as is_suppressed) departing
    left join (
        select distinct on (known.parcel_key, known.rule) known.parcel_key, known.rule, known.alert_key, known.state, known.colour
        from alerts_recorded_by(at) known
        where known.collection = of_collection and known.season = (select name from seasons where season_key = of_season)
        order by known.parcel_key, known.rule, known.opened_at desc, known.alert_key desc
    ) a using (parcel_key, rule)
$$;
comment on function lights_recorded_by is 'Lights of parcels as known at a time that is settled; in other respects lights_known.';
comment on function lights_known is
    'The light of each parcel and rule that found anything of it, as known at a time, with the state of its newest alert, or the colour and end of the window of a suppressed one. The largest light of a parcel is its own.';
