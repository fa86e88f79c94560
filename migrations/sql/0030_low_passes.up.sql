-- Flooding by radar among neighbours: who was low at which pass, and with how many around.

create table low_passes (
    parcel_key bigint not null, -- of a claimed parcel; as of posteriors, no check a row
    day date not null,
    relative_orbit smallint not null,
    recorded_at timestamptz not null,
    is_low boolean not null,
    primary key (parcel_key, day, relative_orbit, recorded_at)
);
comment on table low_passes is
    'Sentinel-1 passes at which VV and VH of a parcel fell to what water returns, appended: of each parcel and pass the newest row counts; not low where an observation was revised or withdrawn since.';
create index low_passes_of_a_day on low_passes (day, relative_orbit);

create table low_neighbours (
    parcel_key bigint not null,
    day date not null,
    relative_orbit smallint not null,
    recorded_at timestamptz not null,
    n_seen smallint not null,
    n_low smallint not null,
    n_crops smallint not null,
    usual_share real not null,
    primary key (parcel_key, day, relative_orbit, recorded_at)
);
comment on table low_neighbours is
    'Low passes of parcels among low neighbours, appended: of each parcel and pass the newest row counts. Of the nearest parcels n_seen were seen, n_low of these low, of n_crops declared crops with its own; usual_share of the region''s parcels of its crop were low.';
create index low_neighbours_of_a_day on low_neighbours (day, relative_orbit);

create table moved_passes (
    season_key smallint not null,
    collection text not null,
    day date not null,
    relative_orbit smallint not null
);
comment on table moved_passes is 'Passes of which workers came to know something: their low neighbours are to be counted anew.';
