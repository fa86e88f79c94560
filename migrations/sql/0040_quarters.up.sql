-- A season of a parcel is planned and read in five chunks in place of fourteen: why, and when to go back, docs/decisions/0003-schema.md.
-- Chunks that exist stay as they are.
select set_chunk_time_interval('s2_observations', interval '91 days');
select set_chunk_time_interval('s1_observations', interval '91 days');
select set_chunk_time_interval('posteriors', interval '91 days');

-- `..._read` keep their plans: planning a season takes longer than reading it. A plan holds the chunks of the snapshot that it was made on,
-- and the server makes it anew when a chunk comes; but where the chunk is committed between that snapshot and the planning, its notice is
-- used up by a plan without it. So a connection remembers the chunks it has planned with, and looks at each call, on a snapshot no newer than
-- that of the reading: a plan lives only from one look to the next that finds other chunks.
create function follow_chunks()
returns void language plpgsql volatile set search_path = public, pg_temp as $$
declare
    chunks constant text := (
        select concat_ws(' ', count(*), max(id), sum(status), sum(compressed_chunk_id)) from _timescaledb_catalog.chunk);
begin
    if chunks is distinct from current_setting('parcelwatch.chunks', true) then
        discard plans;
        perform set_config('parcelwatch.chunks', chunks, false);
    end if;
end
$$;
comment on function follow_chunks is 'Drops the plans that this connection keeps where chunks are others than it has planned with.';

-- A chunk may be empty when its plan is made and full when it is used: no plan that reads all.
create or replace function s2_read(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s2_observations language plpgsql stable rows 80 set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
begin
    return query select * from s2_recorded_by(parcel, from_, to_, at);
end
$$;
create or replace function s1_read(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s1_observations language plpgsql stable rows 80 set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
begin
    return query select * from s1_recorded_by(parcel, from_, to_, at);
end
$$;
create or replace function ndvi_read(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language plpgsql stable rows 300 set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
begin
    return query select * from ndvi_recorded_by(parcel, from_, to_, at);
end
$$;
create or replace function parcel_history_read(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql stable rows 500 set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off as $$
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
    -- An acquisition is classified after it was made: the bound of `recorded_at` from below is for the chunks read.
    where p.parcel_key = parcel and p.observed_to >= from_ and p.observed_to < to_ and p.recorded_at >= from_ and p.recorded_at <= as_known_at
    union all
    select declared_at, 'declaration', d.recorded_at, null, null, null, null, null, null, crop_name, null,
           jsonb_build_object('crop_code', crop_code, 'hcat_code', hcat_code)
    from declarations d where parcel_key = parcel and d.recorded_at <= as_known_at
    union all
    select e.recorded_at, 'alert', e.recorded_at, null, null, null, null, null, null, null, e.confidence,
           jsonb_build_object('alert_key', a.alert_key, 'rule', rule, 'event', event, 'colour', e.colour) || e.evidence
    -- The parcel's alerts, then the events of each, whatever the tables held when the plan was made.
    from alerts a cross join lateral (select * from alert_events of_alert where of_alert.alert_key = a.alert_key offset 0) e
    where parcel_key = parcel and e.recorded_at >= from_ and e.recorded_at < to_ and e.recorded_at <= as_known_at
    order by 1, 2;
end
$$;
create or replace function s2_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s2_observations language plpgsql volatile rows 80 as $$
begin
    perform settled(as_known_at);
    perform follow_chunks();
    return query select * from s2_read(parcel, from_, to_, as_known_at);
end
$$;
create or replace function s1_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s1_observations language plpgsql volatile rows 80 as $$
begin
    perform settled(as_known_at);
    perform follow_chunks();
    return query select * from s1_read(parcel, from_, to_, as_known_at);
end
$$;
create or replace function ndvi_known(parcel bigint, from_ date, to_ date, as_known_at timestamptz)
returns setof ndvi_daily language plpgsql volatile rows 300 as $$
begin
    perform settled(as_known_at);
    perform follow_chunks();
    return query select * from ndvi_read(parcel, from_, to_, as_known_at);
end
$$;
create or replace function parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity',
    as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql volatile rows 500 as $$
begin
    perform settled(as_known_at);
    perform follow_chunks();
    return query select * from parcel_history_read(parcel, from_, to_, as_known_at);
end
$$;

create or replace function parcelwatch.parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity', as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql volatile security definer rows 500 set search_path = public, pg_temp as $$
begin
    if parcelwatch_access.may_see(parcel) then
        -- As parcel_history does: another function between the two would copy every row once more.
        perform settled(as_known_at);
        perform follow_chunks();
        return query select * from parcel_history_read(parcel, from_, to_, as_known_at);
    end if;
end
$$;
