"""Parquet files of recorded seasons, checked: what is missing or of the wrong kind ends in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from research.seasons.replay_source import SeasonDataError


def existing(folder: Path, name: str, needed: str) -> Path:
    """Return the path of a file that must be there; `needed` says what the folder should hold."""
    path = folder / name
    if not folder.is_dir():
        raise SeasonDataError(f"{folder}: no such folder; give a folder with {needed}")
    if not path.is_file():
        raise SeasonDataError(f"{path}: no such file; a folder of this kind holds {needed}")
    return path


def read_parquet(
    path: Path, numbers: Sequence[str], dates: Sequence[str] = (), texts: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the named columns of a Parquet file: numbers as they are, dates as midnight (naive), texts as str."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SeasonDataError(f"{path}: not a Parquet file ({_first_line(error)}); write it again") from error
    wanted = [*numbers, *dates, *texts]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise SeasonDataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    frame = cast(pd.DataFrame, table.select(wanted).to_pandas())
    if frame.empty:
        raise SeasonDataError(f"{path}: no rows; give a season with observations")
    for name in numbers:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise SeasonDataError(f"{path}: column {name} holds {kind}, not numbers; convert it")
    for name in dates:
        frame[name] = _days(path, name, frame[name])
    for name in texts:
        frame[name] = frame[name].astype(str)
    return frame


def _days(path: Path, name: str, column: pd.Series) -> pd.Series:
    try:
        if pd.api.types.is_numeric_dtype(column):
            raise ValueError(f"{column.dtype}")
        days = pd.to_datetime(column, format="ISO8601" if column.dtype in (object, "str") else None)
    except (ValueError, TypeError) as error:
        reason = f"{path}: column {name} holds no dates ({_first_line(error)}); write YYYY-MM-DD"
        raise SeasonDataError(reason) from error
    if days.isna().any():
        raise SeasonDataError(f"{path}: column {name} has {days.isna().sum()} rows without a date; fill or drop them")
    return days.dt.normalize()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
