-- Measures in the order of `models.season_metrics.METRICS`, parameters in that of `models.double_logistic.PARAMETERS`; NaN where the
-- curve does not show one, null in rows of before and where no season was fitted.
alter table phenology
    add column is_complete boolean,
    add column measures real[],
    add column measures_sd real[],
    add column logistic real[],
    add column logistic_sd real[];
comment on column phenology.is_complete is 'Whether the season was over; while it runs, dates and measures are of the curve so far.';

create function phenology_recorded_by(parcel bigint, at timestamptz)
returns table (
    measure text, method text, value real, sd real, day date, unit text, status text, recorded_at timestamptz)
language sql stable parallel safe rows 20 as $$
    with newest as (
        select p.*, s.starts_on from phenology p join parcels using (parcel_key) join seasons s using (season_key)
        where p.parcel_key = parcel and p.recorded_at <= at order by p.recorded_at desc limit 1
    ), named (method, nr, measure, unit) as (values
        ('threshold', 1, 'sos', 'day'), ('threshold', 2, 'pos', 'day'), ('threshold', 3, 'eos', 'day'),
        ('threshold', 4, 'length', 'days'), ('threshold', 5, 'amplitude', 'NDVI'), ('threshold', 6, 'base_before', 'NDVI'),
        ('threshold', 7, 'base_after', 'NDVI'), ('threshold', 8, 'base', 'NDVI'),
        ('threshold', 9, 'large_integral', 'NDVI days'), ('threshold', 10, 'small_integral', 'NDVI days'),
        ('threshold', 11, 'greening_rate', 'NDVI a day'), ('threshold', 12, 'senescence_rate', 'NDVI a day'),
        ('threshold', 13, 'n_cycles', 'cycles'),
        ('logistic', 1, 'base_before', 'NDVI'), ('logistic', 2, 'base_after', 'NDVI'), ('logistic', 3, 'peak', 'NDVI'),
        ('logistic', 4, 'greening_day', 'day'), ('logistic', 5, 'greening_days', 'days'),
        ('logistic', 6, 'senescence_day', 'day'), ('logistic', 7, 'senescence_days', 'days')
    ), found as (
        select n.measure, n.method, nullif(v.value, 'NaN') as value, nullif(v.sd, 'NaN') as sd, n.unit, n.nr,
               newest.starts_on, newest.reason, newest.is_complete, newest.recorded_at
        from newest cross join named n
        cross join lateral (
            select case n.method when 'threshold' then measures[n.nr] else logistic[n.nr] end as value,
                   case n.method when 'threshold' then measures_sd[n.nr] else logistic_sd[n.nr] end as sd
        ) v
        where n.method = 'threshold' or logistic is not null
    )
    select measure, method, value, sd, case when unit = 'day' then starts_on + round(value)::int end, unit,
           case when value is not null then 'OK' when reason is not null then reason
                when is_complete is null then 'not measured: recorded by an earlier version'
                when not is_complete then 'not certain yet: the season runs' else 'the curve does not show it' end,
           recorded_at
    from found order by method desc, nr
$$;
comment on function phenology_recorded_by is 'Phenology as known at a time that is settled; in other respects phenology_known.';

create function phenology_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns table (
    measure text, method text, value real, sd real, day date, unit text, status text, recorded_at timestamptz)
language plpgsql volatile rows 20 as $$
begin
    perform settled(as_known_at);
    return query select * from phenology_recorded_by(parcel, as_known_at);
end
$$;
comment on function phenology_known is
    'Measures of a parcel''s season as known at a time, each with its standard deviation and a status (OK, or why there is none); value counts days from the season''s first, day is its date.';
