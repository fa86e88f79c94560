"""The Dutch form of a recorded season: declared parcels with per-date Sentinel-1 backscatter and Sentinel-2 indices.

    parcels.geojson         gid, crop_code, crop_name, geometry in EPSG:4326
    s1_backscatter.parquet  gid, date, orbit, VV, VH in dB, means over the parcel
    s2_indices.parquet      gid, date, NDVI, NDVI_SD, NBR, BSI, S2WI, means over the parcel; NaN = cloud

The files give a day, no time: the pass is placed where the satellite flies over (`research.seasons.overpass`). The column NBR
holds NBR2 = (B11 - B12) / (B11 + B12), as the data's page says and its values show: over crops NBR would exceed 0.46.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from research.seasons.overpass import direction, sentinel1_pass, sentinel1_platform, sentinel2_pass
from research.seasons.replay_source import RecordedAcquisition, RecordedSeason, SeasonDataError
from research.seasons.rows import acquisition, in_order
from research.seasons.tabular import existing, read_parquet
from training.folds import blocks

NEEDED = "parcels.geojson, s1_backscatter.parquet and s2_indices.parquet"
INDICES = {"NDVI": "NDVI", "NDVI_SD": "NDVI_SD", "NBR": "NBR2", "BSI": "BSI", "S2WI": "S2WI"}

METRES = "EPSG:28992"  # Amersfoort / RD New, the Dutch national grid
BLOCK_M = 1500  # scoring rule of the data's page: floor(x / 1500), floor(y / 1500) of the centroid
MIN_AREA_HA = 0.3  # scoring rule of the data's page
PIXEL_M2 = 100  # Sentinel-2's 10 m pixel, and the spacing of Sentinel-1 GRD

GROUPS = {
    "aardappel": "aardappel",
    "uien": "uien",
    "tarwe, winter": "tarwe winter",
    "bieten": "bieten",
    "tulp": "tulp",
    "grasland": "grasland",
    "witlof": "witlof",
}
"""A word in the declared crop's name, in lower case, and the group it stands for; the groups exclude each other."""

# The source does not say when products could be had. Chosen so that a day's passes are known at that day's end, which
# the usual delivery of Sentinel-1 GRD (hours) and Sentinel-2 L2A (half a day) over Europe allows.
LATENCY = {"S1": timedelta(hours=6), "S2": timedelta(hours=12)}
SCORED_ON = ((4, 30), (6, 15), (7, 15), (8, 15), (12, 31))


def read(folder: Path) -> RecordedSeason:
    """Return the season in `folder`: a calendar year, all of its parcels, passes in order of availability.

    Raises:
        SeasonDataError: a file or column is missing or of the wrong kind.
    """
    parcels = _parcels(folder)
    s1 = read_parquet(existing(folder, "s1_backscatter.parquet", NEEDED), ["gid", "orbit", "VV", "VH"], dates=["date"])
    s2 = read_parquet(existing(folder, "s2_indices.parquet", NEEDED), ["gid", *INDICES], dates=["date"])
    for name, rows in (("s1_backscatter.parquet", s1), ("s2_indices.parquet", s2)):
        if not rows["gid"].isin(parcels["gid"]).any():
            raise SeasonDataError(
                f"{folder / name}: no gid is that of a parcel in parcels.geojson; do they belong together?"
            )
    first, last = min(s1["date"].min(), s2["date"].min()), max(s1["date"].max(), s2["date"].max())
    name = f"{first.year}" if first.year == last.year else f"{first.year}-{last.year}"
    same = {"collection": folder.resolve().name, "season": name}
    passes = [*_sentinel1(s1, parcels, same), *_sentinel2(s2, parcels, same)]
    return RecordedSeason(
        name=name,
        collection=same["collection"],
        starts_on=date(first.year, 1, 1),
        ends_on=date(last.year, 12, 31),
        parcels=parcels[["parcel_id", "region", "crop_code", "crop_name", "hcat_code", "geometry"]],
        passes=in_order(passes),
        labels=parcels[["parcel_id", "label", "block"]].copy(),
        min_samples=1,
        scored_on=tuple(date(last.year, month, day) for month, day in SCORED_ON),
    )


def crop_group(crop_name: str) -> str | None:
    """Return the scored group of a Dutch declared crop, by a word in its name."""
    return next((group for word, group in GROUPS.items() if word in crop_name.lower()), None)


def _parcels(folder: Path) -> gpd.GeoDataFrame:
    path = existing(folder, "parcels.geojson", NEEDED)
    try:
        frame = gpd.read_file(path)
    except (OSError, ValueError, RuntimeError) as error:  # pyogrio's DataSourceError is a RuntimeError
        raise SeasonDataError(f"{path}: not a GeoJSON file ({str(error).splitlines()[0]}); write it again") from error
    if missing := [name for name in ("gid", "crop_code", "crop_name") if name not in frame.columns]:
        raise SeasonDataError(f"{path}: no property {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if not pd.api.types.is_integer_dtype(frame["gid"]):
        raise SeasonDataError(f"{path}: property gid holds {frame['gid'].dtype}, not whole numbers; convert it")
    if not frame["gid"].is_unique:
        twice = frame["gid"][frame["gid"].duplicated()].iloc[0]
        raise SeasonDataError(f"{path}: gid {twice} is there twice; a parcel is one feature")
    if (empty := frame.geometry.isna() | frame.geometry.is_empty).any():
        raise SeasonDataError(f"{path}: gid {frame['gid'][empty].iloc[0]} has no geometry; give its outline or drop it")
    planar = frame.to_crs(METRES)
    centre = planar.centroid
    is_large = planar.area / 10_000 >= MIN_AREA_HA
    label = [crop_group(str(name)) if large else None for name, large in zip(frame["crop_name"], is_large, strict=True)]
    return frame.assign(
        parcel_id=frame["gid"].astype(str),
        region=folder.resolve().name.rpartition("-")[0] or folder.resolve().name,
        crop_code=frame["crop_code"].astype(str),
        crop_name=frame["crop_name"].astype(str),
        hcat_code=None,
        label=pd.Series(label, dtype=object, index=frame.index),
        block=blocks(centre.x, centre.y, BLOCK_M),
        n_pixels=np.maximum(1, np.round(planar.area / PIXEL_M2)).astype(np.int64),
    )


def _sentinel1(s1: pd.DataFrame, parcels: gpd.GeoDataFrame, same: dict[str, Any]) -> list[RecordedAcquisition]:
    """Return an acquisition per day and relative orbit; the files do not say so, but GRD products are sigma0 as a rule."""
    longitude, latitude = _middle(parcels)
    rows = _joined(s1, parcels).dropna(subset=["VV", "VH"])
    rows = rows.assign(VV=10 ** (rows["VV"].astype(np.float64) / 10), VH=10 ** (rows["VH"].astype(np.float64) / 10))
    found = []
    for _, group in rows.groupby(["date", "orbit"]):
        on, orbit = group["date"].iloc[0].date(), int(group["orbit"].iloc[0])
        observed_at = sentinel1_pass(on, orbit, longitude, latitude)
        found.append(
            acquisition(
                "S1",
                group,
                observed_at=observed_at,
                available_at=observed_at + LATENCY["S1"],
                scene=f"{on:%Y%m%d}/{orbit}",
                same={
                    **same,
                    "platform": sentinel1_platform(on, orbit),
                    "relative_orbit": orbit,
                    "direction": direction(orbit, longitude),
                    "radiometry": "sigma0",
                },
                skipped={"no_data": len(parcels) - len(group)},
            )
        )
    return found


def _sentinel2(s2: pd.DataFrame, parcels: gpd.GeoDataFrame, same: dict[str, Any]) -> list[RecordedAcquisition]:
    """Return an acquisition per day; the files say neither satellite nor relative orbit, nor how many pixels were clear."""
    longitude, latitude = _middle(parcels)
    rows = _joined(s2, parcels).rename(columns={**INDICES, "n_pixels": "n_clear"})
    found = []
    for _, group in rows.groupby("date"):
        on, clear = group["date"].iloc[0].date(), group.dropna(subset=["NDVI"])
        observed_at = sentinel2_pass(on, longitude, latitude)
        found.append(
            acquisition(
                "S2",
                clear,
                observed_at=observed_at,
                available_at=observed_at + LATENCY["S2"],
                scene=f"{on:%Y%m%d}",
                same={**same, "platform": "S2", "relative_orbit": 0},
                skipped={"cloud": len(group) - len(clear), "no_data": len(parcels) - len(group)},
            )
        )
    return found


def _joined(rows: pd.DataFrame, parcels: gpd.GeoDataFrame) -> pd.DataFrame:
    """Return rows with their parcel's id and size; of several rows of a parcel and pass the first."""
    known = rows.merge(pd.DataFrame(parcels[["gid", "parcel_id", "n_pixels"]]), on="gid", how="inner")
    return known.drop_duplicates(["gid", "date", *(["orbit"] if "orbit" in known.columns else [])])


def _middle(parcels: gpd.GeoDataFrame) -> tuple[float, float]:
    """Return longitude and latitude of the middle of all parcels."""
    west, south, east, north = parcels.total_bounds
    return (west + east) / 2, (south + north) / 2
