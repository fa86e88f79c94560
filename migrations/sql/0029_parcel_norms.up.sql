-- What a parcel of grassland or of a permanent crop looked like in past seasons, found once a season: what this season is compared with.

create table parcel_norms (
    parcel_key bigint primary key references parcels on delete cascade,
    recorded_at timestamptz not null,
    crop_group text not null,
    n_seasons smallint not null,
    middle_ndvi real[] not null,
    sd_ndvi real[] not null
);
comment on table parcel_norms is
    'By dekad of the season: median and robust standard deviation of NDVI on the same ground in past seasons under the same crop group (HCAT, four digits); NaN where too little was seen.';
