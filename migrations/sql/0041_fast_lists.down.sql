drop function parcelwatch.parcels_in;
drop policy seen_by_decider on alerts;
drop policy of_all on alerts;
alter table alerts disable row level security;
drop trigger alerts_follow_updated on declarations;
drop trigger alerts_follow_inserted on declarations;
drop trigger alerts_follow on parcels;
drop trigger placed on alerts;
drop function parcelwatch_access.alerts_follow_declarations, parcelwatch_access.alerts_follow_parcels, parcelwatch_access.place_alert;
alter table alerts drop column parcel_point, drop column parcel_crop_code, drop column parcel_area_ha, drop column parcel_region_key,
    drop column parcel_collection, drop column parcel_season_key;
