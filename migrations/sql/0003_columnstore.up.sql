-- Only where the server's licence is 'timescale'. A parcel's season stays one segment of a compressed chunk; revisions and
-- late rows still insert into it. Pixel sets feed training and rebuilding of states: after three seasons they may go.
alter table s2_observations set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'observed_at, relative_orbit, revision');
alter table s1_observations set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'observed_at, relative_orbit, revision');
alter table pixel_sets set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'observed_at, sensor, relative_orbit, revision');
alter table ndvi_daily set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'day, recorded_at, mode');
alter table posteriors set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'recorded_at, model_key');
call add_columnstore_policy('s2_observations', after => interval '60 days');
call add_columnstore_policy('s1_observations', after => interval '60 days');
call add_columnstore_policy('pixel_sets', after => interval '60 days');
call add_columnstore_policy('ndvi_daily', after => interval '60 days');
call add_columnstore_policy('posteriors', after => interval '60 days');
select add_retention_policy('pixel_sets', drop_after => interval '3 years');
