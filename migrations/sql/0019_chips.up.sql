-- Small pictures of parcels, cut from scenes: what an inspector sees of an alert.

-- Append-only but for retention, which takes the picture and leaves its row. A picture that differs from one of the same scene and
-- revision (another outline) is a further row: nothing is replaced, the newest counts.
create table chips (
    chip_key bigint generated always as identity primary key,
    parcel_key bigint not null references parcels,
    scene_key bigint not null references scenes,
    revision smallint not null, -- of the parcel's observation from this scene
    composite text not null check (composite in ('true_colour', 'false_colour', 'radar')),
    observed_at timestamptz not null,
    recorded_at timestamptz not null,
    cut_for text not null check (cut_for in ('alert', 'sample', 'request')),
    image bytea check (octet_length(image) <= 131072), -- PNG
    sha256 bytea check (octet_length(sha256) = 32),
    missing text, -- why there is none
    removed_at timestamptz,
    crs text, left_m double precision, top_m double precision, pixel_m real, width smallint, height smallint,
    bar_m integer, -- length of the bar that is drawn
    stretch text,
    check ((sha256 is null) = (missing is not null)),
    check ((image is null) = (missing is not null or removed_at is not null)),
    unique nulls not distinct (parcel_key, scene_key, revision, composite, sha256)
);
create index chips_scene on chips (scene_key);
comment on table chips is 'Pictures of parcels cut from scenes (PNG), or why there is none; retention takes the picture and leaves the row.';

-- A plain list: whoever samples parcels enters them, and takes them out again.
create table chip_parcels (
    parcel_key bigint primary key references parcels,
    recorded_at timestamptz not null
);
comment on table chip_parcels is 'Parcels that every scene is to have a picture of, beside those with an alert that is not closed: a sample.';

create table chip_pairs (
    alert_key bigint primary key references alerts,
    recorded_at timestamptz not null
);
comment on table chip_pairs is 'Alerts of which workers tried to cut pictures from before and after the departure, out of earlier scenes.';
