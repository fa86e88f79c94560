alter table ndvi_daily set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'day, recorded_at, mode');
call add_columnstore_policy('ndvi_daily', after => interval '60 days');
