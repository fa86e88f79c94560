-- The newest progress of a season by one probe: asked by every batch (is what it keeps still the newest?) and by the leader.
create index crop_progress_newest on crop_progress (season_key, collection, recorded_at);
