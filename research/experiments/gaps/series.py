"""Seasons as gap filling takes them: packed series, which parcels are scored, and folds blocked in space.

    Dutch form   the seven groups of `research.seasons.nl` where their names occur in the crops' names, else all parcels of at
                 least 0.3 ha; any parcel of at least 0.3 ha may be learned from
    simulator    crops as grown, all monitorable parcels; the true NDVI of every day is known

Days count from 1 January of the season's year in both.
Errors: SeasonDataError for a folder that is not of the Dutch form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints, SarSeries
from research.seasons import nl
from research.seasons.outcome import GROWN_NAME
from research.seasons.replay_source import ReplaySource
from research.simulator import SimulatorConfig, simulate_season
from training.folds import blocked_folds, blocks

PASS = ["parcel_id", "observed_at", "relative_orbit"]
"""What makes rows revisions of one observation."""
GRASS = ("gras", "grass", "meadow", "pasture")
"""Names of crops that are mown or grazed, Dutch and English: scored on their own beside the arable ones."""
ONE_GROUP = "all"
SIMULATED_BLOCK_DEGREES = 0.02
"""About 1.5 km, as the Dutch blocks."""


@dataclass(frozen=True)
class GapSeries:
    """The series of a season's parcels and how they are scored."""

    name: str
    sar: SarSeries
    """Cleaned."""
    clear: ClearSeries
    """Cleaned, days whole."""
    group: NDArray[np.str_]
    """(P,) crop group, empty where the parcel is not scored."""
    is_trained: Bools
    """(P,) parcels that may be learned from."""
    block: Ints
    """(P,) spatial block, numbered along the map."""
    fold: Ints
    """(P,) 0..4, by block."""
    truth: Floats | None = None
    """(P, D) true NDVI of days 0..D-1, where known."""

    @property
    def n_parcels(self) -> int:
        """P"""
        return len(self.group)

    @property
    def is_scored(self) -> Bools:
        """Return (P,) parcels whose views are hidden in turn."""
        return np.asarray(self.group != "")

    def training(self, is_chosen: Bools) -> tuple[SarSeries, ClearSeries, int]:
        """Return SAR and views of chosen parcels, renumbered 0..n-1 along the map, and n."""
        parcels = np.flatnonzero(is_chosen)
        parcels = parcels[np.argsort(self.block[parcels], kind="stable")]
        number = np.full(self.n_parcels, -1)
        number[parcels] = np.arange(len(parcels))
        sar, clear = self.sar.rows(is_chosen[self.sar.parcel]), self.clear.rows(is_chosen[self.clear.parcel])
        sar = SarSeries(number[sar.parcel], sar.day, sar.relative_orbit, sar.is_ascending, sar.vv_db, sar.vh_db)
        return sar, ClearSeries(number[clear.parcel], clear.day, clear.ndvi).cleaned(), len(parcels)


def is_grass(group: NDArray[np.str_]) -> Bools:
    """Return which crop groups are grass."""
    return np.array([any(word in name.lower() for word in GRASS) for name in group], dtype=bool)


def dutch(folder: Path) -> GapSeries:
    """Return a folder of the Dutch form.

    Raises:
        SeasonDataError: files or columns are missing.
    """
    season = nl.read(folder)
    group = [label if isinstance(label, str) else None for label in season.labels["label"]]
    is_large = season.parcels.to_crs(nl.METRES).area.to_numpy() >= 10_000 * nl.MIN_AREA_HA
    if not any(group):
        group = [ONE_GROUP if large else None for large in is_large.tolist()]
    block = season.labels["block"].to_numpy(str)
    return _packed(season.collection, season, season.starts_on, season.parcels["parcel_id"], group, is_large, block)


def simulated(config: SimulatorConfig) -> GapSeries:
    """Return a simulated season over its calendar year, with the truth of each day."""
    season = simulate_season(config)
    truth = season.truth.parcels
    seen = truth["is_monitorable"].to_numpy(np.bool_)
    group = [name if ok else None for name, ok in zip(truth["grown"].map(GROWN_NAME), seen, strict=True)]
    centre = season.parcels.geometry.to_crs(3857).centroid.to_crs(4326)
    block = blocks(centre.x, centre.y, SIMULATED_BLOCK_DEGREES).to_numpy(str)
    parcels, starts_on = season.parcels["parcel_id"], date(config.year, 1, 1)
    before = (season.starts_on - starts_on).days
    if before > 0:
        raise ValueError(f"the simulated season starts on {season.starts_on}; give it {starts_on} or earlier")
    name = f"simulated-{season.name}"
    packed = _packed(name, season, starts_on, parcels, group, seen, block)
    return GapSeries(**vars(packed) | {"truth": season.truth.ndvi[:, -before:].astype(np.float64)})


def calendar_year(year: int, seed: int, n_parcels: int, n_pixels: int) -> SimulatorConfig:
    """Return a simulated season of 1 January to 31 December, so that its days mean what they mean in a Dutch folder."""
    return SimulatorConfig(
        year=year,
        seed=seed,
        n_parcels=n_parcels,
        n_pixels=n_pixels,
        starts_on=date(year, 1, 1),
        ends_on=date(year, 12, 31),
    )


def _packed(
    name: str,
    season: ReplaySource,
    starts_on: date,
    parcel_ids: pd.Series,
    group: Sequence[str | None],
    is_trained: Bools,
    block: NDArray[np.str_],
) -> GapSeries:
    index = pd.Index(parcel_ids)
    s1 = _newest(season, "S1", ["direction", "VV", "VH"])
    s2 = _newest(season, "S2", ["NDVI"])
    with np.errstate(divide="ignore", invalid="ignore"):  # no power is no backscatter: cleaned drops it
        vv, vh = (10 * np.log10(s1[band].to_numpy(np.float64)) for band in ("VV", "VH"))
    sar = SarSeries(
        index.get_indexer(s1["parcel_id"]),
        _days(s1, starts_on),
        s1["relative_orbit"].to_numpy(np.int64),
        s1["direction"].to_numpy(str) == "ascending",
        vv,
        vh,
    ).cleaned()
    parcel, day = index.get_indexer(s2["parcel_id"]), np.floor(_days(s2, starts_on))
    clear = ClearSeries(parcel, day, s2["NDVI"].to_numpy(np.float64)).cleaned()
    places = sorted(set(block.tolist()), key=lambda place: tuple(map(int, place.split(","))))
    number = {place: nr for nr, place in enumerate(places)}
    return GapSeries(
        name,
        sar,
        clear,
        np.array([label or "" for label in group]),
        is_trained,
        np.array([number[place] for place in block.tolist()]),
        np.array(blocked_folds(block.tolist(), group)),
    )


def _newest(season: ReplaySource, sensor: str, values: list[str]) -> pd.DataFrame:
    """Return the newest revision of each observation of one sensor, in order of time; none of those that were withdrawn."""
    columns = [*PASS, "revision", "is_withdrawn", *values]
    tables = [one.table.select(columns) for one in season.acquisitions() if one.sensor.upper() == sensor]
    if not tables:
        return pd.DataFrame({column: [] for column in columns}).astype({"observed_at": "datetime64[us, UTC]"})
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    frame = frame.sort_values(["observed_at", "revision"], kind="stable")
    frame = frame.drop_duplicates(PASS, keep="last")
    return frame[~frame["is_withdrawn"]].reset_index(drop=True)


def _days(frame: pd.DataFrame, starts_on: date) -> Floats:
    since = frame["observed_at"] - pd.Timestamp(datetime.combine(starts_on, time(), UTC))
    return np.asarray(since.dt.total_seconds() / 86_400, dtype=np.float64)
