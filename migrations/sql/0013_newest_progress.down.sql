drop index declarations_newest, parcels_newest, crop_progress_newest;
