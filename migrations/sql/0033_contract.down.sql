drop schema parcelwatch cascade;
drop policy seen_by_region on parcels;
alter table parcels disable row level security;
alter function settled security invoker reset search_path;
-- The roles stay: they are the server's, and may hold what other databases gave them. What they were given here goes.
revoke select on all tables in schema public from parcelwatch_contract;
drop schema parcelwatch_access cascade;
