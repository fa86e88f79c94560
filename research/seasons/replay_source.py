"""Seasons that can be replayed: what a driver needs to send a season through the whole chain.

A simulated and a recorded season fulfil `ReplaySource` alike. `RecordedSeason` holds one that was read from files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, Protocol

import geopandas as gpd
import pandas as pd
import pyarrow as pa

from terminal.errors import UserError

Sensor = Literal["S1", "S2"]


class SeasonDataError(UserError, ValueError):
    """A folder that holds no season that can be replayed: the message says where, what and what to do. Stop."""


class Acquisition(Protocol):
    """What one pass (or composite) of one sensor brought: a row per parcel, in the columns of the message contract."""

    @property
    def available_at(self) -> datetime:
        """Return when the product could be had, aware UTC: no one knew anything of it before."""

    @property
    def sensor(self) -> str:
        """S1 or S2, in either case."""

    @property
    def table(self) -> pa.Table:
        """Return the observations."""


class ReplaySource(Protocol):
    """A season with its parcels and its acquisitions in the order in which they became available."""

    @property
    def name(self) -> str:
        """Return the season's name, as in the table `seasons`."""

    @property
    def starts_on(self) -> date:
        """First day of the season: day 0 of model time."""

    @property
    def ends_on(self) -> date:
        """Last day of the season."""

    @property
    def parcels(self) -> gpd.GeoDataFrame:
        """parcel_id, region, crop_code, crop_name, hcat_code (str, the last may be null), geometry in EPSG:4326."""

    def acquisitions(self) -> Iterator[Acquisition]:
        """Return all acquisitions, in order of availability."""


@dataclass(frozen=True)
class RecordedAcquisition:
    """An acquisition read from files, with what became of the parcels it has no row for."""

    available_at: datetime
    sensor: Sensor
    table: pa.Table
    skipped: Mapping[str, int]
    """Parcels expected in the pass that have no row, by reason: expected = rows + skipped."""


@dataclass(frozen=True)
class RecordedSeason:
    """A real season read from a folder, with what is needed to score crop classes on it."""

    name: str
    collection: str
    starts_on: date
    ends_on: date
    parcels: gpd.GeoDataFrame
    passes: tuple[RecordedAcquisition, ...]
    """In order of availability."""
    labels: pd.DataFrame
    """parcel_id, label (the crop group if the parcel may be scored, else None), block: a row per parcel."""
    min_samples: int
    """A label with fewer parcels in the folder than this is not scored."""
    scored_on: tuple[date, ...]
    """The days at whose end scores are taken."""
    monitorable_as_given: bool = True
    """The source measured these very parcels, so the import's rule of a least number of pixels is not for them."""

    def acquisitions(self) -> Iterator[RecordedAcquisition]:
        """Return all acquisitions, in order of availability."""
        return iter(self.passes)


def known_by(day: date) -> datetime:
    """Return the end of a day, UTC: what became available before it counts as known on that day."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)
