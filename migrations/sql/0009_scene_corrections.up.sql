-- What a scene sent last, so that cutting it again tells a correction from a repetition while the store is still behind.
alter table found_scenes add column told_digest bytea, add column told_as smallint not null default 0;
comment on column found_scenes.told_digest is 'SHA-256 of the observations last sent, whatever their revision';
comment on column found_scenes.told_as is 'Lowest revision of the observations last sent that the store did not have';

-- Folders and hosts that an operator named to `scenes add` and `scenes watch`: files are opened there without a setting.
create table scene_places (
    place text primary key,
    named_at timestamptz not null
);
comment on table scene_places is 'Folders (absolute paths) and hosts (host or host:port) whose files scenes may be read from';
insert into scene_places (place, named_at)
select regexp_replace(record ->> 'href', '/[^/]*$', ''), min(recorded_at) from found_scenes
where record ->> 'href' ~ '^/[^/]+/' and record ->> 'source' ~ '^(add$|folder:)' group by 1;
