-- One row for each place where scenes are looked for: a catalogue's sensor over an area, a folder, a subscription.
create table scene_sources (
    source text primary key,
    since timestamptz,
    polled_to timestamptz,
    looked_at timestamptz,
    new_scenes bigint not null default 0,
    rejected bigint not null default 0,
    last_rejection text,
    errors_in_row integer not null default 0,
    last_error text,
    last_error_at timestamptz,
    next_at timestamptz
);
comment on table scene_sources is
    'Where scenes are looked for: everything acquired from since on and published before polled_to was published to us';
comment on column scene_sources.rejected is 'At the last look: things found that could not become scenes';
comment on column scene_sources.errors_in_row is 'Looks that failed since the last that did not; polled_to stays meanwhile';
