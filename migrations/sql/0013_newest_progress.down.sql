drop index crop_progress_newest;
