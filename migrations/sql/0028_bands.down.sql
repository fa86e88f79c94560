alter table crop_progress drop column lower_ndvi, drop column middle_ndvi, drop column upper_ndvi;
