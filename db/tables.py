"""The store's tables as SQLAlchemy sees them, for reads; their truth is `migrations/sql`, and a test compares the two.

Geometry is left to SQL (`ST_...` functions on the column named `geom`): the rest of the code sees WKB.
"""

from typing import Any, Final, get_args

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, ENUM, JSONB, REAL

from db.sensors import Sensor

metadata: Final = sa.MetaData()
_time = sa.TIMESTAMP(timezone=True)
sensor: Final = ENUM(*get_args(Sensor), name="sensor", create_type=False)
orbit_direction: Final = ENUM("ascending", "descending", "mixed", name="orbit_direction", create_type=False)
radiometry: Final = ENUM("sigma0", "gamma0", name="radiometry", create_type=False)
outcome: Final = ENUM("NOT_EXECUTED", "NOT_VALID", "OK", name="outcome", create_type=False)
colour: Final = ENUM("green", "yellow", "red", name="colour", create_type=False)
scene_state: Final = ENUM(
    "found", "cutting", "cut", "failed", "superseded", "empty", name="scene_state", create_type=False
)
light: Final = ENUM(
    "not_executed", "green", "not_valid", "suppressed", "yellow", "red", name="light", create_type=False
)
PENDING_STATES: Final = ("open", "acknowledged", "in_review", "information_requested")
"""States of an alert in which there is something left to decide."""
alert_state: Final = ENUM(*PENDING_STATES, "dismissed", "confirmed", "closed", name="alert_state", create_type=False)


def _table(name: str, /, **columns: Any) -> sa.Table:
    return sa.Table(name, metadata, *(sa.Column(column, kind) for column, kind in columns.items()))


recording: Final = _table("recording", clock=sa.Text)
regions: Final = _table("regions", region_key=sa.SmallInteger, code=sa.Text)
seasons: Final = _table("seasons", season_key=sa.SmallInteger, name=sa.Text, starts_on=sa.Date, ends_on=sa.Date)
parcels: Final = _table(
    "parcels",
    parcel_key=sa.BigInteger,
    collection=sa.Text,
    season_key=sa.SmallInteger,
    source_id=sa.Text,
    region_key=sa.SmallInteger,
    area_ha=REAL,
    perimeter_m=REAL,
    bbox_fill=REAL,
    not_monitorable_reason=sa.Text,
    recorded_at=_time,
)
declarations: Final = _table(
    "declarations",
    parcel_key=sa.BigInteger,
    recorded_at=_time,
    declared_at=_time,
    crop_code=sa.Text,
    crop_name=sa.Text,
    hcat_code=sa.Text,
)
parcel_lineage: Final = _table(
    "parcel_lineage", parcel_key=sa.BigInteger, predecessor_key=sa.BigInteger, area_share=REAL
)
scenes: Final = _table(
    "scenes",
    scene_key=sa.BigInteger,
    scene_id=sa.Text,
    sensor=sensor,
    platform=sa.Text,
    relative_orbit=sa.SmallInteger,
    observed_at=_time,
    available_at=_time,
    recorded_at=_time,
)
scene_ledger: Final = _table("scene_ledger", scene_key=sa.BigInteger, outcome=sa.Text, parcels=sa.BigInteger)
scene_tiles: Final = _table(
    "scene_tiles",
    tile_key=sa.Integer,
    tile=sa.Text,
    crs=sa.Text,
    left_m=sa.Double,
    top_m=sa.Double,
    pixel_m=sa.Double,
    width=sa.Integer,
    height=sa.Integer,
)
scene_sources: Final = _table(
    "scene_sources",
    source=sa.Text,
    since=_time,
    polled_to=_time,
    looked_at=_time,
    new_scenes=sa.BigInteger,
    rejected=sa.BigInteger,
    last_rejection=sa.Text,
    errors_in_row=sa.Integer,
    last_error=sa.Text,
    last_error_at=_time,
    next_at=_time,
)
scene_places: Final = _table("scene_places", place=sa.Text, named_at=_time)
scene_passes: Final = _table("scene_passes", datatake=sa.Text, observed_at=_time, known_tiles=sa.Integer)
found_scenes: Final = _table(
    "found_scenes",
    scene_id=sa.Text,
    sensor=sensor,
    state=scene_state,
    record=JSONB,
    found_at=_time,
    recorded_at=_time,
    published_at=_time,
    attempts=sa.SmallInteger,
    worker=sa.Text,
    lease_until=_time,
    next_try_at=_time,
    begun_at=_time,
    ended_at=_time,
    cause=sa.Text,
    told=sa.Text,
    datatake=sa.Text,
    family=sa.Text,
    part=_time,
    baseline=sa.Text,
    processed_at=_time,
    revision=sa.SmallInteger,
    superseded_by=sa.Text,
    expected=sa.BigInteger,
    emitted=sa.BigInteger,
    withdrawn=sa.BigInteger,
    skipped=sa.BigInteger,
    homes=JSONB,
    told_digest=BYTEA,
    told_as=sa.SmallInteger,
)
s2_observations: Final = _table(
    "s2_observations",
    parcel_key=sa.BigInteger,
    observed_at=_time,
    relative_orbit=sa.SmallInteger,
    revision=sa.SmallInteger,
    is_withdrawn=sa.Boolean,
    n_clear=sa.Integer,
    available_at=_time,
    recorded_at=_time,
    scene_key=sa.BigInteger,
    clear_fraction=REAL,
    ndvi=REAL,
    ndvi_sd=REAL,
    nbr2=REAL,
    bsi=REAL,
    s2wi=REAL,
    b02=REAL,
    b03=REAL,
    b04=REAL,
    b05=REAL,
    b06=REAL,
    b07=REAL,
    b08=REAL,
    b8a=REAL,
    b11=REAL,
    b12=REAL,
)
s1_observations: Final = _table(
    "s1_observations",
    parcel_key=sa.BigInteger,
    observed_at=_time,
    relative_orbit=sa.SmallInteger,
    revision=sa.SmallInteger,
    is_withdrawn=sa.Boolean,
    n_pixels=sa.Integer,
    available_at=_time,
    recorded_at=_time,
    scene_key=sa.BigInteger,
    direction=orbit_direction,
    radiometry=radiometry,
    vv=REAL,
    vh=REAL,
    vv_sd=REAL,
    vh_sd=REAL,
    coherence_vv=REAL,
    coherence_vh=REAL,
    coherence_with=_time,
)
pixel_sets: Final = _table(
    "pixel_sets",
    parcel_key=sa.BigInteger,
    observed_at=_time,
    sensor=sensor,
    relative_orbit=sa.SmallInteger,
    revision=sa.SmallInteger,
    pixels=BYTEA,
)
consumed_offsets: Final = _table(
    "consumed_offsets", stream=sa.Text, topic=sa.Text, partition=sa.Integer, next_offset=sa.BigInteger, updated_at=_time
)
dead_letters: Final = _table(
    "dead_letters",
    dead_letter_key=sa.BigInteger,
    stream=sa.Text,
    topic=sa.Text,
    partition=sa.Integer,
    message_offset=sa.BigInteger,
    row_in_message=sa.Integer,
    recorded_at=_time,
    reason_code=sa.Text,
    reason=sa.Text,
    content_type=sa.Text,
    payload=BYTEA,
    redriven_at=_time,
    repeats=sa.BigInteger,
)
pending_work: Final = _table(
    "pending_work",
    pending_key=sa.BigInteger,
    parcel_key=sa.BigInteger,
    sensor=sensor,
    observed_at=_time,
    relative_orbit=sa.SmallInteger,
    revision=sa.SmallInteger,
    recorded_at=_time,
    attempts=sa.SmallInteger,
    not_before=_time,
    last_error=sa.Text,
    task=sa.Text,
    season_key=sa.SmallInteger,
    collection=sa.Text,
)
models: Final = _table(
    "models",
    model_key=sa.Integer,
    model_id=sa.Text,
    task=sa.Text,
    config=JSONB,
    metrics=JSONB,
    trained_on=JSONB,
    description=sa.Text,
    weights=BYTEA,
    recorded_at=_time,
)
model_activations: Final = _table(
    "model_activations",
    season_key=sa.SmallInteger,
    collection=sa.Text,
    task=sa.Text,
    recorded_at=_time,
    model_key=sa.Integer,
)
encoder_states: Final = _table(
    "encoder_states",
    parcel_key=sa.BigInteger,
    model_key=sa.Integer,
    modality=sa.Text,
    n_folded=sa.Integer,
    observed_to=_time,
    state=BYTEA,
)
posteriors: Final = _table(
    "posteriors",
    parcel_key=sa.BigInteger,
    recorded_at=_time,
    observed_to=_time,
    model_key=sa.Integer,
    n_s2=sa.SmallInteger,
    n_s1a=sa.SmallInteger,
    n_s1d=sa.SmallInteger,
    n_s1=sa.SmallInteger,
    probabilities=ARRAY(REAL),
)
ndvi_months: Final = _table(
    "ndvi_months",
    parcel_key=sa.BigInteger,
    month=sa.Date,
    recorded_at=_time,
    model_key=sa.Integer,
    changed=sa.Integer,
    is_causal=sa.Integer,
    is_observed=sa.Integer,
    ndvi=ARRAY(REAL),
    ndvi_sd=ARRAY(REAL),
)
phenology: Final = _table(
    "phenology",
    parcel_key=sa.BigInteger,
    recorded_at=_time,
    outcome=outcome,
    reason=sa.Text,
    sos=sa.Date,
    pos=sa.Date,
    eos=sa.Date,
    is_complete=sa.Boolean,
    measures=ARRAY(REAL),
    measures_sd=ARRAY(REAL),
    logistic=ARRAY(REAL),
    logistic_sd=ARRAY(REAL),
)
markers: Final = _table(
    "markers",
    parcel_key=sa.BigInteger,
    marker=sa.Text,
    recorded_at=_time,
    version=sa.Text,
    status=outcome,
    value=REAL,
    day=sa.Date,
    confidence=REAL,
    evidence=JSONB,
)
low_passes: Final = _table(
    "low_passes",
    parcel_key=sa.BigInteger,
    day=sa.Date,
    relative_orbit=sa.SmallInteger,
    recorded_at=_time,
    is_low=sa.Boolean,
)
low_neighbours: Final = _table(
    "low_neighbours",
    parcel_key=sa.BigInteger,
    day=sa.Date,
    relative_orbit=sa.SmallInteger,
    recorded_at=_time,
    n_seen=sa.SmallInteger,
    n_low=sa.SmallInteger,
    n_crops=sa.SmallInteger,
    usual_share=REAL,
)
moved_passes: Final = _table(
    "moved_passes", season_key=sa.SmallInteger, collection=sa.Text, day=sa.Date, relative_orbit=sa.SmallInteger
)
crop_progress: Final = _table(
    "crop_progress",
    season_key=sa.SmallInteger,
    collection=sa.Text,
    region_key=sa.SmallInteger,
    crop_code=sa.Text,
    recorded_at=_time,
    n_parcels=sa.Integer,
    first_day=sa.Date,
    standing_share=ARRAY(REAL),
    median_ndvi=ARRAY(REAL),
    n_observations=sa.BigInteger,
    lower_ndvi=ARRAY(REAL),
    middle_ndvi=ARRAY(REAL),
    upper_ndvi=ARRAY(REAL),
)
parcel_norms: Final = _table(
    "parcel_norms",
    parcel_key=sa.BigInteger,
    recorded_at=_time,
    crop_group=sa.Text,
    n_seasons=sa.SmallInteger,
    middle_ndvi=ARRAY(REAL),
    sd_ndvi=ARRAY(REAL),
)
ndvi_weeks: Final = _table("ndvi_weeks", week=sa.Date, n_stored=sa.BigInteger, recorded_at=_time, took_s=REAL)
weekly_ndvi: Final = _table(
    "weekly_ndvi",
    region_key=sa.SmallInteger,
    season_key=sa.SmallInteger,
    collection=sa.Text,
    crop_code=sa.Text,
    crop_name=sa.Text,
    week=sa.Date,
    n_parcels=sa.Integer,
    n_observations=sa.Integer,
    mean_ndvi=sa.Double,
    sd_ndvi=sa.Double,
    p10_ndvi=REAL,
    median_ndvi=REAL,
    p90_ndvi=REAL,
)
findings: Final = _table(
    "findings",
    parcel_key=sa.BigInteger,
    rule=sa.Text,
    recorded_at=_time,
    rule_version=sa.Text,
    outcome=outcome,
    colour=colour,
    confidence=REAL,
    departed_on=sa.Date,
    evidence=JSONB,
)
alerts: Final = _table(
    "alerts",
    alert_key=sa.BigInteger,
    parcel_key=sa.BigInteger,
    rule=sa.Text,
    state=alert_state,
    colour=colour,
    confidence=REAL,
    departed_on=sa.Date,
    opened_at=_time,
    confirmed_at=_time,
    closed_at=_time,
    verified_at=_time,
    parcel_season_key=sa.SmallInteger,
    parcel_collection=sa.Text,
    parcel_region_key=sa.SmallInteger,
    parcel_area_ha=REAL,
    parcel_crop_code=sa.Text,
)
alert_events: Final = _table(
    "alert_events",
    alert_key=sa.BigInteger,
    recorded_at=_time,
    event=sa.Text,
    colour=colour,
    confidence=REAL,
    evidence=JSONB,
    departed_on=sa.Date,
    event_nr=sa.BigInteger,
)
subscriptions: Final = _table(
    "subscriptions",
    subscription_key=sa.BigInteger,
    name=sa.Text,
    channel=sa.Text,
    address=sa.Text,
    events=ARRAY(sa.Text),
    regions=ARRAY(sa.Text),
    crops=ARRAY(sa.Text),
    schemes=ARRAY(sa.Text),
    rules=ARRAY(sa.Text),
    colours=ARRAY(colour),
    min_confidence=REAL,
    except_regions=ARRAY(sa.Text),
    except_crops=ARRAY(sa.Text),
    except_schemes=ARRAY(sa.Text),
    except_rules=ARRAY(sa.Text),
    mode=sa.Text,
    within_s=sa.Integer,
    at=sa.Time,
    weekday=sa.SmallInteger,
    zone=sa.Text,
    quiet_from=sa.Time,
    quiet_to=sa.Time,
    min_interval_s=sa.Integer,
    created_at=_time,
    created_by=sa.Text,
    suspended_at=_time,
    suspended_because=sa.Text,
    ended_at=_time,
    failures=sa.SmallInteger,
    not_before=_time,
    person=sa.Text,
)
answer_photos: Final = _table("answer_photos", sha256=BYTEA, media_type=sa.Text, image=BYTEA, recorded_at=_time)
subscription_secrets: Final = _table(
    "subscription_secrets", subscription_key=sa.BigInteger, address=sa.Text, signing=sa.Text
)
deliveries: Final = _table(
    "deliveries",
    delivery_key=sa.BigInteger,
    idempotency_key=sa.UUID,
    subscription_key=sa.BigInteger,
    state=sa.Text,
    formed_at=_time,
    attempts=sa.SmallInteger,
    next_try_at=_time,
    ended_at=_time,
    last_error=sa.Text,
    folded_into=sa.BigInteger,
)
outbox: Final = _table(
    "outbox",
    subscription_key=sa.BigInteger,
    event_nr=sa.BigInteger,
    alert_key=sa.BigInteger,
    recorded_at=_time,
    delivery_key=sa.BigInteger,
    incident=sa.BigInteger,
)
chips: Final = _table(
    "chips",
    chip_key=sa.BigInteger,
    parcel_key=sa.BigInteger,
    scene_key=sa.BigInteger,
    revision=sa.SmallInteger,
    composite=sa.Text,
    observed_at=_time,
    recorded_at=_time,
    cut_for=sa.Text,
    image=BYTEA,
    sha256=BYTEA,
    missing=sa.Text,
    removed_at=_time,
    crs=sa.Text,
    left_m=sa.Double,
    top_m=sa.Double,
    pixel_m=REAL,
    width=sa.SmallInteger,
    height=sa.SmallInteger,
    bar_m=sa.Integer,
    stretch=sa.Text,
)
chip_parcels: Final = _table("chip_parcels", parcel_key=sa.BigInteger, recorded_at=_time)
chip_pairs: Final = _table(
    "chip_pairs",
    alert_key=sa.BigInteger,
    recorded_at=_time,
    attempts=sa.SmallInteger,
    next_try_at=_time,
    last_error=sa.Text,
)
rounds: Final = _table(
    "rounds",
    round_key=sa.BigInteger,
    season_key=sa.SmallInteger,
    collection=sa.Text,
    name=sa.Text,
    as_known_at=_time,
    recorded_at=_time,
    published_by=sa.Text,
    reason=sa.Text,
    rules=ARRAY(sa.Text),
    rule_version=sa.Text,
    settings=JSONB,
    settings_sha256=sa.Text,
    policy_sha256=sa.Text,
    n_parcels=sa.BigInteger,
    content_sha256=sa.Text,
    previous_sha256=sa.Text,
    sha256=sa.Text,
)
round_lights: Final = _table(
    "round_lights",
    round_key=sa.BigInteger,
    parcel_key=sa.BigInteger,
    light=light,
    lights=ARRAY(light),
    rule_versions=ARRAY(sa.Text),
    found_at=ARRAY(_time),
    alert_states=ARRAY(sa.Text),
)
quality_samples: Final = _table(
    "quality_samples",
    sample_key=sa.BigInteger,
    season_key=sa.SmallInteger,
    collection=sa.Text,
    as_known_at=_time,
    recorded_at=_time,
    drawn_by=sa.Text,
    reason=sa.Text,
    seed=sa.Text,
    allocation=sa.Text,
    minimum=sa.Integer,
    expected_wrong=JSONB,
    confidence=REAL,
    half_width=REAL,
    second_share=REAL,
)
quality_strata: Final = _table(
    "quality_strata",
    sample_key=sa.BigInteger,
    stratum_nr=sa.SmallInteger,
    light=light,
    crop=sa.Text,
    n_parcels=sa.Integer,
    n_sampled=sa.Integer,
    area_ha=sa.Double,
    inclusion_probability=sa.Double,
)
quality_items: Final = _table(
    "quality_items",
    sample_key=sa.BigInteger,
    item=sa.Integer,
    parcel_key=sa.BigInteger,
    stratum_nr=sa.SmallInteger,
    declared_crop=sa.Text,
    light=light,
    lights=JSONB,
    inbox_rank=sa.Integer,
    n_reviewers=sa.SmallInteger,
)
quality_verdicts: Final = _table(
    "quality_verdicts",
    verdict_nr=sa.BigInteger,
    sample_key=sa.BigInteger,
    item=sa.Integer,
    recorded_at=_time,
    verdict=sa.Text,
    reviewer=sa.Text,
    reason=sa.Text,
)
policies: Final = _table(
    "policies",
    policy_key=sa.BigInteger,
    season_key=sa.SmallInteger,
    collection=sa.Text,
    name=sa.Text,
    version=sa.Integer,
    hash=sa.Text,
    content=sa.Text,
    decided_by=sa.Text,
    reason=sa.Text,
    recorded_at=_time,
)
