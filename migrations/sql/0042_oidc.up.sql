-- Sign-in by OpenID Connect: which subject of an issuer is which person, and sign-ins that have begun there; ended sign-ins are removed.

create table parcelwatch_access.identities (
    identity_key integer generated always as identity primary key,
    person text not null references parcelwatch_access.people,
    issuer text not null check (issuer <> ''),
    subject text check (subject <> ''), -- null: until the first sign-in with the e-mail
    email text check (email <> '' and email = lower(email)),
    is_by_groups boolean not null default false,
    added_by text not null,
    added_at timestamptz not null,
    check (coalesce(subject, email) is not null),
    unique (issuer, subject),
    unique (issuer, email)
);
comment on table parcelwatch_access.identities is
    'Who a person is at an issuer of OpenID Connect. By groups: role and regions are those of the issuer''s groups, at each sign-in.';

create table parcelwatch_access.pending_sign_ins (
    token_hash bytea primary key, -- as of sessions
    back text not null,
    expires_at timestamptz not null
);
comment on table parcelwatch_access.pending_sign_ins is 'Sign-ins that have begun at the issuer; each is taken once, by the browser that began it.';
create index on parcelwatch_access.pending_sign_ins (expires_at);
create index on parcelwatch_access.sessions (least(ended_at, expires_at));

-- The server's login changes nobody whom an administrator added: people are made and changed here alone, and only those by groups.
create function parcelwatch_access.person_of_identity(
    issuer_ text, subject_ text, email_ text, name_ text, role_ text, regions_ text[], at_ timestamptz)
returns table (name text, role text, refusal text) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    mine parcelwatch_access.identities;
begin
    select * into mine from parcelwatch_access.identities where issuer = issuer_ and subject = subject_ for update;
    if mine.person is null then
        -- An e-mail is given to somebody else one day, a subject never: the first one counts.
        update parcelwatch_access.identities set subject = subject_ where issuer = issuer_ and email = email_ and subject is null
        returning * into mine;
    end if;
    if mine.person is not null and not mine.is_by_groups then
        return query select p.name, p.role, case when p.ended_at is not null then 'removed' end
                     from parcelwatch_access.people p where p.name = mine.person;
        return;
    end if;
    if role_ is null then
        update parcelwatch_access.people p set ended_at = at_ where p.name = mine.person and ended_at is null;
        update parcelwatch_access.api_keys set revoked_at = at_ where person = mine.person and revoked_at is null;
        update parcelwatch_access.sessions set ended_at = at_ where person = mine.person and ended_at is null;
        delete from parcelwatch_access.region_grants where principal = mine.person;
        return query select null::text, null::text, 'unknown';
        return;
    end if;
    if mine.person is null then
        if exists (select from pg_roles where rolname = name_)
           or exists (select from parcelwatch_access.region_grants where principal = name_) then
            return query select null::text, null::text, 'taken';
            return;
        end if;
        insert into parcelwatch_access.people (name, role, added_by, added_at) values (name_, role_, issuer_, at_) on conflict do nothing;
        if not found then
            return query select null::text, null::text, 'taken';
            return;
        end if;
        insert into parcelwatch_access.identities (person, issuer, subject, is_by_groups, added_by, added_at)
        values (name_, issuer_, subject_, true, issuer_, at_) returning * into mine;
    end if;
    update parcelwatch_access.people p set role = role_, ended_at = null where p.name = mine.person;
    delete from parcelwatch_access.region_grants g using public.regions r
    where g.region_key = r.region_key and principal = mine.person and code <> all (regions_);
    insert into parcelwatch_access.region_grants (principal, region_key, granted_by, granted_at)
    select mine.person, region_key, issuer_, at_ from public.regions where code = any (regions_) on conflict do nothing;
    return query select mine.person, role_, null::text;
end
$$;
comment on function parcelwatch_access.person_of_identity is
    'Who signs in with a subject of an issuer, or why not: unknown, removed, or taken (the name is somebody else''s). role_ and regions_ are those of groups; null: of none.';
revoke execute on function parcelwatch_access.person_of_identity from public;

grant execute on function parcelwatch_access.person_of_identity to parcelwatch_web;
grant select, insert, delete on parcelwatch_access.pending_sign_ins to parcelwatch_web;
grant select (token_hash, ended_at, expires_at), delete on parcelwatch_access.sessions to parcelwatch_monitor;
grant select (token_hash, expires_at), delete on parcelwatch_access.pending_sign_ins to parcelwatch_monitor;
