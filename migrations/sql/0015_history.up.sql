-- A parcel's history costs what its rows do; the parcels seen on some days are found without reading the other days of their chunk.

-- Rows come in order of time: those of a day lie together, and a range of pages says which days it holds.
create index s2_observations_observed on s2_observations using brin (observed_at) with (pages_per_range = 32, autosummarize = on);
-- A parcel's alerts, closed ones too.
create index alerts_parcel on alerts (parcel_key);

create or replace function ndvi_recorded_by(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select parcel_key, month + nr - 1 as day,
           case when is_causal >> nr - 1 & 1 = 1 then ndvi_mode 'causal' else 'retrospective' end,
           case when is_observed >> nr - 1 & 1 = 1 then ndvi_origin 'observed' else 'reconstructed' end,
           recorded_at, ndvi[nr], ndvi_sd[nr], model_key
    from (
        -- The newest version is the curve; a day became known with the newest version that changed it.
        select *, changed & ~coalesce(bit_or(changed) over (
                   partition by month order by recorded_at desc rows between unbounded preceding and 1 preceding), 0)
               -- Of the days asked for: from `from_` on and not from `to_` on.
               & (-1 << greatest(from_, month) - month) & ~(-1 << least(to_, month + 31) - month) as newest
        from ndvi_months where parcel_key = parcel and month > from_ - 31 and month < to_ and recorded_at <= at
    ) version cross join generate_series(1, 31) nr
    where newest <> 0 and newest >> nr - 1 & 1 = 1
    order by day
$$;

-- `..._known` waits for what is being written and then calls `..._read`. In one function the statement would be planned on the snapshot
-- from before the wait: a chunk that was committed meanwhile would be missing from the plan, and of a plan that is kept, from every
-- answer of the connection until the next chunk comes. So plans are made at each call, on the snapshot that is read.

create function s2_read(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s2_observations language plpgsql stable rows 80 set plan_cache_mode = force_custom_plan as $$
begin
    return query select * from s2_recorded_by(parcel, from_, to_, at);
end
$$;
comment on function s2_read is 's2_recorded_by, planned on the snapshot that it reads.';
create or replace function s2_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s2_observations language plpgsql volatile rows 80 as $$
begin
    perform settled(as_known_at);
    return query select * from s2_read(parcel, from_, to_, as_known_at);
end
$$;
create function s1_read(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s1_observations language plpgsql stable rows 80 set plan_cache_mode = force_custom_plan as $$
begin
    return query select * from s1_recorded_by(parcel, from_, to_, at);
end
$$;
comment on function s1_read is 's1_recorded_by, planned on the snapshot that it reads.';
create or replace function s1_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s1_observations language plpgsql volatile rows 80 as $$
begin
    perform settled(as_known_at);
    return query select * from s1_read(parcel, from_, to_, as_known_at);
end
$$;
create function ndvi_read(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language plpgsql stable rows 300 set plan_cache_mode = force_custom_plan as $$
begin
    return query select * from ndvi_recorded_by(parcel, from_, to_, at);
end
$$;
comment on function ndvi_read is 'ndvi_recorded_by, planned on the snapshot that it reads.';
create or replace function ndvi_known(parcel bigint, from_ date, to_ date, as_known_at timestamptz)
returns setof ndvi_daily language plpgsql volatile rows 300 as $$
begin
    perform settled(as_known_at);
    return query select * from ndvi_read(parcel, from_, to_, as_known_at);
end
$$;

create function parcel_history_read(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql stable rows 500 set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    from_day constant date := greatest(from_, '1900-01-01');
    to_day constant date := least(to_, '2200-01-01');
begin
    return query
    select observed_at, 's2', o.recorded_at, o.relative_orbit, o.ndvi, o.ndvi_sd, 'observed',
           null::real, null::real, null::text, null::real,
           jsonb_build_object('revision', revision, 'n_clear', n_clear, 'clear_fraction', clear_fraction, 'scene_key', scene_key)
    from s2_recorded_by(parcel, from_, to_, as_known_at) o
    union all
    select observed_at, 's1', o.recorded_at, o.relative_orbit, null, null, 'observed',
           (10 * log(nullif(greatest(vv, 0), 0)))::real, (10 * log(nullif(greatest(vh, 0), 0)))::real, null, null,
           jsonb_build_object('revision', revision, 'direction', direction, 'radiometry', radiometry, 'n_pixels', n_pixels,
                              'scene_key', scene_key)
    from s1_recorded_by(parcel, from_, to_, as_known_at) o
    union all
    select day::timestamp at time zone 'UTC', 'ndvi', n.recorded_at, null, n.ndvi, n.ndvi_sd, n.origin::text, null, null, null, null,
           jsonb_build_object('mode', mode, 'model_key', model_key)
    from ndvi_recorded_by(parcel, from_day, to_day, as_known_at) n
    union all
    select p.observed_to, 'posterior', p.recorded_at, null, null, null, null, null, null,
           classes ->> (array_position(p.probabilities, best) - 1), best,
           jsonb_build_object('model_key', model_key, 'n_s2', n_s2, 'n_s1a', n_s1a, 'n_s1d', n_s1d, 'n_s1', n_s1,
                              'probabilities', to_jsonb(p.probabilities), 'classes', classes)
    from posteriors p
    -- Once for each model: a configuration is stored compressed.
    join (select model_key, config -> 'classes' as classes from models offset 0) m using (model_key)
    cross join lateral (select max(each) as best from unnest(p.probabilities) each) most_likely
    where p.parcel_key = parcel and p.observed_to >= from_ and p.observed_to < to_ and p.recorded_at <= as_known_at
    union all
    select declared_at, 'declaration', d.recorded_at, null, null, null, null, null, null, crop_name, null,
           jsonb_build_object('crop_code', crop_code, 'hcat_code', hcat_code)
    from declarations d where parcel_key = parcel and d.recorded_at <= as_known_at
    union all
    select e.recorded_at, 'alert', e.recorded_at, null, null, null, null, null, null, null, e.confidence,
           jsonb_build_object('alert_key', alert_key, 'rule', rule, 'event', event, 'colour', e.colour) || e.evidence
    from alerts join alert_events e using (alert_key)
    where parcel_key = parcel and e.recorded_at >= from_ and e.recorded_at < to_ and e.recorded_at <= as_known_at
    order by 1, 2;
end
$$;
comment on function parcel_history_read is 'parcel_history as known at a time that is settled, planned on the snapshot that it reads.';
create or replace function parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity',
    as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql volatile rows 500 as $$
begin
    perform settled(as_known_at);
    return query select * from parcel_history_read(parcel, from_, to_, as_known_at);
end
$$;

-- Decibels in floating point: a logarithm of a numeric takes 10 us, and a real made one keeps six digits.
create or replace function parcel_history_available(
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
           (10 * log(nullif(greatest(vv, 0), 0)))::real, (10 * log(nullif(greatest(vh, 0), 0)))::real, null, null,
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
