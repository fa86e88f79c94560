-- When something became known, such that "as known at T" never changes afterwards. Why: docs/decisions/0010-recording.md.

-- One row: whose clock gives `recorded_at`. 'database' always, but in a replay, whose one process moves a clock of its own.
create table recording (clock text not null check (clock in ('database', 'caller')));
create unique index recording_is_one_row on recording ((true));
insert into recording values ('database');

-- The newest recorded_at given out, in microseconds since 1970: a sequence, because it must not wait for anybody's commit.
create sequence recording_high_water minvalue 0 start 0;

create function recording_begins(caller_time timestamptz, n integer default 1)
returns timestamptz language plpgsql volatile as $$
declare
    first bigint;
begin
    -- Held to the end of the transaction: who asks as known at a later time waits for it (`settled`).
    perform pg_advisory_xact_lock(20531, pg_backend_pid());
    if (select clock from recording) = 'caller' then
        return caller_time;
    end if;
    perform pg_advisory_lock(20532, 0);
    begin
        -- Read after the lock above: whoever did not see that lock has asked as known at an earlier time than this.
        -- Above the high water: a clock that was set back, or another machine's after a failover, gives no earlier time.
        first := greatest(extract(epoch from clock_timestamp()) * 1000000, (select last_value + 1 from recording_high_water));
        perform setval('recording_high_water', first + n - 1);
        perform pg_advisory_unlock(20532, 0);
    exception when query_canceled or others then
        perform pg_advisory_unlock(20532, 0);
        raise;
    end;
    return 'epoch'::timestamptz + (first + n - 1) * interval '1 microsecond';
end
$$;
comment on function recording_begins is
    'Gives the recorded_at of what this transaction is about to write, by the database''s clock and later than any given before; the last of n consecutive microseconds.';

create function settled(as_known_at timestamptz)
returns timestamptz language plpgsql volatile as $$
declare
    writing text[];
    patience constant timestamptz := clock_timestamp() + interval '60 seconds';
begin
    if as_known_at is null or as_known_at = 'infinity' then
        return as_known_at;
    end if;
    select array_agg(virtualtransaction) into writing
    from pg_locks left join pg_stat_activity activity using (pid)
    where locktype = 'advisory' and classid = 20531 and objsubid = 2 and granted and pid <> pg_backend_pid()
      and pg_locks.database = (select oid from pg_database where datname = current_database())
      -- A transaction records at a time after its start, so one that began later does not matter. Unknown: it may.
      and (coalesce(xact_start, '-infinity') <= as_known_at or (select clock from recording) = 'caller');
    if writing is null then
        return as_known_at;
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'what is known at % is still being written, and a % transaction will not see it', as_known_at,
            current_setting('transaction_isolation') using errcode = 'object_not_in_prerequisite_state',
            hint = 'Call settled() before the transaction begins, or use read committed.';
    end if;
    while exists (select from pg_locks where locktype = 'advisory' and classid = 20531 and virtualtransaction = any(writing)) loop
        if clock_timestamp() > patience then
            raise exception 'what is known at % is still being written', as_known_at using errcode = 'lock_not_available',
                hint = 'An import or a large batch is in progress: ask again later, or as known at an earlier time.';
        end if;
        perform pg_sleep(0.005);
    end loop;
    return as_known_at;
end
$$;
comment on function settled is
    'Waits until everything that can still be recorded by a time is committed, and returns the time: an answer as known at it then never changes.';

-- What is current, and what was known at a time: one query with another time. `..._recorded_by` takes a time that is settled.
-- In plpgsql `..._known` waits first and then sees, with a new snapshot, what it has waited for; a function in SQL would not.

create function s2_recorded_by(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s2_observations language sql stable parallel safe rows 80 as $$
    select * from (
        select distinct on (observed_at, relative_orbit) *
        from s2_observations
        where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and recorded_at <= at
        order by observed_at, relative_orbit, revision desc
    ) newest where not is_withdrawn
$$;
create function s1_recorded_by(parcel bigint, from_ timestamptz, to_ timestamptz, at timestamptz)
returns setof s1_observations language sql stable parallel safe rows 80 as $$
    select * from (
        select distinct on (observed_at, relative_orbit) *
        from s1_observations
        where parcel_key = parcel and observed_at >= from_ and observed_at < to_ and recorded_at <= at
        order by observed_at, relative_orbit, revision desc
    ) newest where not is_withdrawn
$$;
create function ndvi_recorded_by(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select distinct on (day) *
    from ndvi_daily
    where parcel_key = parcel and day >= from_ and day < to_ and recorded_at <= at
    order by day, recorded_at desc, mode desc
$$;
create function declaration_recorded_by(parcel bigint, at timestamptz)
returns setof declarations language sql stable parallel safe rows 1 as $$
    select * from declarations where parcel_key = parcel and recorded_at <= at order by recorded_at desc limit 1
$$;

comment on function s2_recorded_by is 'Sentinel-2 observations as known at a time that is settled; in other respects s2_known.';
comment on function s1_recorded_by is 'Sentinel-1 observations as known at a time that is settled; in other respects s1_known.';
comment on function ndvi_recorded_by is 'Daily NDVI as known at a time that is settled; in other respects ndvi_known.';
comment on function declaration_recorded_by is 'The declaration as known at a time that is settled; in other respects declaration_known.';

drop view open_alerts, latest_posteriors;
drop function s2_known, s1_known, ndvi_known, declaration_known;

create function s2_known(parcel bigint, from_ timestamptz, to_ timestamptz)
returns setof s2_observations language sql stable parallel safe rows 80 as $$
    select * from s2_recorded_by(parcel, from_, to_, 'infinity')
$$;
create function s1_known(parcel bigint, from_ timestamptz, to_ timestamptz)
returns setof s1_observations language sql stable parallel safe rows 80 as $$
    select * from s1_recorded_by(parcel, from_, to_, 'infinity')
$$;
create function ndvi_known(parcel bigint, from_ date, to_ date)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select * from ndvi_recorded_by(parcel, from_, to_, 'infinity')
$$;
create function declaration_known(parcel bigint)
returns setof declarations language sql stable parallel safe rows 1 as $$
    select * from declarations where parcel_key = parcel order by recorded_at desc limit 1
$$;

create function s2_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s2_observations language plpgsql volatile rows 80 set plan_cache_mode = force_custom_plan as $$
begin
    perform settled(as_known_at);
    return query select * from s2_recorded_by(parcel, from_, to_, as_known_at);
end
$$;
create function s1_known(parcel bigint, from_ timestamptz, to_ timestamptz, as_known_at timestamptz)
returns setof s1_observations language plpgsql volatile rows 80 set plan_cache_mode = force_custom_plan as $$
begin
    perform settled(as_known_at);
    return query select * from s1_recorded_by(parcel, from_, to_, as_known_at);
end
$$;
create function ndvi_known(parcel bigint, from_ date, to_ date, as_known_at timestamptz)
returns setof ndvi_daily language plpgsql volatile rows 300 set plan_cache_mode = force_custom_plan as $$
begin
    perform settled(as_known_at);
    return query select * from ndvi_recorded_by(parcel, from_, to_, as_known_at);
end
$$;

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

create function declaration_known(parcel bigint, as_known_at timestamptz)
returns setof declarations language plpgsql volatile rows 1 as $$
begin
    perform settled(as_known_at);
    return query select * from declaration_recorded_by(parcel, as_known_at);
end
$$;
comment on view latest_posteriors is
    'One row per parcel: the newest crop posterior, its most likely class, how many observations it has seen, beside the declaration.';
comment on view open_alerts is 'Alerts not closed yet, with the evidence of their last change.';
comment on function s2_known(bigint, timestamptz, timestamptz, timestamptz) is
    'Sentinel-2 observations of a parcel in [from_, to_), newest revision recorded by as_known_at, withdrawn ones left out.';
comment on function s1_known(bigint, timestamptz, timestamptz, timestamptz) is
    'Sentinel-1 observations of a parcel in [from_, to_), newest revision recorded by as_known_at, withdrawn ones left out.';
comment on function ndvi_known(bigint, date, date, timestamptz) is
    'Daily NDVI of a parcel in [from_, to_) as the newest row recorded by as_known_at says; mode says whether later views informed it.';
comment on function declaration_known(bigint, timestamptz) is 'The declaration of a parcel in force as known at a time.';
comment on function s2_known(bigint, timestamptz, timestamptz) is 'Sentinel-2 observations of a parcel in [from_, to_) as known now.';
comment on function s1_known(bigint, timestamptz, timestamptz) is 'Sentinel-1 observations of a parcel in [from_, to_) as known now.';
comment on function ndvi_known(bigint, date, date) is 'Daily NDVI of a parcel in [from_, to_) as known now.';
comment on function declaration_known(bigint) is 'The declaration of a parcel in force as known now.';

drop function parcel_history;
create function parcel_history(
    parcel bigint, from_ timestamptz default '-infinity', to_ timestamptz default 'infinity',
    as_known_at timestamptz default 'infinity')
returns table (
    at timestamptz, kind text, recorded_at timestamptz, relative_orbit smallint, ndvi real, ndvi_sd real, origin text,
    vv_db real, vh_db real, crop text, probability real, detail jsonb)
language plpgsql volatile rows 500 set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
    perform settled(as_known_at);
    return query
    select observed_at, 's2', o.recorded_at, o.relative_orbit, o.ndvi, o.ndvi_sd, 'observed',
           null::real, null::real, null::text, null::real,
           jsonb_build_object('revision', revision, 'n_clear', n_clear, 'clear_fraction', clear_fraction, 'scene_key', scene_key)
    from s2_recorded_by(parcel, from_, to_, as_known_at) o
    union all
    select observed_at, 's1', o.recorded_at, o.relative_orbit, null, null, 'observed',
           (10 * log(nullif(greatest(vv, 0), 0)::numeric))::real, (10 * log(nullif(greatest(vh, 0), 0)::numeric))::real, null, null,
           jsonb_build_object('revision', revision, 'direction', direction, 'radiometry', radiometry, 'n_pixels', n_pixels,
                              'scene_key', scene_key)
    from s1_recorded_by(parcel, from_, to_, as_known_at) o
    union all
    select day::timestamp at time zone 'UTC', 'ndvi', n.recorded_at, null, n.ndvi, n.ndvi_sd, n.origin::text, null, null, null, null,
           jsonb_build_object('mode', mode, 'model_key', model_key)
    from ndvi_recorded_by(parcel, greatest(from_, '1900-01-01')::date, least(to_, '2200-01-01')::date, as_known_at) n
    union all
    select p.observed_to, 'posterior', p.recorded_at, null, null, null, null, null, null,
           config -> 'classes' ->> (best.nr - 1)::int, best.probability,
           jsonb_build_object('model_key', model_key, 'n_s2', n_s2, 'n_s1a', n_s1a, 'n_s1d', n_s1d, 'n_s1', n_s1,
                              'probabilities', to_jsonb(p.probabilities), 'classes', config -> 'classes')
    from posteriors p join models using (model_key)
    cross join lateral (
        select c.probability, nr from unnest(p.probabilities) with ordinality as c (probability, nr) order by c.probability desc limit 1
    ) best
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
comment on function parcel_history is
    'All that is known of a parcel between two times, as known at a third: kind is s1, s2, ndvi, posterior, declaration or alert.';

-- What has to be done of a parcel ---------------------------------------------------------------

-- Null: a new observation (sensor and key say which). Else what is to be made anew from what is stored, and nothing more.
alter table pending_work add column task text check (task in ('classifier', 'ndvi', 'rules'));
update pending_work set task = 'classifier' where sensor is null;
insert into pending_work (parcel_key, recorded_at, task) select parcel_key, recorded_at, 'ndvi' from pending_work where task = 'classifier';
alter table pending_work add constraint pending_work_says_what check ((task is null) = (sensor is not null));

-- People ask for a parcel by the agency's id alone.
create index parcels_source_id on parcels (source_id);

-- How many observations the progress of a season was computed from: it is due again when there are others.
alter table crop_progress add column n_observations bigint;
