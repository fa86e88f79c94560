drop function parcelwatch.parcels_known;
create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.0' $$;
