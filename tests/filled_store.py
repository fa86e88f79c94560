"""A store with two regions, a parcel in each, and something of every kind that is known of both."""

import psycopg

_ROWS = """
insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31');
insert into regions (code) values ('north'), ('south');
insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
    select 'nl', season_key, code || '-1', region_key,
           ST_GeomFromText('MULTIPOLYGON(((5 52,5.01 52,5.01 52.01,5 52)))', 4326), 2, '2025-01-01' from seasons, regions;
insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
    select parcel_key, '2025-03-01', '2025-03-01', '1', 'maize' from parcels;
insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
    values ('s', 'S2', 'S2A', 8, '2025-05-01', '2025-05-01', '2025-05-01');
insert into scene_ledger select scene_key, 'stored', 2 from scenes;
insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at, recorded_at,
                             scene_key, ndvi)
    select parcel_key, at, 8, revision, is_withdrawn, 50, at, '2025-05-02', scene_key, 0.5 + revision / 10.0 from parcels, scenes,
    (values (timestamptz '2025-05-01 10:30+00', 0, false), ('2025-05-01 10:30+00', 1, false), ('2025-05-06 10:30+00', 0, false),
            ('2025-05-06 10:30+00', 1, true)) v (at, revision, is_withdrawn);
insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at, recorded_at,
                             scene_key, direction, radiometry, vv, vh)
    select parcel_key, '2025-05-02 06:00+00', 88, 0, false, 50, '2025-05-02', '2025-05-02', scene_key, 'ascending', 'sigma0', 0.1, 0.01
    from parcels, scenes;
insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
    select parcel_key, '2025-06-01', '2025-06-02', 3, 1, 0, array[0.5, 0.6] || array_fill('NaN'::real, array[29]),
           array_fill(0.03, array[31]) from parcels;
insert into phenology (parcel_key, recorded_at, outcome, sos, pos, eos, is_complete, measures, measures_sd)
    select parcel_key, '2025-10-01', 'OK', '2025-04-11', '2025-06-20', '2025-08-09', true, array_fill(100.0, array[13]),
           array_fill(2.5, array[13]) from parcels;
insert into markers (parcel_key, marker, recorded_at, version, status, value, day, confidence, evidence)
    select parcel_key, 'harvest', '2025-10-01', '1', 'OK', 1, '2025-08-20', 0.85, '{}' from parcels;
insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
    values ('m', 'classifier', '{"classes": ["corn", "wheat"]}', '{}', '{"class_of": {"1": "corn"}}', '{}', '', now());
insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
    select parcel_key, '2025-06-01', '2025-05-31', model_key, 3, 0, 1, 1, array[0.75, 0.25] from parcels, models;
insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, confidence, departed_on, evidence)
    select parcel_key, 'early_loss', '2025-06-01', '3', 'OK', 'red', 0.9, '2025-05-20', '{}' from parcels;
insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
    select parcel_key, 'early_loss', 'open', 'red', 0.9, '2025-05-20', '2025-06-01' from parcels;
insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
    select alert_key, '2025-06-01', 'opened', 'red', 0.9, '2025-05-20', '{}' from alerts;
insert into crop_progress (season_key, collection, region_key, crop_code, recorded_at, n_parcels, first_day, standing_share, median_ndvi)
    select season_key, 'nl', region_key, '1', '2025-06-01', 9, '2025-05-01', array[0.5, 'NaN'], array[0.4, 'NaN'] from seasons, regions;
insert into ndvi_weeks values ('2025-04-28', 4, '2025-06-01', 0.1);
insert into weekly_ndvi
    select region_key, season_key, 'nl', '1', 'maize', '2025-04-28', 1, 1, 0.6, null, 0.6, 0.6, 0.6 from seasons, regions;
insert into dead_letters (stream, topic, partition, message_offset, row_in_message, recorded_at, reason_code, reason, payload)
    values ('s', 't', 0, 0, 0, '2025-06-01', 'unknown_parcel', 'it is not there', '');
insert into round_lights
    select 1, parcel_key, 'red', array['red'::light], array['3'], array[timestamptz '2025-06-01'], array['open'] from parcels;
insert into rounds (round_key, season_key, collection, name, as_known_at, recorded_at, published_by, reason, rules, rule_version, settings,
                    settings_sha256, n_parcels, content_sha256, sha256)
    select 1, season_key, 'nl', 'June', '2025-06-02', '2025-06-02', 'ann', 'monthly', array['early_loss'], '3', '{}', 'x', 2, 'x', 'x'
    from seasons;
insert into quality_samples (season_key, collection, as_known_at, recorded_at, drawn_by, reason, seed, allocation, minimum, expected_wrong,
                             confidence, second_share)
    select season_key, 'nl', '2025-06-02', '2025-06-02', 'ann', 'yearly', '1', 'proportional', 1, '{}', 0.95, 0 from seasons;
insert into quality_strata select sample_key, 0, 'red', null, 2, 2, 4 from quality_samples;
insert into quality_items select sample_key, parcel_key, parcel_key, 0, 'maize', 'red', '{}', null, 1 from quality_samples, parcels;
insert into quality_verdicts (sample_key, item, recorded_at, verdict, reviewer)
    select sample_key, item, '2025-06-03', 'in_order', 'bob' from quality_items;
insert into policies (season_key, collection, name, version, hash, content, decided_by, reason, recorded_at)
    select season_key, 'nl', 'p', 1, repeat('0', 64), '{}', 'ann', 'first', '2025-01-02' from seasons;
"""

_HAIL = """
insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
select 'nl', season_key, code || '-hail-' || nr, region_key,
       ST_Multi(ST_MakeEnvelope(6 + nr * 0.002, 52 + 0.001 * (code = 'south')::int, 6.001 + nr * 0.002,
                                52.0005 + 0.001 * (code = 'south')::int, 4326)), 2, '2025-01-01'
from seasons, regions, generate_series(1, 12) nr;
with new as (
    insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
    select parcel_key, 'early_loss', 'open', 'red', 0.9, '2025-06-10', '2025-06-12' from parcels
    where source_id like '%-hail-%' returning alert_key)
insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
select alert_key, '2025-06-12', 'opened', 'red', 0.9, '2025-06-10', '{}' from new
"""


def fill(dsn: str) -> None:
    """Fill a fresh, migrated database: season 2025, collection nl, parcels north-1 and south-1."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _ROWS.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode())


def hail_on(dsn: str) -> None:
    """Add twelve parcels of the north and twelve of the south in one swath, all lost in one week."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _HAIL.split(";\n"):
            connection.execute(statement.encode())
