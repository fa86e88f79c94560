drop function parcelwatch_access.person_of_identity;
drop table parcelwatch_access.identities, parcelwatch_access.pending_sign_ins;
drop index parcelwatch_access.sessions_least_idx;
revoke all on parcelwatch_access.sessions from parcelwatch_monitor;
revoke select (token_hash, ended_at, expires_at) on parcelwatch_access.sessions from parcelwatch_monitor;
