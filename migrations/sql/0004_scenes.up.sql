-- The life of a scene from being found to being cut, and whether its parcels add up.
create type scene_state as enum ('found', 'cutting', 'cut', 'failed', 'superseded', 'empty');

-- Grids of Sentinel-2's tiles as first seen: a parcel that several tiles show is observed from one of them.
create table scene_tiles (
    tile_key integer generated always as identity primary key,
    tile text not null unique,
    crs text not null,
    left_m double precision not null,
    top_m double precision not null,
    pixel_m double precision not null,
    width integer not null,
    height integer not null
);

-- What all scenes of one datatake share, fixed when the first of them is begun: their pass time, and which tiles (up to
-- tile_key) were known by then; a tile first seen later takes from these in this pass only parcels that it holds more of.
create table scene_passes (
    datatake text primary key,
    observed_at timestamptz not null,
    known_tiles integer not null
);

create table found_scenes (
    scene_id text primary key,
    sensor sensor not null,
    state scene_state not null,
    record jsonb not null,
    found_at timestamptz not null,
    recorded_at timestamptz not null,
    published_at timestamptz,
    -- the worker that has it, or had it last
    attempts smallint not null default 0,
    worker text,
    lease_until timestamptz,
    next_try_at timestamptz,
    begun_at timestamptz,
    ended_at timestamptz,
    cause text,
    told text,
    -- what it is, known by its name or once it was opened
    datatake text,
    family text,
    part timestamptz,
    baseline text,
    processed_at timestamptz,
    revision smallint,
    superseded_by text,
    -- what became of the parcels it shows
    expected bigint,
    emitted bigint,
    withdrawn bigint,
    skipped bigint,
    homes jsonb,
    check ((state = 'cutting') = (lease_until is not null)),
    check (state <> 'failed' or cause is not null),
    check (state <> 'cut' or expected is not null),
    check (expected = emitted + skipped),
    check (withdrawn <= emitted)
);
create index found_scenes_due on found_scenes (found_at, scene_id) where state in ('found', 'cutting', 'failed');
create index found_scenes_family on found_scenes (family);
create index found_scenes_datatake on found_scenes (datatake);
create index found_scenes_found on found_scenes (found_at);
comment on column found_scenes.record is 'How to open it: the record of the scenes topic';
comment on column found_scenes.family is 'The same for all granules of a tile, or slices, of one datatake, in whatever processing';
comment on column found_scenes.homes is 'Parcels skipped as other_tile, by the tile that they are observed from';
comment on column found_scenes.emitted is 'Observations that the broker confirmed; scene_ledger counts those that the store has';

create view scene_reconciliation as
select f.scene_id, f.state, f.expected, f.emitted, f.withdrawn, f.skipped, coalesce(reasons.skipped_by, '{}') as skipped_by,
       coalesce(reasons.stored, 0) as stored,
       f.expected = f.emitted + coalesce(reasons.skipped, 0) as adds_up,
       coalesce(reasons.stored, 0) >= f.emitted as is_stored
from found_scenes f
left join scenes s using (scene_id)
left join lateral (
    select sum(parcels) filter (where outcome = 'stored')::bigint as stored,
           sum(parcels) filter (where outcome <> 'stored')::bigint as skipped,
           jsonb_object_agg(outcome, parcels) filter (where outcome <> 'stored') as skipped_by
    from scene_ledger l where l.scene_key = s.scene_key
) reasons on true;
comment on view scene_reconciliation is
    'One row per found scene: parcels expected = emitted + skipped (by reason), and whether the store has all that was emitted.';
