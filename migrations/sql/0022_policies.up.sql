-- What an agency asks in a season: the newest policy of a collection and season is in force, and none is ever changed.

create table policies (
    policy_key bigint generated always as identity primary key,
    season_key smallint not null references seasons,
    collection text not null,
    name text not null,
    version integer not null check (version >= 1),
    hash text not null check (hash ~ '^[0-9a-f]{64}$'),
    content text not null,
    decided_by text not null,
    reason text not null,
    recorded_at timestamptz not null,
    unique (season_key, collection, recorded_at)
);
comment on table policies is
    'Policies put in force, appended: content is JSON with sorted keys, hash its SHA-256; the newest of a season and collection is in force.';

create function policies_are_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'a policy that was in force is not changed or removed'
        using errcode = 'restrict_violation', hint = 'Put another version in force.';
end
$$;
comment on function policies_are_append_only is 'Refuses to change or remove a policy that was in force.';
create trigger append_only before update or delete on policies for each row execute function policies_are_append_only();
create trigger append_only_truncate before truncate on policies for each statement execute function policies_are_append_only();

create function policies_known(as_known_at timestamptz default 'infinity')
returns table (
    season text, collection text, name text, version integer, hash text, content jsonb, decided_by text, reason text,
    recorded_at timestamptz)
language plpgsql volatile rows 10 as $$
begin
    perform settled(as_known_at);
    return query
    select distinct on (p.season_key, p.collection)
           s.name, p.collection, p.name, p.version, p.hash, p.content::jsonb, p.decided_by, p.reason, p.recorded_at
    from policies p join seasons s using (season_key) where p.recorded_at <= as_known_at
    order by p.season_key, p.collection, p.recorded_at desc;
end
$$;
comment on function policies_known is 'The policy of each season and collection that was in force as known at a time.';
