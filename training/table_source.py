"""A table of one's own as labelled parcels: the table [data] with kind = "table", or a DataFrame.

Beside the columns of `training.observation_table` it has

    label               the crop; the same in all rows of a parcel, empty where it is not known
    fold                1..5, the fold in which the parcel is tested (optional)
    block               name of the spatial unit that folds must not split (optional), or
    x, y | lon, lat     a point in the parcel, metres or degrees (optional): blocks are squares of 1.5 km

Without fold, block and point each parcel is a block of its own: folds are then random, and neighbours flatter the scores.
Errors: TableError, NothingToLearn, one line each.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from db.sensors import S2_BANDS
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from training.folds import N_FOLDS, blocked_folds
from training.folds import blocks as metric_blocks
from training.labelled import NO_LABEL, LabelledParcels
from training.observation_table import RADAR_MODALITIES, ObservationTable, RadarUnits, TableError, checked
from training.season_models import EVALUATION_SHARES
from training.sources import LabelledSource, Progress, Section
from training.stored_season import BLOCK_M, S2_INDICES, NothingToLearn, blocks

MIN_PRESENT: Final = 0.95
"""Share of a sensor's rows in which a channel must have a value, as in a stored season."""


class TableOptions(Section):
    """How a table is read."""

    units: RadarUnits = "dB"
    """Of VV and VH."""
    starts_on: date | None = None
    """Day 0 of the season; None: 1 January of the year of the first observation."""
    scored_on: tuple[date, ...] = ()
    """Dates at whose end scores are taken; without any, shares of the season."""
    min_parcels: Annotated[int, Field(ge=1)] = 12
    """Labels of fewer parcels are left out."""

    def labelled(self, frame: pd.DataFrame, name: str = "table") -> LabelledParcels:
        """Return the labelled parcels of a DataFrame; see the module for its columns, units and errors."""
        table = checked(frame, self.units, name)
        starts_on = self.starts_on or date(table.first.year, 1, 1)
        if table.first < starts_on:
            raise TableError(f"{name}: observations from {table.first} lie before starts_on {starts_on}")
        label = self._labels(frame, table, name)
        block = _blocks(frame, table, name)
        classes = tuple(sorted(set(label) - {""}))
        configs, observations = _modalities(table, starts_on, name)
        scored_on = self._scored_on(table, starts_on, name)
        return LabelledParcels(
            name=name,
            observations=observations,
            geometry=table.geometry,
            labels=np.array([classes.index(one) if one else NO_LABEL for one in label], np.int64),
            classes=classes,
            modalities=configs,
            fold=_folds(frame, table, block, label, name),
            block=np.unique(block, return_inverse=True)[1].astype(np.int64),
            scored_on=tuple(float((day - starts_on).days + 1) for day in scored_on),
            day_names=tuple(f"{day:%-d %b}" for day in scored_on),
            parcel_ids=table.parcel_ids,
            starts_on=starts_on,
        )

    def _labels(self, frame: pd.DataFrame, table: ObservationTable, name: str) -> NDArray[np.str_]:
        """Return the label of each parcel, empty where it is not known or too rare."""
        label = _of_parcels(frame, table, "label", name)
        counts = pd.Series(label[label != ""]).value_counts()
        kept = counts.index[counts >= self.min_parcels]
        if len(kept) < 2:
            raise NothingToLearn(
                f"{name}: {len(kept)} labels with at least {self.min_parcels} parcels, two are needed; it has "
                f"{', '.join(f'{one} {n}' for one, n in counts.items()) or 'no label'}; min_parcels allows fewer"
            )
        return np.where(np.isin(label, list(kept)), label, "")

    def _scored_on(self, table: ObservationTable, starts_on: date, name: str) -> tuple[date, ...]:
        length = (table.last - starts_on).days
        days = {starts_on + timedelta(days=round(share * length)) for share in EVALUATION_SHARES}
        asked = sorted(self.scored_on or {day for day in days if day >= table.first})
        if asked[-1] < table.first:
            raise TableError(f"{name}: scored_on ends {asked[-1]}, before the first observation of {table.first}")
        return tuple(asked)


class TableData(TableOptions, LabelledSource):
    """A Parquet file of observations per parcel and date, with labels."""

    kind: Literal["table"] = "table"
    path: Path

    def open(self, progress: Progress | None = None) -> LabelledParcels:  # noqa: ARG002 (nothing is cut)
        """Return the labelled parcels; raises TableError, NothingToLearn."""
        if not self.path.is_file():
            raise TableError(f"{self.path}: no such file; [data] path names a Parquet file")
        try:
            frame = pd.read_parquet(self.path)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TableError(
                f"{self.path}: not a Parquet file ({reason}); write it with DataFrame.to_parquet"
            ) from error
        return self.labelled(frame, self.path.stem)


def _of_parcels(frame: pd.DataFrame, table: ObservationTable, column: str, name: str) -> NDArray[np.str_]:
    """Return (P,) the text of a column that is the same in all rows of a parcel, empty where there is none."""
    if column not in frame:
        raise TableError(f"{name}: no column {column}; it has {', '.join(map(str, frame.columns))}")
    known = pd.DataFrame({"parcel": frame["parcel_id"].astype(str), "value": frame[column]}).dropna()
    known = known.assign(value=known["value"].astype(str)).drop_duplicates()
    if len(twice := known[known["parcel"].duplicated(keep=False)]):
        first = twice[twice["parcel"] == twice["parcel"].iloc[0]]
        raise TableError(
            f"{name}: parcel {first['parcel'].iloc[0]} has the {column}s {', '.join(first['value'])}; one is needed"
        )
    return known.set_index("parcel")["value"].reindex(table.parcel_ids).fillna("").to_numpy(str)


def _blocks(frame: pd.DataFrame, table: ObservationTable, name: str) -> NDArray[np.str_]:
    """Return (P,) the name of each parcel's block."""
    if "block" in frame:
        block = _of_parcels(frame, table, "block", name)
        if missing := int((block == "").sum()):
            raise TableError(f"{name}: {missing} parcels without a block; fill it, or leave the column out")
        return block
    for x_name, y_name in (("x", "y"), ("lon", "lat")):
        if x_name in frame and y_name in frame:
            points = frame.assign(parcel=frame["parcel_id"].astype(str)).groupby("parcel")[[x_name, y_name]].mean()
            points = points.reindex(table.parcel_ids)
            if points.isna().any(axis=None):
                raise TableError(f"{name}: {int(points.isna().any(axis=1).sum())} parcels without {x_name}, {y_name}")
            x, y = points[x_name], points[y_name]
            is_degrees = bool(x.abs().max() <= 180 and y.abs().max() <= 90)
            if is_degrees != (x_name == "lon"):
                needed = (
                    "metres are needed; degrees are lon, lat" if is_degrees else "degrees are needed; metres are x, y"
                )
                raise TableError(f"{name}: {x_name} lies between {x.min():g} and {x.max():g}; {needed}")
            if x_name == "x":
                return metric_blocks(x, y, BLOCK_M).to_numpy(str)
            return blocks(x, y).astype(str)
    return table.parcel_ids.astype(str)


def _folds(
    frame: pd.DataFrame, table: ObservationTable, block: NDArray[np.str_], label: NDArray[np.str_], name: str
) -> NDArray[np.int64]:
    """Return (P,) the fold 1..5 of each parcel."""
    if "fold" not in frame:
        return np.array(blocked_folds(block.tolist(), [one or None for one in label]), np.int64) + 1
    given = pd.to_numeric(pd.Series(_of_parcels(frame, table, "fold", name)), errors="coerce")
    if not given.isin(range(1, N_FOLDS + 1)).all():
        raise TableError(f"{name}: fold holds other values than 1 to {N_FOLDS}, or none for some parcel")
    return given.to_numpy(np.int64)


def _modalities(
    table: ObservationTable, starts_on: date, name: str
) -> tuple[tuple[ModalityConfig, ...], dict[str, Observations]]:
    """Return what the table has been observed by, with published temporal dropout."""
    configs = []
    if len(rows := table.rows("s2")):
        present = [one for one in table.optical if rows[one].notna().mean() > MIN_PRESENT]
        channels = [one for one in present if one in S2_BANDS] or [one for one in present if one in S2_INDICES]
        if not channels:
            raise TableError(
                f"{name}: no band of Sentinel-2 has a value in {MIN_PRESENT:.0%} of the rows that have any"
            )
        configs.append(ModalityConfig("s2", tuple(channels), temporal_dropout=0.4, pixels=1, has_anomalies=True))
    configs += [
        ModalityConfig(
            one, ("VV", "VH", "VV-VH"), temporal_dropout=0.2, is_per_orbit=True, pixels=1, has_anomalies=True
        )
        for one in RADAR_MODALITIES.values()
        if len(table.rows(one))
    ]
    return tuple(configs), {one.name: table.observations(one.name, one.channels, starts_on) for one in configs}
