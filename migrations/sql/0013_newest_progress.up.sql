-- The newest progress of a season by one probe: asked by every batch (is what it keeps still the newest?) and by the leader.
create index crop_progress_newest on crop_progress (season_key, collection, recorded_at, n_observations);
-- Whether the sample of a season is still the same: the newest of what it rests on, likewise.
create index parcels_newest on parcels (season_key, collection, recorded_at);
create index declarations_newest on declarations (recorded_at);
