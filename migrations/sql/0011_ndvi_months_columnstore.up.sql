-- Only where the server's licence is 'timescale', as 0003: late versions still insert into a compressed chunk.
alter table ndvi_months set (timescaledb.enable_columnstore, timescaledb.segmentby = 'parcel_key', timescaledb.orderby = 'month, recorded_at');
call add_columnstore_policy('ndvi_months', after => interval '60 days');
