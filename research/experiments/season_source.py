"""A recorded or simulated season in memory as labelled parcels: no database, no stream; the same rows, channels and folds.

    acquisitions ── newest revision of each pass ── rows as the store holds them ── monitor.features ── observations

A day of the season counts what was *observed* by its end; a product may have arrived a few days later (simulator only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from db.sensors import SENSORS, Sensor
from db.series import DIRECTIONS
from ingest.parcels.geometry import measure
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from monitor.features import geometry, packed, sensor_of, split_modalities
from research.seasons.outcome import GROWN_NAME, DemoSettings
from research.seasons.recorded import classes_of, labels_frame
from research.seasons.replay_source import Acquisition, RecordedSeason, ReplaySource
from research.simulator import Season as SimulatedSeason
from training.folds import blocked_folds
from training.labelled import LabelledParcels
from training.stored_season import blocks, modality

PASS: Final = ["parcel_id", "observed_at", "relative_orbit"]
"""What makes rows revisions of one observation."""
PIXELS: Final = 32
"""Pixels of a set drawn in training (published)."""
Rows = NDArray[np.void]


def recorded(season: RecordedSeason) -> LabelledParcels:
    """Return a recorded folder, scored as its page says: labels, blocks, folds and dates.

    Raises:
        SeasonDataError: fewer than two classes can be scored.
    """
    return labelled(season.collection, season, labels_frame(season), season.scored_on)


def simulated(season: SimulatedSeason, min_parcels: int) -> LabelledParcels:
    """Return a simulated season, labelled with the crops that truly grew, folds blocked in space.

    Args:
        min_parcels: crops that fewer monitorable parcels grow are left out.
    """
    truth, centre = season.truth.parcels, season.parcels.geometry.to_crs(3857).centroid.to_crs(4326)
    grown = truth["grown"].map(GROWN_NAME).where(truth["is_monitorable"])
    counts = grown.value_counts()
    label = [name if counts.get(name, 0) >= min_parcels else None for name in grown]
    block = blocks(centre.x, centre.y).astype(str).tolist()
    labels = pd.DataFrame({"parcel_id": truth["parcel_id"], "block": block, "fold": blocked_folds(block, label)})
    labels["label"] = pd.Series(label, dtype=object)
    scored_on = DemoSettings(year=season.config.year).scored_on
    return labelled(f"simulated-{season.name}", season, labels, scored_on)


def labelled(
    name: str, season: ReplaySource, labels: pd.DataFrame, scored_on: Sequence[date], pixels: int = PIXELS
) -> LabelledParcels:
    """Return any season with its labels.

    Args:
        labels: parcel_id, label (None: not scored), block, fold (0..4), as `research.seasons.recorded.labels_frame` gives them.
        scored_on: dates at whose end scores are taken.
        pixels: pixels of a set drawn in training, where the season has pixel sets.
    """
    frame = season.parcels.reset_index(drop=True)
    labels = labels.set_index("parcel_id").loc[frame["parcel_id"]]
    classes = classes_of(labels)
    configs, observations = _observations(season, frame["parcel_id"], labels["label"].notna().to_numpy(), pixels)
    return LabelledParcels(
        name=name,
        observations=observations,
        geometry=shape_of(frame),
        labels=pd.Categorical(labels["label"], categories=classes).codes.astype(np.int64),  # missing: -1, NO_LABEL
        classes=classes,
        modalities=configs,
        fold=labels["fold"].to_numpy(np.int64) + 1,
        block=np.unique(labels["block"].to_numpy(str), return_inverse=True)[1].astype(np.int64),
        scored_on=tuple(float((day - season.starts_on).days + 1) for day in scored_on),
        day_names=tuple(f"{day:%-d %b}" for day in scored_on),
        parcel_ids=frame["parcel_id"].astype(str).to_numpy(object),
        starts_on=season.starts_on,
    )


def _observations(
    season: ReplaySource, parcel_ids: pd.Series, is_labelled: NDArray[np.bool_], pixels: int
) -> tuple[tuple[ModalityConfig, ...], Mapping[str, Observations]]:
    index = pd.Index(parcel_ids)
    s2, s2_sets = rows_of(season.acquisitions(), "S2", index)
    s1, s1_sets = rows_of(season.acquisitions(), "S1", index)
    configs, found = [], {}
    for name, rows in split_modalities(s2, s1).items():
        if not len(rows):
            continue
        sets = (s2_sets if sensor_of(name) == "S2" else s1_sets)[rows["nr"]]
        # The channels are those of the labelled parcels, as in a stored season: the others may be too small to have all.
        known = rows[is_labelled[rows["parcel_key"]]]
        config = modality(name, known, pixels, has_sets=any(one is not None for one in sets))
        configs.append(config)
        found[name] = packed(
            config,
            rows,
            rows["parcel_key"],
            season.starts_on,
            pa.array(sets.tolist(), pa.binary()) if config.pixels > 1 else None,
        )
    return tuple(configs), found


def rows_of(acquisitions: Iterable[Acquisition], sensor: Sensor, parcels: pd.Index) -> tuple[Rows, NDArray[np.object_]]:
    """Return the newest revisions of one sensor's observations, by parcel and time as the store gives them, and their pixel sets.

    `parcel_key` is the parcel's position, `nr` the row's own.
    """
    wanted = SENSORS[sensor].series
    kept = [one.table for one in acquisitions if one.sensor.upper() == sensor and one.table.num_rows]
    schema = {column: column.lower() for column in (kept[0].column_names if kept else ())}
    values = [column for column, name in schema.items() if wanted.get(name) == "real"]
    kind = [
        ("parcel_key", "i8"),
        ("nr", "i8"),
        ("observed_at", "M8[us]"),
        ("relative_orbit", "i2"),
        ("direction_nr", "i2"),
        *((column.lower(), "f4") for column in values),
    ]
    if not kept:
        return np.zeros(0, kind), np.zeros(0, object)
    direction = ["direction"] if sensor == "S1" else []
    columns = [*PASS, "revision", "is_withdrawn", "pixels", *direction, *values]
    frame = pa.concat_tables([one.select(columns) for one in kept]).to_pandas()
    frame["parcel"] = parcels.get_indexer(frame["parcel_id"])
    frame = frame[frame["parcel"] >= 0].sort_values(["parcel", "observed_at", "relative_orbit", "revision"])
    frame = frame.drop_duplicates(PASS, keep="last")
    frame = frame[~frame["is_withdrawn"]]
    rows = np.zeros(len(frame), kind)
    rows["parcel_key"], rows["nr"], rows["relative_orbit"] = frame["parcel"], range(len(frame)), frame["relative_orbit"]
    rows["observed_at"] = frame["observed_at"].dt.tz_convert(None).to_numpy("M8[us]")
    for column in values:
        rows[column.lower()] = frame[column]
    if direction:
        rows["direction_nr"] = frame["direction"].map({one: nr for nr, one in enumerate(DIRECTIONS, start=1)})
    return rows, frame["pixels"].to_numpy(object)


def shape_of(frame: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Return (P, 4) as the import of parcels measures them."""
    outlines = measure(frame.geometry.to_wkb().tolist(), frame.crs)
    return geometry(outlines.perimeter_m.tolist(), outlines.area_ha.tolist(), outlines.bbox_fill.tolist())
