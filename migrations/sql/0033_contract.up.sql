-- What people and programs may rely on, and who sees what of it: docs/decisions/0015-contract.md, docs/sql.md.

-- A login that is called parcelwatch would find the schema of that name before the tables.
set local search_path = public;
do $$
begin
    if session_user = 'parcelwatch' and not exists (
        select from pg_db_role_setting where setrole = 'parcelwatch'::regrole and setdatabase = 0
            and exists (select from unnest(setconfig) one where one like 'search_path=%')) then
        alter role parcelwatch set search_path = public;
    end if;
end
$$;

-- Roles ----------------------------------------------------------------------------------------

-- Of the server, not of this database: another database of it may have made them, and they outlive this one. None can log in.
do $$
declare
    name text;
begin
    foreach name in array array['parcelwatch_contract', 'parcelwatch_reader', 'parcelwatch_inspector', 'parcelwatch_operator',
                                'parcelwatch_admin', 'parcelwatch_web'] loop
        begin
            execute format('create role %I nologin', name);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    -- Who is not a superuser gives views to a role only as its member.
    if not pg_has_role('parcelwatch_contract', 'member') then
        grant parcelwatch_contract to current_user;
    end if;
    -- Each later one may all that the one before may.
    if not pg_has_role('parcelwatch_operator', 'parcelwatch_reader', 'member') then
        grant parcelwatch_reader to parcelwatch_operator;
    end if;
    if not pg_has_role('parcelwatch_admin', 'parcelwatch_operator', 'member') then
        grant parcelwatch_operator to parcelwatch_admin;
    end if;
end
$$;
comment on role parcelwatch_contract is 'Owns the schema parcelwatch; sees of each table what the user of a view may see.';
comment on role parcelwatch_reader is 'Analyst: reads the contract, all regions.';
comment on role parcelwatch_inspector is 'Reads the contract, of the regions granted to the login.';
comment on role parcelwatch_operator is 'Reader who also sees how the chain does.';
comment on role parcelwatch_admin is 'Operator who grants regions.';
comment on role parcelwatch_web is 'The server of the API: names the person it asks for in the setting parcelwatch.principal.';

-- Who sees which regions -----------------------------------------------------------------------

create schema parcelwatch_access;
comment on schema parcelwatch_access is 'Who sees which regions; private.';
create table parcelwatch_access.region_grants (
    principal text not null check (principal <> ''),
    region_key smallint not null references regions,
    granted_by text not null,
    granted_at timestamptz not null,
    primary key (principal, region_key)
);
comment on table parcelwatch_access.region_grants is 'Regions that an inspector sees; principal is a login of the database or a person of the API.';

-- By the login, which nobody can change. A setting of the session counts only where the server of the API asks, or a superuser.
create function parcelwatch_access.principal() returns text language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    select coalesce(case when pg_has_role(session_user, 'parcelwatch_web', 'member')
                         then nullif(current_setting('parcelwatch.principal', true), '') end, session_user::text)
$$;
comment on function parcelwatch_access.principal is 'Who asks.';

create function parcelwatch_access.sees_all_regions() returns boolean language sql stable parallel safe
set search_path = pg_catalog, pg_temp as $$
    -- The role that was set counts for those who set one: the login of the API may take on many.
    select pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user::text), 'parcelwatch_reader', 'usage')
$$;
comment on function parcelwatch_access.sees_all_regions is 'Whether who asks sees every region.';

create function parcelwatch_access.my_regions() returns smallint[] language sql stable parallel safe security definer
set search_path = pg_catalog, pg_temp as $$
    select coalesce(array_agg(region_key), '{}') from public.regions
    where parcelwatch_access.sees_all_regions()
       or region_key in (select g.region_key from parcelwatch_access.region_grants g where g.principal = parcelwatch_access.principal())
$$;
comment on function parcelwatch_access.my_regions is 'Keys of the regions that who asks may see.';

-- Rows of other regions are none for the owner of the contract, whatever a view or function of his forgets. Hypertables cannot have
-- such a rule beside a columnstore, and chunks would not keep it: they are read through parcels alone.
alter table parcels enable row level security;
create policy seen_by_region on parcels for select to parcelwatch_contract
    using (region_key = any ((select parcelwatch_access.my_regions())::smallint[]));

grant usage on schema parcelwatch_access to parcelwatch_contract;
grant select on parcelwatch_access.region_grants to parcelwatch_contract;
grant select on regions, seasons, parcels, declarations, parcel_lineage, scenes, scene_ledger, found_scenes, s1_observations,
    s2_observations, models, model_activations, posteriors, ndvi_months, ndvi_daily, phenology, markers, crop_progress, findings, alerts,
    alert_events, rounds, round_lights, quality_samples, quality_strata, quality_items, quality_verdicts, policies, recording,
    chips, scene_reconciliation to parcelwatch_contract;

-- The contract ---------------------------------------------------------------------------------

create schema parcelwatch;
comment on schema parcelwatch is 'What people and programs may rely on: version 1. Everything else in this database may change.';
-- Given back at the end: who owns a view must be able to make one where it lies.
grant create, usage on schema parcelwatch to parcelwatch_contract;

create function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.0' $$;
comment on function parcelwatch.contract_version is
    'Version of the schema: the first number grows when a name goes or means something else, the second when one is added.';

create view parcelwatch.regions with (security_barrier) as
select code as region from regions where region_key = any ((select parcelwatch_access.my_regions())::smallint[]);
comment on view parcelwatch.regions is 'Regions that you may see.';

create view parcelwatch.seasons as select name as season, starts_on, ends_on from seasons;
comment on view parcelwatch.seasons is 'Seasons, with their first and last day.';

create view parcelwatch.parcels with (security_barrier) as
select p.parcel_key, p.collection, s.name as season, p.source_id, r.code as region, p.area_ha, p.perimeter_m,
       d.crop_code as declared_crop_code, d.crop_name as declared_crop, d.hcat_code, p.not_monitorable_reason, p.recorded_at, p.geom
from parcels p join seasons s using (season_key) join regions r using (region_key)
left join lateral (
    select * from declarations where declarations.parcel_key = p.parcel_key order by declarations.recorded_at desc limit 1
) d on true;
comment on view parcelwatch.parcels is 'Parcels with the declaration in force and the outline (EPSG:4326).';

create view parcelwatch.s2_observations with (security_barrier) as
select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.n_clear, o.clear_fraction, o.ndvi, o.ndvi_sd, o.nbr2, o.bsi, o.s2wi,
       o.b02, o.b03, o.b04, o.b05, o.b06, o.b07, o.b08, o.b8a, o.b11, o.b12, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s2_observations where s2_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;
comment on view parcelwatch.s2_observations is 'Sentinel-2 observations: of each pass the newest revision, withdrawn ones left out. Ask it by parcel_key.';

create view parcelwatch.s1_observations with (security_barrier) as
select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.direction, o.radiometry, o.n_pixels,
       (10 * log(nullif(greatest(o.vv, 0), 0)))::real as vv_db, (10 * log(nullif(greatest(o.vh, 0), 0)))::real as vh_db,
       o.vv, o.vh, o.vv_sd, o.vh_sd, o.coherence_vv, o.coherence_vh, o.coherence_with, o.scene_key, o.available_at, o.recorded_at
from parcels p cross join lateral (
    select distinct on (observed_at, relative_orbit) * from s1_observations where s1_observations.parcel_key = p.parcel_key
    order by observed_at, relative_orbit, revision desc
) o where not o.is_withdrawn;
comment on view parcelwatch.s1_observations is 'Sentinel-1 observations likewise; vv and vh are linear power, vv_db and vh_db decibels.';

create view parcelwatch.daily_ndvi with (security_barrier) as
select curve.* from parcels p cross join lateral (
    select m.parcel_key, m.month + nr - 1 as day, m.ndvi[nr] as ndvi, m.ndvi_sd[nr] as ndvi_sd,
           case when m.is_observed >> nr - 1 & 1 = 1 then 'observed' else 'reconstructed' end as origin,
           case when m.is_causal >> nr - 1 & 1 = 1 then 'causal' else 'retrospective' end as mode, m.recorded_at, m.model_key
    from (select distinct on (month) * from ndvi_months where ndvi_months.parcel_key = p.parcel_key order by month, recorded_at desc) m
    cross join generate_series(1, 31) nr where m.ndvi[nr] <> 'NaN'
) curve;
comment on view parcelwatch.daily_ndvi is
    'The daily curve: NDVI and its standard deviation, observed or reconstructed; recorded_at is when its month was last written. Ask it by parcel_key.';

create view parcelwatch.posteriors with (security_barrier) as
select o.parcel_key, o.observed_to, o.recorded_at, o.n_s2, o.n_s1, m.model_id as model, o.probabilities,
       array(select jsonb_array_elements_text(m.config -> 'classes')) as classes
from parcels p join posteriors o using (parcel_key) join models m using (model_key);
comment on view parcelwatch.posteriors is 'Crop posteriors after each acquisition: probabilities in the order of classes. Ask it by parcel_key.';

create view parcelwatch.latest_posteriors with (security_barrier) as
select p.parcel_key, p.collection, s.name as season, p.source_id, r.code as region, declared.crop_name as declared_crop,
       best.crop as most_likely_crop, best.probability, newest.observed_to, newest.recorded_at, newest.n_s2, newest.n_s1,
       known.class as declared_class, newest.probabilities[known.nr] as probability_of_declared, m.model_id as model
from parcels p join seasons s using (season_key) join regions r using (region_key)
cross join lateral (
    select * from posteriors where posteriors.parcel_key = p.parcel_key order by posteriors.recorded_at desc, model_key desc limit 1
) newest
join models m using (model_key)
cross join lateral (
    select m.config -> 'classes' ->> (nr - 1)::int as crop, probability
    from unnest(newest.probabilities) with ordinality as c (probability, nr) order by probability desc limit 1
) best
left join lateral (
    select * from declarations where declarations.parcel_key = p.parcel_key order by declarations.recorded_at desc limit 1
) declared on true
left join lateral (
    select class, nr from jsonb_array_elements_text(m.config -> 'classes') with ordinality as c (class, nr)
    where class = m.trained_on -> 'class_of' ->> declared.crop_code
) known on true;
comment on view parcelwatch.latest_posteriors is
    'The newest posterior of each parcel beside its declaration; declared_class is null where the model has no class for it.';

create view parcelwatch.phenology with (security_barrier) as
select p.parcel_key, newest.outcome::text as status, newest.reason, newest.sos, newest.pos, newest.eos, newest.is_complete, newest.recorded_at
from parcels p cross join lateral (
    select * from phenology where phenology.parcel_key = p.parcel_key order by recorded_at desc limit 1
) newest;
comment on view parcelwatch.phenology is 'The newest dates of each parcel''s season; all measures with their standard deviation: phenology_known.';

create view parcelwatch.markers with (security_barrier) as
select p.parcel_key, newest.marker, newest.status::text, newest.value, newest.day, newest.confidence, newest.evidence, newest.version,
       newest.recorded_at
from parcels p cross join lateral (
    select distinct on (marker) * from markers where markers.parcel_key = p.parcel_key order by marker, recorded_at desc
) newest;
comment on view parcelwatch.markers is 'What each marker says of a parcel now, and on what that rests.';

create view parcelwatch.alerts with (security_barrier) as
select a.alert_key, a.parcel_key, p.collection, s.name as season, p.source_id, r.code as region, d.crop_name as declared_crop, a.rule,
       a.state::text, a.colour::text, a.confidence, a.departed_on, a.opened_at, a.confirmed_at, a.closed_at,
       newest.evidence, p.area_ha, p.geom
from alerts a join parcels p using (parcel_key) join seasons s using (season_key) join regions r using (region_key)
cross join lateral (
    select e.evidence from alert_events e where e.alert_key = a.alert_key order by e.event_nr desc limit 1
) newest
left join lateral (
    select * from declarations where declarations.parcel_key = p.parcel_key order by declarations.recorded_at desc limit 1
) d on true;
comment on view parcelwatch.alerts is 'Alerts, closed ones too, as they stand now, with the evidence of their last change.';

create view parcelwatch.alert_events with (security_barrier) as
select e.alert_key, e.event_nr, e.recorded_at, e.event, e.colour::text, e.confidence, e.departed_on, e.evidence
from alert_events e join alerts a using (alert_key) join parcels p using (parcel_key);
comment on view parcelwatch.alert_events is 'The log of alerts: what happened, and in the evidence''s decision who did it and why.';

create view parcelwatch.published_lights with (security_barrier) as
select s.name as season, r.collection, r.name as round, r.recorded_at as published_at, l.parcel_key, p.source_id, g.code as region, rule,
       l.lights[nr]::text as light, l.light::text as parcel_light, l.rule_versions[nr] as rule_version, l.found_at[nr] as found_at,
       l.alert_states[nr] as alert_state
from rounds r join round_lights l using (round_key) join seasons s using (season_key)
join parcels p using (parcel_key) join regions g using (region_key)
cross join lateral unnest(r.rules) with ordinality as of (rule, nr);
comment on view parcelwatch.published_lights is 'The lights of every round: one row for each parcel and rule, beside the light of the parcel.';

create view parcelwatch.crop_bands with (security_barrier) as
select newest.season, newest.collection, r.code as region, newest.crop_code, newest.first_day + (nr - 1)::int as day, newest.n_parcels,
       nullif(newest.standing_share[nr], 'NaN') as standing_share, nullif(newest.median_ndvi[nr], 'NaN') as median_ndvi, newest.recorded_at
from regions r cross join lateral (
    select distinct on (season_key, collection, crop_code) c.*, s.name as season from crop_progress c join seasons s using (season_key)
    where c.region_key = r.region_key and r.region_key = any ((select parcelwatch_access.my_regions())::smallint[])
    order by season_key, collection, crop_code, c.recorded_at desc
) newest cross join lateral generate_subscripts(newest.median_ndvi, 1) nr;
comment on view parcelwatch.crop_bands is 'How the parcels of each region and declared crop stand, by day: what rules compare with.';

create view parcelwatch.scenes as
select sc.scene_key, sc.scene_id, sc.sensor::text, sc.platform, sc.relative_orbit, sc.observed_at, sc.available_at, sc.recorded_at,
       coalesce((select l.parcels from scene_ledger l where l.scene_key = sc.scene_key and l.outcome = 'stored'), 0) as parcels_stored
from scenes sc;
comment on view parcelwatch.scenes is 'Scenes of which anything was stored, and of how many parcels.';

create view parcelwatch.quality_verdicts with (security_barrier) as
select v.sample_key, v.item, p.collection, s.name as season, p.parcel_key, p.source_id, v.verdict, v.reviewer, v.reason, v.recorded_at
from quality_verdicts v join quality_items i using (sample_key, item) join parcels p using (parcel_key) join seasons s using (season_key);
comment on view parcelwatch.quality_verdicts is 'What reviewers said of randomly sampled parcels.';

-- Of one parcel as known at a time. In plpgsql and with the owner's rights: its tables are nobody else's, and a plan would show
-- how many rows of others were looked at.

create function parcelwatch.parcel_key_of(collection_ text, season_ text, source_id_ text) returns bigint
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
    return (select parcel_key from parcels join seasons using (season_key)
            where collection = collection_ and seasons.name = season_ and source_id = source_id_);
end
$$;
comment on function parcelwatch.parcel_key_of is
    'The key of a parcel, from its collection, season and the agency''s own id; null where there is none that you may see.';

create function parcelwatch_access.may_see(parcel bigint) returns boolean
language plpgsql stable set search_path = public, pg_temp as $$
begin
    return exists (select from parcels where parcel_key = parcel);
end
$$;
comment on function parcelwatch_access.may_see is 'Whether a parcel is of a region that who asks may see; called by functions of the contract''s owner alone.';

create function parcelwatch.parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity', as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql volatile security definer rows 500 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select * from parcel_history(parcel, from_, to_, as_known_at);
    end if;
end
$$;
comment on function parcelwatch.parcel_history is
    'All that is known of a parcel between two times, as known at a third: kind is s1, s2, ndvi, posterior, declaration or alert.';

create function parcelwatch.parcel_history_available(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity', as_available_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql stable security definer rows 200 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select * from parcel_history_available(parcel, from_, to_, as_available_at);
    end if;
end
$$;
comment on function parcelwatch.parcel_history_available is
    'Observations of a parcel whose products could be had by a time, and what was declared by then, whenever they were stored.';

create function parcelwatch.s2_known(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity', as_known_at timestamptz default 'infinity')
returns setof parcelwatch.s2_observations
language plpgsql volatile security definer rows 80 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query
        select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.n_clear, o.clear_fraction, o.ndvi, o.ndvi_sd, o.nbr2, o.bsi,
               o.s2wi, o.b02, o.b03, o.b04, o.b05, o.b06, o.b07, o.b08, o.b8a, o.b11, o.b12, o.scene_key, o.available_at, o.recorded_at
        from s2_known(parcel, from_, to_, as_known_at) o;
    end if;
end
$$;
comment on function parcelwatch.s2_known is 'Sentinel-2 observations of a parcel as known at a time.';

create function parcelwatch.s1_known(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity', as_known_at timestamptz default 'infinity')
returns setof parcelwatch.s1_observations
language plpgsql volatile security definer rows 80 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query
        select o.parcel_key, o.observed_at, o.relative_orbit, o.revision, o.direction, o.radiometry, o.n_pixels,
               (10 * log(nullif(greatest(o.vv, 0), 0)))::real, (10 * log(nullif(greatest(o.vh, 0), 0)))::real,
               o.vv, o.vh, o.vv_sd, o.vh_sd, o.coherence_vv, o.coherence_vh, o.coherence_with, o.scene_key, o.available_at, o.recorded_at
        from s1_known(parcel, from_, to_, as_known_at) o;
    end if;
end
$$;
comment on function parcelwatch.s1_known is 'Sentinel-1 observations of a parcel as known at a time.';

create function parcelwatch.ndvi_known(
    parcel bigint, from_ date default '1900-01-01', to_ date default '2200-01-01', as_known_at timestamptz default 'infinity')
returns table (
    day date, ndvi real, ndvi_sd real, origin text, mode text, recorded_at timestamptz, model_key integer)
language plpgsql volatile security definer rows 300 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select n.day, n.ndvi, n.ndvi_sd, n.origin::text, n.mode::text, n.recorded_at, n.model_key
                     from ndvi_known(parcel, from_, to_, as_known_at) n;
    end if;
end
$$;
comment on function parcelwatch.ndvi_known is 'The daily curve of a parcel from a day until before another, as known at a time.';

create function parcelwatch.declaration_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns table (crop_code text, crop_name text, hcat_code text, declared_at timestamptz, recorded_at timestamptz)
language plpgsql volatile security definer rows 1 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select d.crop_code, d.crop_name, d.hcat_code, d.declared_at, d.recorded_at from declaration_known(parcel, as_known_at) d;
    end if;
end
$$;
comment on function parcelwatch.declaration_known is 'The declaration in force as known at a time.';

create function parcelwatch.phenology_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns table (measure text, method text, value real, sd real, day date, unit text, status text, recorded_at timestamptz)
language plpgsql volatile security definer rows 20 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select * from phenology_known(parcel, as_known_at);
    end if;
end
$$;
comment on function parcelwatch.phenology_known is 'Measures of a parcel''s season as known at a time, each with its standard deviation and a status.';

create function parcelwatch.markers_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns table (marker text, status text, value real, day date, confidence real, evidence jsonb, version text, recorded_at timestamptz)
language plpgsql volatile security definer rows 5 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        return query select * from markers_known(parcel, as_known_at);
    end if;
end
$$;
comment on function parcelwatch.markers_known is 'What each marker said of a parcel as known at a time.';

create function parcelwatch.alerts_known(as_known_at timestamptz default 'infinity')
returns table (
    alert_key bigint, parcel_key bigint, collection text, season text, source_id text, region text, declared_crop text, rule text,
    state text, colour text, confidence real, departed_on date, opened_at timestamptz, confirmed_at timestamptz, evidence jsonb,
    closed_at timestamptz, decided_by text, decided_at timestamptz, decision_reason text, area_ha real, geom geometry(MultiPolygon, 4326))
language plpgsql volatile security definer rows 1000 set search_path = public, pg_temp as $$
begin
    return query
    select a.alert_key, a.parcel_key, a.collection, a.season, a.source_id, a.region, a.declared_crop, a.rule, a.state::text,
           a.colour::text, a.confidence, a.departed_on, a.opened_at, a.confirmed_at, a.evidence, a.closed_at, a.decided_by,
           a.decided_at, a.decision_reason, a.area_ha, a.geom
    from alerts_known(as_known_at) a;
end
$$;
comment on function parcelwatch.alerts_known is 'Alerts, closed ones too, as known at a time, and who decided. The outline is today''s.';

create function parcelwatch.lights_known(collection_ text, season_ text, as_known_at timestamptz default 'infinity')
returns table (
    parcel_key bigint, source_id text, region text, rule text, light text, rule_version text, found_at timestamptz,
    departed_on date, alert_key bigint, alert_state text)
language plpgsql volatile security definer rows 100000 set search_path = public, pg_temp as $$
begin
    return query
    select l.parcel_key, l.source_id, l.region, l.rule, l.light::text, l.rule_version, l.found_at, l.departed_on, l.alert_key, l.alert_state
    from lights_known(collection_, season_, as_known_at) l;
end
$$;
comment on function parcelwatch.lights_known is 'The light of each parcel and rule as known at a time, with the state of its newest alert.';

create function parcelwatch.policies_known(as_known_at timestamptz default 'infinity')
returns table (
    season text, collection text, name text, version integer, hash text, content jsonb, decided_by text, reason text, recorded_at timestamptz)
language plpgsql volatile security definer rows 10 set search_path = public, pg_temp as $$
begin
    return query select * from policies_known(as_known_at);
end
$$;
comment on function parcelwatch.policies_known is 'The policy of each season and collection that was in force as known at a time.';

-- Expected areas: a sum of probabilities has no bias where they are calibrated, which counting the likeliest crop has.
create function parcelwatch.crop_areas(collection_ text, season_ text, as_known_at timestamptz default 'infinity')
returns table (
    region text, crop text, n_parcels bigint, area_ha double precision, area_sd_ha double precision, low_ha double precision,
    high_ha double precision, declared_ha double precision)
language plpgsql volatile security definer rows 200 set search_path = public, pg_temp as $$
#variable_conflict use_column
begin
    perform settled(as_known_at);
    return query
    with watched as (
        select p.parcel_key, r.code as region, p.area_ha::double precision as ha
        from parcels p join seasons s using (season_key) join regions r using (region_key)
        where p.collection = collection_ and s.name = season_ and p.area_ha is not null
    ), believed as (
        select w.region, w.ha, newest.probabilities, m.config -> 'classes' as classes, m.trained_on -> 'class_of' ->> declared.crop_code as declared
        from watched w cross join lateral (
            select probabilities, model_key from posteriors o where o.parcel_key = w.parcel_key and o.recorded_at <= as_known_at
            order by o.recorded_at desc, model_key desc limit 1
        ) newest join models m using (model_key)
        left join lateral (
            select crop_code from declarations d where d.parcel_key = w.parcel_key and d.recorded_at <= as_known_at
            order by d.recorded_at desc limit 1
        ) declared on true
    ), summed as (
        select b.region, classes ->> (nr - 1)::int as crop, count(*) as n, sum(ha * p) as ha, sqrt(sum(ha * ha * p * (1 - p))) as sd,
               sum(ha) filter (where declared = classes ->> (nr - 1)::int) as declared
        from believed b cross join lateral unnest(b.probabilities::double precision[]) with ordinality as c (p, nr)
        group by b.region, classes ->> (nr - 1)::int
    )
    select s.region, s.crop, s.n, s.ha, s.sd, greatest(s.ha - 1.96 * s.sd, 0), s.ha + 1.96 * s.sd, coalesce(s.declared, 0)
    from summed s order by s.region, s.ha desc;
end
$$;
comment on function parcelwatch.crop_areas is
    'Expected area of each crop by region as known at a time, over parcels that have a posterior: sum of area times probability, with its standard deviation where parcels err independently, an interval of 95 %, and what is declared.';

-- Waits for writers as their owner does: others do not see since when a transaction runs, and would wait for more than they must.
alter function settled security definer set search_path = public, pg_temp;

-- Whose it is, and who may use it --------------------------------------------------------------

do $$
declare
    made record;
begin
    for made in select oid::regclass as name from pg_class where relnamespace = 'parcelwatch'::regnamespace and relkind = 'v' loop
        execute format('alter view %s owner to parcelwatch_contract', made.name);
        execute format('grant select on %s to parcelwatch_reader, parcelwatch_inspector', made.name);
    end loop;
    for made in select oid::regprocedure as name from pg_proc where pronamespace = 'parcelwatch'::regnamespace loop
        execute format('alter function %s owner to parcelwatch_contract', made.name);
        execute format('revoke execute on function %s from public', made.name);
        execute format('grant execute on function %s to parcelwatch_reader, parcelwatch_inspector', made.name);
    end loop;
end
$$;
alter function parcelwatch_access.my_regions owner to parcelwatch_contract;
revoke execute on function parcelwatch_access.may_see from public;
grant execute on function parcelwatch_access.may_see to parcelwatch_contract;
revoke create on schema parcelwatch from parcelwatch_contract;
grant usage on schema parcelwatch to parcelwatch_reader, parcelwatch_inspector;
-- How many parcels of all regions a scene showed is nothing that an inspector sees.
revoke select on parcelwatch.scenes from parcelwatch_inspector;
