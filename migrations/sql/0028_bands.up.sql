-- In which band of NDVI most parcels of a region and declared crop lie, dekad by dekad of the season; null where it was stored before.
alter table crop_progress add column lower_ndvi real[], add column middle_ndvi real[], add column upper_ndvi real[];
comment on column crop_progress.lower_ndvi is
    'By dekad of the season: the lower quartile of the greenest clear views of the sampled parcels, NaN where too few were seen.';
comment on column crop_progress.middle_ndvi is 'Their median; median_ndvi is that of the last views, by day.';
comment on column crop_progress.upper_ndvi is 'Their upper quartile.';
