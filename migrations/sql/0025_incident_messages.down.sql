-- Fails where a round or a sample has a suppressed light: what was published or drawn is not rewritten.
drop view published_lights;
drop function lights_known, lights_recorded_by;
alter type light rename to light_with_suppressed;
create type light as enum ('not_executed', 'green', 'not_valid', 'yellow', 'red');
alter table round_lights alter light type light using light::text::light, alter lights type light[] using lights::text[]::light[];
alter table quality_strata alter light type light using light::text::light;
alter table quality_items alter light type light using light::text::light;
drop type light_with_suppressed;

create function lights_recorded_by(of_season smallint, of_collection text, at timestamptz)
returns table (
    parcel_key bigint, rule text, light light, rule_version text, found_at timestamptz, departed_on date, alert_key bigint,
    alert_state text)
-- Hash joins: where statistics are missing, as after an import, the planner would ask for all alerts again for each finding.
language sql stable parallel safe rows 100000 set enable_nestloop = off as $$
    -- Where a rule cannot decide any more, an alert that nobody dismissed stays as it is, and so does the light.
    select f.parcel_key, f.rule,
           case when f.outcome = 'OK' then f.colour::text::light
                when a.state not in ('dismissed', 'closed') then a.colour::text::light
                else lower(f.outcome::text)::light end,
           f.rule_version, f.recorded_at, f.departed_on, a.alert_key, a.state::text
    from (
        select distinct on (found.parcel_key, found.rule) found.*
        from parcels p join findings found using (parcel_key)
        where p.season_key = of_season and p.collection = of_collection and found.recorded_at <= at
        order by found.parcel_key, found.rule, found.recorded_at desc
    ) f
    left join (
        select distinct on (known.parcel_key, known.rule) known.parcel_key, known.rule, known.alert_key, known.state, known.colour
        from alerts_recorded_by(at) known
        where known.collection = of_collection and known.season = (select name from seasons where season_key = of_season)
        order by known.parcel_key, known.rule, known.opened_at desc, known.alert_key desc
    ) a using (parcel_key, rule)
$$;
comment on function lights_recorded_by is 'Lights of parcels as known at a time that is settled; in other respects lights_known.';

create function lights_known(of_collection text, of_season text, as_known_at timestamptz default 'infinity')
returns table (
    parcel_key bigint, source_id text, region text, rule text, light light, rule_version text, found_at timestamptz,
    departed_on date, alert_key bigint, alert_state text)
language plpgsql volatile rows 100000 as $$
#variable_conflict use_column
begin
    perform settled(as_known_at);
    return query
    select p.parcel_key, p.source_id, r.code, l.rule, l.light, l.rule_version, l.found_at, l.departed_on, l.alert_key, l.alert_state
    from seasons s cross join lateral lights_recorded_by(s.season_key, of_collection, as_known_at) l
    join parcels p using (parcel_key) join regions r using (region_key)
    where s.name = of_season;
end
$$;
comment on function lights_known is
    'The light of each parcel and rule that found anything of it, as known at a time, with the state of its newest alert. The largest light of a parcel is its own.';

create view published_lights as
select round_key, s.name as season, r.collection, r.name as round, r.recorded_at as published_at, parcel_key, p.source_id,
       g.code as region, rule, lights[nr] as light, l.light as parcel_light, rule_versions[nr] as rule_version,
       found_at[nr] as found_at, alert_states[nr] as alert_state
from rounds r join round_lights l using (round_key)
join seasons s using (season_key) join parcels p using (parcel_key) join regions g using (region_key)
cross join lateral unnest(r.rules) with ordinality as of (rule, nr);
comment on view published_lights is 'The lights of every round: one row for each parcel and rule, beside the light of the parcel.';

drop index deliveries_finished, deliveries_folded, outbox_incidents;
alter table outbox drop column incident;
alter table deliveries drop constraint deliveries_state_check, drop column folded_into;
update deliveries set state = case state when 'discarded' then 'dead' else 'sent' end where state in ('discarded', 'folded');
alter table deliveries add constraint deliveries_state_check check (state in ('pending', 'sent', 'dead'));
