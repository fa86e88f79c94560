"""The French form of a recorded season: declared parcels as one 10 m pixel each, in composites of ten days.

    dekads.parquet       sample_id, timestamp (the dekad's first day), S2-L2A-B02.. (reflectance x 10000),
                         S1-SIGMA0-VV and -VH (DN), lon, lat, ewoc_code; 65535 = no data
    class_mappings.json  {legend: {ewoc_code: crop name}}

    sigma0 dB = 20 log10(DN) - 83, linear = DN^2 10^-8.3     (WorldCereal's coding of Sentinel-1)

A composite is no pass: it mixes orbits (direction "mixed", relative orbit 0) and days, and could not be known before
the dekad was over: observed and available are both its last second.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from research.seasons.replay_source import RecordedAcquisition, RecordedSeason, SeasonDataError
from research.seasons.rows import acquisition, in_order
from research.seasons.tabular import existing, read_parquet
from training.folds import blocks

NEEDED = "dekads.parquet and class_mappings.json"
LEGEND = "CROPTYPE_INSEASON_FRANCE"
NO_DATA = 65535
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")  # B8A is not in the source
S2_COLUMNS = {f"S2-L2A-{band}": band for band in BANDS}
S1_COLUMNS = {"S1-SIGMA0-VV": "VV", "S1-SIGMA0-VH": "VH"}
S1_FACTOR_DB = -83.0

METRES = "EPSG:2154"  # Lambert-93, the French national grid
BLOCK_M = 10_000  # chosen because it spans many farms and leaves 37 blocks; the source's own cells are only three
PIXEL_M = 10
MIN_SAMPLES = 12  # scoring rule of the data's page
UNNAMED = ("ignore", "nan", "")


def read(folder: Path) -> RecordedSeason:
    """Return the season in `folder`: from its first dekad to the end of its last, a parcel per sample.

    Raises:
        SeasonDataError: a file, column or legend is missing or of the wrong kind.
    """
    path = existing(folder, "dekads.parquet", NEEDED)
    numbers = [*S2_COLUMNS, *S1_COLUMNS, "lon", "lat", "ewoc_code"]
    dekads = read_parquet(path, numbers, dates=["timestamp"], texts=["sample_id"])
    dekads = dekads.rename(columns={"sample_id": "parcel_id", **S2_COLUMNS, **S1_COLUMNS})
    dekads = dekads.drop_duplicates(["parcel_id", "timestamp"])
    samples = _samples(dekads, _legends(existing(folder, "class_mappings.json", NEEDED)), folder)
    starts_on, ends_on = dekads["timestamp"].min().date(), last_day(dekads["timestamp"].max().date())
    same = {"collection": folder.resolve().name, "season": f"{starts_on:%Y-%m}_{ends_on:%Y-%m}"}
    passes = [one for _, dekad in dekads.groupby("timestamp") for one in _composites(dekad, len(samples), same)]
    return RecordedSeason(
        name=same["season"],
        collection=same["collection"],
        starts_on=starts_on,
        ends_on=ends_on,
        parcels=samples[["parcel_id", "region", "crop_code", "crop_name", "hcat_code", "geometry"]],
        passes=in_order(passes),
        labels=samples[["parcel_id", "label", "block"]].copy(),
        min_samples=MIN_SAMPLES,
        scored_on=_scored_on(starts_on, ends_on),
    )


def last_day(first: date) -> date:
    """Return the last day of the dekad that begins on `first`: the 10th, the 20th or the month's last."""
    if first.day < 21:
        return first + timedelta(days=9)
    return (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def _scored_on(starts_on: date, ends_on: date) -> tuple[date, ...]:
    """Return the Dutch season's dates in the season's main year, and its end."""
    year = ends_on.year - 1 if ends_on.month < 6 else ends_on.year
    inner = (date(year, month, day) for month, day in ((4, 30), (6, 15), (7, 15), (8, 15)))
    return (*(day for day in inner if starts_on < day < ends_on), ends_on)


def _legends(path: Path) -> dict[str, dict[str, str]]:
    try:
        legends = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError and JSONDecodeError
        raise SeasonDataError(f"{path}: not JSON ({error}); write it again") from error
    if not isinstance(legends, dict) or not isinstance(legends.get(LEGEND), dict):
        raise SeasonDataError(f"{path}: no legend {LEGEND}; give WorldCereal's mappings, {{legend: {{code: name}}}}")
    return {name: legend for name, legend in legends.items() if isinstance(legend, dict)}


def _samples(dekads: pd.DataFrame, legends: dict[str, dict[str, str]], folder: Path) -> gpd.GeoDataFrame:
    """Return a parcel per sample: its pixel, its declared crop in the legend that names it, the label to score, its block."""
    first = dekads.groupby("parcel_id", as_index=False).first()
    code = first["ewoc_code"].astype(np.int64).astype(str)
    label = [_name(legends[LEGEND], one) for one in code]
    others = [legend for name, legend in legends.items() if name != LEGEND]
    named = [
        of_legend or next((name for legend in others if (name := _name(legend, one))), f"WorldCereal {one}")
        for one, of_legend in zip(code, label, strict=True)
    ]
    centre = gpd.GeoSeries(gpd.points_from_xy(first["lon"], first["lat"]), crs="EPSG:4326").to_crs(METRES)
    half = PIXEL_M / 2
    pixel = shapely.box(centre.x - half, centre.y - half, centre.x + half, centre.y + half)
    parcels = gpd.GeoDataFrame(
        {
            "parcel_id": first["parcel_id"],
            "region": folder.resolve().name.rpartition("-")[0] or folder.resolve().name,
            "crop_code": code,
            "crop_name": named,
            "hcat_code": None,
            "label": pd.Series(label, dtype=object),
            "block": blocks(centre.x, centre.y, BLOCK_M),
        },
        geometry=gpd.GeoSeries(pixel, crs=METRES),
        crs=METRES,
    )
    return parcels.to_crs("EPSG:4326")


def _name(legend: dict[str, str], code: str) -> str | None:
    name = legend.get(code)
    return None if name is None or name.lower() in UNNAMED else name


def _composites(dekad: pd.DataFrame, n_samples: int, same: dict[str, Any]) -> list[RecordedAcquisition]:
    """Return the S1 and the S2 composite of one dekad."""
    first = dekad["timestamp"].iloc[0]
    over_at = datetime.combine(last_day(first.date()), time(23, 59, 59), UTC)
    found = []
    sensors: tuple[tuple[Literal["S1", "S2"], pd.DataFrame, dict[str, Any], str], ...] = (
        ("S1", _backscatter(dekad), {"direction": "mixed", "radiometry": "sigma0"}, "no_data"),
        ("S2", _reflectance(dekad), {}, "cloud"),
    )
    for sensor, rows, more, reason in sensors:
        found.append(
            acquisition(
                sensor,
                rows,
                observed_at=over_at,
                available_at=over_at,
                scene=f"{first:%Y%m%d}",
                same={**same, "platform": sensor, "relative_orbit": 0, **more},
                skipped={reason: len(dekad) - len(rows), "no_composite": n_samples - len(dekad)},
            )
        )
    return found


def _reflectance(dekad: pd.DataFrame) -> pd.DataFrame:
    """Return samples with a clear composite: nine bands as reflectance, and their NDVI = (B08 - B04) / (B08 + B04)."""
    values = dekad[list(BANDS)].astype(np.float64)
    values = values.mask(values == NO_DATA) / 10_000
    total = values["B08"] + values["B04"]
    ndvi = ((values["B08"] - values["B04"]) / total.where(total > 0)).clip(-1, 1)
    rows = values.assign(parcel_id=dekad["parcel_id"], NDVI=ndvi, n_clear=1, clear_fraction=1.0)
    return rows[values.notna().any(axis=1)]


def _backscatter(dekad: pd.DataFrame) -> pd.DataFrame:
    """Return samples with both polarisations, in linear power."""
    digital = dekad[["VV", "VH"]].astype(np.float64)
    there = ((digital != NO_DATA) & (digital > 0)).all(axis=1)
    linear = digital[there] ** 2 * 10 ** (S1_FACTOR_DB / 10)
    return linear.assign(parcel_id=dekad.loc[there, "parcel_id"], n_pixels=1)
