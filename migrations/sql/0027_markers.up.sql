-- What happened on a field: narrow rows, appended where a marker says something else than before.

create table markers (
    parcel_key bigint not null, -- of a claimed parcel; as of posteriors, no check a row
    marker text not null,
    recorded_at timestamptz not null,
    version text not null,
    status outcome not null,
    value real,
    day date,
    confidence real,
    evidence jsonb not null,
    primary key (parcel_key, marker, recorded_at),
    check (status = 'OK' or (value is null and day is null and confidence is null))
);
comment on table markers is
    'What markers say of parcels, appended: of each parcel and marker the newest row counts; value is in the marker''s own unit, day when it most likely happened.';

create function markers_recorded_by(parcel bigint, at timestamptz)
returns table (
    marker text, status text, value real, day date, confidence real, evidence jsonb, version text, recorded_at timestamptz)
language sql stable parallel safe rows 5 as $$
    select distinct on (m.marker) m.marker, m.status::text, m.value, m.day, m.confidence, m.evidence, m.version, m.recorded_at
    from markers m where m.parcel_key = parcel and m.recorded_at <= at order by m.marker, m.recorded_at desc
$$;
comment on function markers_recorded_by is 'Markers as known at a time that is settled; in other respects markers_known.';

create function markers_known(parcel bigint, as_known_at timestamptz default 'infinity')
returns table (
    marker text, status text, value real, day date, confidence real, evidence jsonb, version text, recorded_at timestamptz)
language plpgsql volatile rows 5 as $$
begin
    perform settled(as_known_at);
    return query select * from markers_recorded_by(parcel, as_known_at);
end
$$;
comment on function markers_known is
    'What each marker says of a parcel as known at a time: status, value, most likely day, confidence and evidence.';

create view latest_markers as
select parcels.parcel_key, collection, season_key, source_id, newest.marker, newest.status, newest.value, newest.day,
       newest.confidence, newest.evidence, newest.recorded_at
from parcels cross join lateral (
    select distinct on (marker) * from markers where markers.parcel_key = parcels.parcel_key
    order by marker, recorded_at desc
) newest;
comment on view latest_markers is 'One row per parcel and marker: what the marker says now, and what that rests on.';
