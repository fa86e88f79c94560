-- A curve by parcel and month: 20 days that change are one row of 0.4 kB, not 20 rows of 0.2 kB with a key each.

drop view daily_ndvi;
drop function ndvi_known(bigint, date, date), ndvi_known(bigint, date, date, timestamptz), ndvi_recorded_by;
alter table ndvi_daily rename to ndvi_daily_before;

-- Append-only: a version holds all days of its month as known at recorded_at, and `changed` says which of them it changed. The
-- newest version is the curve. Day d is element d and bit d - 1; NaN where there is no day. Always 31, so that rows are of one width.
create table ndvi_months (
    parcel_key bigint not null,
    month date not null check (extract(day from month) = 1),
    recorded_at timestamptz not null,
    model_key integer,
    changed integer not null check (changed > 0),
    is_causal integer not null,
    is_observed integer not null,
    ndvi real[] not null check (cardinality(ndvi) = 31),
    ndvi_sd real[] not null check (cardinality(ndvi_sd) = 31),
    primary key (parcel_key, month, recorded_at)
);
-- Four chunks a season: a parcel's history is planned in a fraction of a millisecond.
select create_hypertable('ndvi_months', by_range('month', interval '91 days'), create_default_indexes => false);

insert into ndvi_months
with days as (
    select distinct on (parcel_key, day, recorded_at) parcel_key, day - extract(day from day)::int + 1 as month,
           extract(day from day)::int as nr, recorded_at, mode = 'causal' as causal, origin = 'observed' as observed, ndvi, ndvi_sd, model_key
    from ndvi_daily_before order by parcel_key, day, recorded_at, mode desc
), versions as (
    select parcel_key, month, recorded_at, max(model_key) as model_key, bit_or(1 << nr - 1) as changed
    from days group by parcel_key, month, recorded_at
), each as (  -- every day of every version, and how often it had changed by then: 0 where there is no such day yet
    select parcel_key, month, recorded_at, v.model_key, changed, nr, causal, observed, ndvi, ndvi_sd,
           count(ndvi) over (partition by parcel_key, month, nr order by recorded_at) as nth
    from versions v cross join generate_series(1, 31) nr left join days d using (parcel_key, month, recorded_at, nr)
), kept as (
    select parcel_key, month, recorded_at, each.model_key, changed, nr,
           bool_or(causal) over same as causal, bool_or(observed) over same as observed,
           max(ndvi) over same as ndvi, max(ndvi_sd) over same as ndvi_sd
    from each window same as (partition by parcel_key, month, nr, nth)
)
select parcel_key, month, recorded_at, max(model_key), max(changed),
       coalesce(bit_or(1 << nr - 1) filter (where causal), 0), coalesce(bit_or(1 << nr - 1) filter (where observed), 0),
       array_agg(coalesce(ndvi, 'NaN') order by nr), array_agg(coalesce(ndvi_sd, 'NaN') order by nr)
from kept group by parcel_key, month, recorded_at;
drop table ndvi_daily_before;

create view ndvi_daily as
select parcel_key, month + nr - 1 as day,
       case when is_causal >> nr - 1 & 1 = 1 then ndvi_mode 'causal' else 'retrospective' end as mode,
       case when is_observed >> nr - 1 & 1 = 1 then ndvi_origin 'observed' else 'reconstructed' end as origin,
       recorded_at, ndvi[nr] as ndvi, ndvi_sd[nr] as ndvi_sd, model_key
from ndvi_months cross join generate_series(1, 31) nr where changed >> nr - 1 & 1 = 1;
comment on view ndvi_daily is
    'One row per parcel and day for each time at which its NDVI became known anew; the newest is the curve. A view of ndvi_months.';

create function ndvi_recorded_by(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select parcel_key, month + nr - 1 as day,
           case when is_causal >> nr - 1 & 1 = 1 then ndvi_mode 'causal' else 'retrospective' end,
           case when is_observed >> nr - 1 & 1 = 1 then ndvi_origin 'observed' else 'reconstructed' end,
           recorded_at, ndvi[nr], ndvi_sd[nr], model_key
    from (
        -- The newest version is the curve; a day became known with the newest version that changed it.
        select *, changed & ~coalesce(bit_or(changed) over (
                   partition by month order by recorded_at desc rows between unbounded preceding and 1 preceding), 0) as newest
        from ndvi_months where parcel_key = parcel and month > from_ - 31 and month < to_ and recorded_at <= at
    ) version cross join generate_series(1, 31) nr
    where newest <> 0 and newest >> nr - 1 & 1 = 1 and month + nr - 1 >= from_ and month + nr - 1 < to_
    order by day
$$;
comment on function ndvi_recorded_by is 'Daily NDVI as known at a time that is settled; in other respects ndvi_known.';

create function ndvi_known(parcel bigint, from_ date, to_ date)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select * from ndvi_recorded_by(parcel, from_, to_, 'infinity')
$$;
create function ndvi_known(parcel bigint, from_ date, to_ date, as_known_at timestamptz)
returns setof ndvi_daily language plpgsql volatile rows 300 set plan_cache_mode = force_custom_plan as $$
begin
    perform settled(as_known_at);
    return query select * from ndvi_recorded_by(parcel, from_, to_, as_known_at);
end
$$;
comment on function ndvi_known(bigint, date, date, timestamptz) is
    'Daily NDVI of a parcel in [from_, to_) as the newest row recorded by as_known_at says; mode says whether later views informed it.';
comment on function ndvi_known(bigint, date, date) is 'Daily NDVI of a parcel in [from_, to_) as known now.';

create view daily_ndvi as
select parcels.parcel_key, day, ndvi, ndvi_sd, origin, mode, curve.recorded_at, model_key
from parcels cross join lateral ndvi_recorded_by(parcels.parcel_key, '-infinity', 'infinity', 'infinity') curve;
comment on view daily_ndvi is
    'One row per parcel and day: the newest NDVI with its standard deviation, origin (observed or reconstructed) and mode.';
