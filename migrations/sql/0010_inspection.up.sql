-- What inspectors and analysts ask: alerts as known at a time, their outlines, who decided on them; what could be had at a time.

create or replace view latest_posteriors as
select parcels.parcel_key, collection, season_key, source_id, declared.crop_name as declared_crop,
       classes.crop as most_likely_crop, classes.probability, newest.observed_to, newest.recorded_at,
       newest.n_s2, newest.n_s1a, newest.n_s1d, newest.n_s1, newest.model_key, newest.probabilities,
       known.class is not null as knows_declared_crop, known.class as declared_class,
       newest.probabilities[known.nr] as probability_of_declared
from parcels
cross join lateral (
    select * from posteriors where posteriors.parcel_key = parcels.parcel_key
    order by posteriors.recorded_at desc, model_key desc limit 1
) newest
join models using (model_key)
cross join lateral (
    select config -> 'classes' ->> (nr - 1)::int as crop, probability
    from unnest(newest.probabilities) with ordinality as p (probability, nr) order by probability desc limit 1
) classes
left join lateral declaration_known(parcels.parcel_key) declared on true
left join lateral (
    -- A class may stand for several agency codes: the model says which.
    select class, nr from jsonb_array_elements_text(config -> 'classes') with ordinality as c (class, nr)
    where class = trained_on -> 'class_of' ->> declared.crop_code
) known on true;
comment on view latest_posteriors is
    'One row per parcel: the newest crop posterior, its most likely class, how many observations it has seen, beside the declaration; knows_declared_crop says whether the model has a class for what is declared, else the two cannot be compared.';

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

create or replace view open_alerts as
select * from alerts_recorded_by('infinity') where closed_at is null;
comment on view open_alerts is 'Alerts not closed yet, with the evidence of their last change, the last decision on them, area and outline.';

create function parcel_history_available(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity',
    as_available_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language sql stable parallel safe rows 200 as $$
    select observed_at, 's2', recorded_at, relative_orbit, ndvi, ndvi_sd, 'observed',
           null::real, null::real, null::text, null::real,
           jsonb_build_object('revision', revision, 'n_clear', n_clear, 'clear_fraction', clear_fraction, 'scene_key', scene_key,
                              'available_at', available_at)
    from (select distinct on (observed_at, relative_orbit) * from s2_observations
          where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and available_at <= as_available_at
          order by observed_at, relative_orbit, revision desc) s2 where not is_withdrawn
    union all
    select observed_at, 's1', recorded_at, relative_orbit, null, null, 'observed',
           (10 * log(nullif(greatest(vv, 0), 0)::numeric))::real, (10 * log(nullif(greatest(vh, 0), 0)::numeric))::real, null, null,
           jsonb_build_object('revision', revision, 'direction', direction, 'radiometry', radiometry, 'n_pixels', n_pixels,
                              'scene_key', scene_key, 'available_at', available_at)
    from (select distinct on (observed_at, relative_orbit) * from s1_observations
          where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and available_at <= as_available_at
          order by observed_at, relative_orbit, revision desc) s1 where not is_withdrawn
    union all
    select declared_at, 'declaration', recorded_at, null, null, null, null, null, null, crop_name, null,
           jsonb_build_object('crop_code', crop_code, 'hcat_code', hcat_code)
    from declarations where parcel_key = parcel and declared_at <= as_available_at
    order by 1, 2
$$;
comment on function parcel_history_available is
    'The observations of a parcel whose products could be had by a time, and what was declared by then, whenever they were stored: for archives loaded afterwards. What models and rules said is not in it: see parcel_history.';

drop function parcel_key_of(text, text, text);
create function parcel_key_of(collection_ text, season_ text, source_id_ text, missing_ok boolean default false)
returns bigint language plpgsql stable parallel safe as $$
declare
    found_key bigint;
    stored text;
begin
    select parcel_key into found_key from parcels join seasons using (season_key)
    where collection = collection_ and seasons.name = season_ and source_id = source_id_;
    if found_key is null and not missing_ok then
        select string_agg(format('%s / %s', collection, name), ', ' order by name desc, collection) into stored
        from (select distinct collection, name from parcels join seasons using (season_key)) s;
        raise exception 'no parcel % in collection %, season %', quote_nullable(source_id_), quote_nullable(collection_), quote_nullable(season_)
            using errcode = 'no_data_found', hint = coalesce('Stored (collection / season): ' || stored, 'No parcel is stored.');
    end if;
    return found_key;
end
$$;
comment on function parcel_key_of is
    'The key of a parcel from its collection, season and the agency''s own id; an error where there is none, or null with missing_ok => true.';
