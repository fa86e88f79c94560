drop function parcelwatch.map_collections, parcelwatch.map_tile, parcelwatch.map_version, parcelwatch.map_state, parcelwatch.map_parcels;
drop trigger map_inserted on parcels;
drop trigger map_updated on parcels;
drop schema parcelwatch_map cascade;
