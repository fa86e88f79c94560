drop view daily_ndvi;
drop function ndvi_known(bigint, date, date), ndvi_known(bigint, date, date, timestamptz), ndvi_recorded_by;
alter view ndvi_daily rename to ndvi_days;

create table ndvi_daily (
    parcel_key bigint not null,
    day date not null,
    mode ndvi_mode not null,
    origin ndvi_origin not null,
    recorded_at timestamptz not null,
    ndvi real not null,
    ndvi_sd real not null,
    model_key integer,
    primary key (parcel_key, day, recorded_at, mode)
);
select create_hypertable('ndvi_daily', by_range('day', interval '28 days'), create_default_indexes => false);
insert into ndvi_daily table ndvi_days;
drop view ndvi_days;
drop table ndvi_months;

create function ndvi_recorded_by(parcel bigint, from_ date, to_ date, at timestamptz)
returns setof ndvi_daily language sql stable parallel safe rows 300 as $$
    select distinct on (day) *
    from ndvi_daily
    where parcel_key = parcel and day >= from_ and day < to_ and recorded_at <= at
    order by day, recorded_at desc, mode desc
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
select distinct on (parcel_key, day) parcel_key, day, ndvi, ndvi_sd, origin, mode, recorded_at, model_key
from ndvi_daily order by parcel_key, day, recorded_at desc, mode desc;
comment on view daily_ndvi is
    'One row per parcel and day: the newest NDVI with its standard deviation, origin (observed or reconstructed) and mode.';
