-- People who use the API and the console: their role, their keys, their sessions. Secrets are kept as hashes alone.

create table parcelwatch_access.people (
    name text primary key check (name <> ''),
    role text not null check (role in ('reader', 'inspector', 'operator', 'admin')),
    added_by text not null,
    added_at timestamptz not null,
    ended_at timestamptz
);
comment on table parcelwatch_access.people is 'Who uses the API and the console; what an inspector sees is in region_grants.';

create table parcelwatch_access.api_keys (
    key_id text primary key,
    person text not null references parcelwatch_access.people,
    purpose text not null,
    secret_hash text not null, -- Argon2id
    made_by text not null,
    made_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz
);
comment on table parcelwatch_access.api_keys is 'Keys of people and of their programs; the secret is shown once, when it is made.';

create table parcelwatch_access.sessions (
    token_hash bytea primary key, -- SHA-256 of 256 random bits, which nobody guesses: a slow hash would protect nothing
    person text not null references parcelwatch_access.people,
    begun_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz
);
comment on table parcelwatch_access.sessions is 'Sign-ins of the console.';

grant usage on schema parcelwatch_access to parcelwatch_web;
grant select on parcelwatch_access.people, parcelwatch_access.api_keys to parcelwatch_web;
grant select, insert, update on parcelwatch_access.sessions to parcelwatch_web;
