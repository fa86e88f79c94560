select remove_retention_policy('pixel_sets');
call remove_columnstore_policy('posteriors');
call remove_columnstore_policy('ndvi_daily');
call remove_columnstore_policy('pixel_sets');
call remove_columnstore_policy('s1_observations');
call remove_columnstore_policy('s2_observations');
-- Off only once no chunk is compressed.
select decompress_chunk(chunk, if_compressed => true)
from (values ('posteriors'), ('ndvi_daily'), ('pixel_sets'), ('s1_observations'), ('s2_observations')) as hypertables (name),
     lateral show_chunks(name::regclass) as chunk;
alter table posteriors set (timescaledb.enable_columnstore = false);
alter table ndvi_daily set (timescaledb.enable_columnstore = false);
alter table pixel_sets set (timescaledb.enable_columnstore = false);
alter table s1_observations set (timescaledb.enable_columnstore = false);
alter table s2_observations set (timescaledb.enable_columnstore = false);
