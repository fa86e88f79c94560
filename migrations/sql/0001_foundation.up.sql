-- The whole store. Why each key, chunk interval and index is as it is: docs/decisions/0003-schema.md.
create extension if not exists timescaledb;
create extension if not exists postgis;

create type sensor as enum ('S1', 'S2');
create type orbit_direction as enum ('ascending', 'descending', 'mixed');
create type radiometry as enum ('sigma0', 'gamma0');
create type ndvi_mode as enum ('causal', 'retrospective');
create type ndvi_origin as enum ('observed', 'reconstructed');
create type outcome as enum ('NOT_EXECUTED', 'NOT_VALID', 'OK');
create type colour as enum ('green', 'yellow', 'red');
create type alert_state as enum ('open', 'acknowledged', 'dismissed', 'closed');

-- What is watched ------------------------------------------------------------------------------

create table regions (
    region_key smallint generated always as identity primary key,
    code text not null unique
);

create table seasons (
    season_key smallint generated always as identity primary key,
    name text not null unique,
    starts_on date not null,
    ends_on date not null,
    check (ends_on > starts_on)
);

create table parcels (
    parcel_key bigint generated always as identity primary key,
    collection text not null,
    season_key smallint not null references seasons,
    source_id text not null,
    region_key smallint not null references regions,
    geom geometry(MultiPolygon, 4326),
    area_ha real,
    perimeter_m real,
    bbox_fill real,
    not_monitorable_reason text,
    recorded_at timestamptz not null,
    unique (collection, season_key, source_id)
);
create index parcels_geom on parcels using gist (geom);
create index parcels_season on parcels (season_key, region_key);

create table declarations (
    parcel_key bigint not null references parcels,
    recorded_at timestamptz not null,
    declared_at timestamptz not null,
    crop_code text not null,
    crop_name text not null,
    hcat_code text,
    primary key (parcel_key, recorded_at)
);

create table parcel_lineage (
    parcel_key bigint not null references parcels,
    predecessor_key bigint not null references parcels,
    area_share real not null check (area_share > 0),
    primary key (parcel_key, predecessor_key)
);

-- What was seen --------------------------------------------------------------------------------

create table scenes (
    scene_key bigint generated always as identity primary key,
    scene_id text not null unique,
    sensor sensor not null,
    platform text not null,
    relative_orbit smallint not null,
    observed_at timestamptz not null,
    available_at timestamptz not null,
    recorded_at timestamptz not null
);
create index scenes_observed on scenes (observed_at);

create table scene_ledger (
    scene_key bigint not null references scenes,
    outcome text not null,
    parcels bigint not null,
    primary key (scene_key, outcome)
);

create table s2_observations (
    parcel_key bigint not null,
    observed_at timestamptz not null,
    relative_orbit smallint not null,
    revision smallint not null,
    is_withdrawn boolean not null,
    n_clear integer not null,
    available_at timestamptz not null,
    recorded_at timestamptz not null,
    scene_key bigint not null,
    clear_fraction real,
    ndvi real, ndvi_sd real, nbr2 real, bsi real, s2wi real,
    b02 real, b03 real, b04 real, b05 real, b06 real, b07 real, b08 real, b8a real, b11 real, b12 real,
    primary key (parcel_key, observed_at, relative_orbit, revision)
);
select create_hypertable('s2_observations', by_range('observed_at', interval '28 days'), create_default_indexes => false);

create table s1_observations (
    parcel_key bigint not null,
    observed_at timestamptz not null,
    relative_orbit smallint not null,
    revision smallint not null,
    is_withdrawn boolean not null,
    n_pixels integer not null,
    available_at timestamptz not null,
    recorded_at timestamptz not null,
    scene_key bigint not null,
    direction orbit_direction not null,
    radiometry radiometry not null,
    vv real, vh real, vv_sd real, vh_sd real,
    coherence_vv real, coherence_vh real,
    coherence_with timestamptz,
    primary key (parcel_key, observed_at, relative_orbit, revision)
);
select create_hypertable('s1_observations', by_range('observed_at', interval '28 days'), create_default_indexes => false);

create table pixel_sets (
    parcel_key bigint not null,
    observed_at timestamptz not null,
    sensor sensor not null,
    relative_orbit smallint not null,
    revision smallint not null,
    pixels bytea not null,
    primary key (parcel_key, observed_at, sensor, relative_orbit, revision)
);
select create_hypertable('pixel_sets', by_range('observed_at', interval '28 days'), create_default_indexes => false);

-- How it got here ------------------------------------------------------------------------------

create table consumed_offsets (
    stream text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    updated_at timestamptz not null,
    primary key (stream, topic, partition)
);

create table dead_letters (
    dead_letter_key bigint generated always as identity primary key,
    stream text not null,
    topic text not null,
    partition integer not null,
    message_offset bigint not null,
    row_in_message integer not null,
    recorded_at timestamptz not null,
    reason_code text not null,
    reason text not null,
    content_type text,
    payload bytea not null,
    redriven_at timestamptz,
    unique (stream, topic, partition, message_offset, row_in_message)
);

create table pending_work (
    pending_key bigint generated always as identity primary key,
    parcel_key bigint not null, -- no reference: it would cost a third of ingest's time, and parcels are never deleted
    sensor sensor,
    observed_at timestamptz,
    relative_orbit smallint,
    revision smallint,
    recorded_at timestamptz not null,
    attempts smallint not null default 0,
    not_before timestamptz,
    last_error text
);
create index pending_work_parcel on pending_work (parcel_key);

-- What is believed -----------------------------------------------------------------------------

create table models (
    model_key integer generated always as identity primary key,
    model_id text not null unique,
    task text not null check (task in ('classifier', 'ndvi')),
    config jsonb not null,
    metrics jsonb not null,
    trained_on jsonb not null,
    description text not null,
    weights bytea not null,
    recorded_at timestamptz not null
);

create table model_activations (
    season_key smallint not null references seasons,
    collection text not null,
    task text not null check (task in ('classifier', 'ndvi')),
    recorded_at timestamptz not null,
    model_key integer not null references models,
    primary key (season_key, collection, task, recorded_at)
);

create table encoder_states (
    parcel_key bigint not null references parcels,
    model_key integer not null references models,
    modality text not null,
    n_folded integer not null,
    observed_to timestamptz not null,
    state bytea not null,
    primary key (parcel_key, model_key, modality)
) with (fillfactor = 70);

create table posteriors (
    parcel_key bigint not null,
    recorded_at timestamptz not null,
    observed_to timestamptz not null,
    model_key integer not null,
    n_s2 smallint not null,
    n_s1a smallint not null,
    n_s1d smallint not null,
    n_s1 smallint not null,
    probabilities real[] not null,
    primary key (parcel_key, recorded_at, model_key)
);
select create_hypertable('posteriors', by_range('recorded_at', interval '28 days'), create_default_indexes => false);

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

create table phenology (
    parcel_key bigint not null references parcels,
    recorded_at timestamptz not null,
    outcome outcome not null,
    reason text,
    sos date,
    pos date,
    eos date,
    primary key (parcel_key, recorded_at)
);

create table crop_progress (
    season_key smallint not null references seasons,
    collection text not null,
    region_key smallint not null references regions,
    crop_code text not null,
    recorded_at timestamptz not null,
    n_parcels integer not null,
    first_day date not null,
    standing_share real[] not null,
    median_ndvi real[] not null,
    primary key (season_key, collection, region_key, crop_code, recorded_at)
);

create table findings (
    parcel_key bigint not null references parcels,
    rule text not null,
    recorded_at timestamptz not null,
    rule_version text not null,
    outcome outcome not null,
    colour colour,
    confidence real,
    departed_on date,
    evidence jsonb not null,
    primary key (parcel_key, rule, recorded_at),
    check ((outcome = 'OK') = (colour is not null))
);

create table alerts (
    alert_key bigint generated always as identity primary key,
    parcel_key bigint not null references parcels,
    rule text not null,
    state alert_state not null,
    colour colour not null,
    confidence real not null,
    departed_on date not null,
    opened_at timestamptz not null,
    confirmed_at timestamptz,
    closed_at timestamptz,
    check ((state = 'closed') = (closed_at is not null))
);
create unique index alerts_one_open on alerts (parcel_key, rule) where closed_at is null;

create table alert_events (
    alert_key bigint not null references alerts,
    recorded_at timestamptz not null,
    event text not null check (event in ('opened', 'changed', 'confirmed', 'acknowledged', 'dismissed', 'closed')),
    colour colour not null,
    confidence real not null,
    evidence jsonb not null,
    primary key (alert_key, recorded_at, event)
);
