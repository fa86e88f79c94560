drop function parcel_history;
drop view open_alerts, daily_ndvi, latest_posteriors;
drop function parcel_key_of, declaration_known, ndvi_known, s1_known, s2_known;
