-- A hypertable must be dropped alone.
drop table ndvi_daily;
drop table posteriors;
drop table pixel_sets;
drop table s1_observations;
drop table s2_observations;
drop table alert_events, alerts, findings, crop_progress, phenology, encoder_states, model_activations, models,
    pending_work, dead_letters, consumed_offsets, scene_ledger, scenes, parcel_lineage, declarations, parcels, seasons, regions;
drop type sensor, orbit_direction, radiometry, ndvi_mode, ndvi_origin, outcome, colour, alert_state;
