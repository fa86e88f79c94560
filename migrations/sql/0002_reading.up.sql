-- Superseded by 0006_recording.up.sql and later ones, which define nearly all of this anew: docs/sql.md names the file that counts.

-- What analysts read. "Current" and "as known at T" are one query with another T: the newest row recorded by then.

create function s2_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz default 'infinity')
returns setof s2_observations language sql stable parallel safe rows 80 as $$
    select * from (
        select distinct on (observed_at, relative_orbit) *
        from s2_observations
        where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and recorded_at <= as_known_at
        order by observed_at, relative_orbit, revision desc
    ) newest where not is_withdrawn
$$;
comment on function s2_known is
    'Sentinel-2 observations of a parcel in [from_, to_), newest revision recorded by as_known_at, withdrawn ones left out.';

create function s1_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz default 'infinity')
returns setof s1_observations language sql stable parallel safe rows 80 as $$
    select * from (
        select distinct on (observed_at, relative_orbit) *
        from s1_observations
        where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and recorded_at <= as_known_at
        order by observed_at, relative_orbit, revision desc
    ) newest where not is_withdrawn
$$;
comment on function s1_known is
    'Sentinel-1 observations of a parcel in [from_, to_), newest revision recorded by as_known_at, withdrawn ones left out.';

create function ndvi_known(parcel bigint, from_ date, to_ date, as_known_at timestamptz default 'infinity')
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select distinct on (day) *
    from ndvi_daily
    where parcel_key = parcel and day >= from_ and day < to_ and recorded_at <= as_known_at
    order by day, recorded_at desc, mode desc
$$;
comment on function ndvi_known is
    'Daily NDVI of a parcel in [from_, to_) as the newest row recorded by as_known_at says; mode tells whether later views informed it.';

create function declaration_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns setof declarations language sql stable parallel safe rows 1 as $$
    select * from declarations where parcel_key = parcel and recorded_at <= as_known_at order by recorded_at desc limit 1
$$;
comment on function declaration_known is 'The declaration of a parcel in force as known at a time.';

create function parcel_key_of(collection_ text, season_ text, source_id_ text)
returns bigint language sql stable parallel safe as $$
    select parcel_key from parcels join seasons using (season_key)
    where collection = collection_ and seasons.name = season_ and source_id = source_id_
$$;
comment on function parcel_key_of is 'The key of a parcel from its collection, season and the agency''s own id.';

create view latest_posteriors as
select parcels.parcel_key, collection, season_key, source_id, declared.crop_name as declared_crop,
       classes.crop as most_likely_crop, classes.probability, newest.observed_to, newest.recorded_at,
       newest.n_s2, newest.n_s1a, newest.n_s1d, newest.n_s1, newest.model_key, newest.probabilities
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
left join lateral declaration_known(parcels.parcel_key) declared on true;
comment on view latest_posteriors is
    'One row per parcel: the newest crop posterior, its most likely class, how many observations it has seen, beside the declaration.';

create view daily_ndvi as
select distinct on (parcel_key, day) parcel_key, day, ndvi, ndvi_sd, origin, mode, recorded_at, model_key
from ndvi_daily order by parcel_key, day, recorded_at desc, mode desc;
comment on view daily_ndvi is
    'One row per parcel and day: the newest NDVI with its standard deviation, origin (observed or reconstructed) and mode.';

create view open_alerts as
select alert_key, parcels.parcel_key, collection, seasons.name as season, source_id, regions.code as region, declared.crop_name as declared_crop,
       rule, state, colour, confidence, departed_on, opened_at, confirmed_at, newest.evidence
from alerts
join parcels using (parcel_key) join seasons using (season_key) join regions using (region_key)
left join lateral declaration_known(parcels.parcel_key) declared on true
cross join lateral (
    select evidence from alert_events where alert_events.alert_key = alerts.alert_key order by recorded_at desc, event desc limit 1
) newest
where closed_at is null;
comment on view open_alerts is 'Alerts not closed yet, with the evidence of their last change.';

create function parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity',
    as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language sql stable parallel safe rows 500 as $$
    select observed_at, 's2', recorded_at, relative_orbit, ndvi, ndvi_sd, 'observed',
           null::real, null::real, null::text, null::real,
           jsonb_build_object('revision', revision, 'n_clear', n_clear, 'clear_fraction', clear_fraction, 'scene_key', scene_key)
    from s2_known(parcel, from_, to_, as_known_at)
    union all
    select observed_at, 's1', recorded_at, relative_orbit, null, null, 'observed',
           (10 * log(nullif(greatest(vv, 0), 0)::numeric))::real, (10 * log(nullif(greatest(vh, 0), 0)::numeric))::real, null, null,
           jsonb_build_object('revision', revision, 'direction', direction, 'radiometry', radiometry, 'n_pixels', n_pixels,
                              'scene_key', scene_key)
    from s1_known(parcel, from_, to_, as_known_at)
    union all
    select day::timestamp at time zone 'UTC', 'ndvi', recorded_at, null, ndvi, ndvi_sd, origin::text, null, null, null, null,
           jsonb_build_object('mode', mode, 'model_key', model_key)
    from ndvi_known(parcel, greatest(from_, '1900-01-01')::date, least(to_, '2200-01-01')::date, as_known_at)
    union all
    select p.observed_to, 'posterior', p.recorded_at, null, null, null, null, null, null,
           config -> 'classes' ->> (best.nr - 1)::int, best.probability,
           jsonb_build_object('model_key', model_key, 'n_s2', n_s2, 'n_s1a', n_s1a, 'n_s1d', n_s1d, 'n_s1', n_s1,
                              'probabilities', to_jsonb(p.probabilities), 'classes', config -> 'classes')
    from posteriors p join models using (model_key)
    cross join lateral (
        select probability, nr from unnest(p.probabilities) with ordinality as c (probability, nr) order by probability desc limit 1
    ) best
    where p.parcel_key = parcel and p.observed_to >= from_ and p.observed_to < to_ and p.recorded_at <= as_known_at
    union all
    select declared_at, 'declaration', recorded_at, null, null, null, null, null, null, crop_name, null,
           jsonb_build_object('crop_code', crop_code, 'hcat_code', hcat_code)
    from declarations where parcel_key = parcel and recorded_at <= as_known_at
    union all
    select e.recorded_at, 'alert', e.recorded_at, null, null, null, null, null, null, null, e.confidence,
           jsonb_build_object('alert_key', alert_key, 'rule', rule, 'event', event, 'colour', e.colour) || e.evidence
    from alerts join alert_events e using (alert_key)
    where parcel_key = parcel and e.recorded_at >= from_ and e.recorded_at < to_ and e.recorded_at <= as_known_at
    order by 1, 2
$$;
comment on function parcel_history is
    'All that is known of a parcel between two times, as known at a third: kind is s1, s2, ndvi, posterior, declaration or alert.';
