drop function parcelwatch.parcels_known, parcelwatch_access.page_of_parcels;
create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.0' $$;

drop policy locked_by_services on parcels;
drop policy seen_by_services on parcels;
-- The roles stay: they are the server's. What they were given here goes.
revoke all on all tables in schema public from parcelwatch_ingest, parcelwatch_monitor, parcelwatch_deliver, parcelwatch_scenes;
revoke all on all sequences in schema public from parcelwatch_ingest, parcelwatch_monitor, parcelwatch_deliver, parcelwatch_scenes;
revoke update (parcel_key) on parcels from parcelwatch_ingest, parcelwatch_monitor;
