"""The door for Python: load a model, its posteriors and daily curves of one's own data, and a parcel's history.

    from parcelwatch import load_model, posteriors, daily_curve, parcel_history

It is in `training` because that is the product's highest package, the only one that may import models, tables and the store.
Inputs are checked as a training table is (`training.observation_table`); docs/python.md has examples.
Units:  reflectance 0..1, NDVI -1..1, VV and VH in dB or, where `units` says so, linear power; dates without a zone are UTC.
Errors: UserError, one line, which are ValueErrors too where the data are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from db import history, registry
from db.connect import Connection, engine
from db.seasons import last_anniversary
from devstack.addresses import resolve_dsn
from models.checkpoint import Checkpoint, CheckpointError, unpack
from models.classifier import crop_model, cross_fitted
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import Observations
from models.classifier.sampling import PackedParcels
from models.classifier.scoring import predict
from models.ndvi.curve_models import CurveModel, curve_model_of, reconstruct
from models.ndvi.daily_curve import ORIGINS
from models.ndvi.inputs import ClearSeries, SarSeries
from monitor.errors import NotFound
from monitor.features import season_days
from training.observation_table import RADAR_MODALITIES, ObservationTable, RadarUnits, TableError, checked, index, times

Day = date | str | np.datetime64
Dated = pd.Series | tuple[ArrayLike, ArrayLike]
Arrays = Mapping[str, tuple[ArrayLike, ArrayLike]]
DIRECTION_OF = {modality: direction for direction, modality in RADAR_MODALITIES.items()}


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with what its checkpoint states."""

    model: CropModel | CurveModel
    description: Mapping[str, Any]

    @property
    def about(self) -> Mapping[str, Any]:
        """Return where it comes from: data, counts, `units`, `starts_on`; a model of an earlier version may lack the last two."""
        return dict(self.description.get("about") or {})

    @property
    def starts_on(self) -> date | None:
        """Day 0 of the season it was trained on."""
        day = self.about.get("starts_on")
        return None if day is None else date.fromisoformat(str(day))

    @property
    def classes(self) -> tuple[str, ...]:
        """K crops; none of a model of curves."""
        return self.model.config.classes if isinstance(self.model, CropModel) else ()

    @property
    def channels(self) -> dict[str, tuple[str, ...]]:
        """Return what a classifier reads of each modality: s2, s1a (ascending), s1d (descending), s1 (direction unknown)."""
        if not isinstance(self.model, CropModel):
            return {}
        return {one.name: tuple(c for c in one.channels if c != "VV-VH") for one in self.model.config.modalities}


def load_model(source: str | int | Path, dsn: str | None = None) -> LoadedModel:
    """Load a model from a folder (weights.pt, model.json), or by key or first digits of its id from the registry.

    Args:
        source: the folder; else what `parcelwatch models list` shows as key or id.
        dsn: of the database; None: the one that the commands use.

    Raises:
        CheckpointError: the folder holds no model, or one that is broken, of radar alone or cross-fitted.
        NotFound: no registered model, or several, answer to it.
    """
    folder = Path(str(source))
    if isinstance(source, Path) or folder.is_dir() or "/" in str(source):
        try:
            checkpoint = Checkpoint((folder / "weights.pt").read_bytes(), (folder / "model.json").read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise CheckpointError(f"{folder}: no model (weights.pt and model.json): {reason}") from error
    else:
        with engine(dsn or resolve_dsn()).connect() as connection:
            row = registered(connection, str(source))
            checkpoint = Checkpoint(*registry.checkpoint(connection, row.model_key))
    _, description = unpack(checkpoint)
    kind = description.get("kind")
    if kind == cross_fitted.KIND:
        raise CheckpointError(
            f"model {checkpoint.model[:12]} is cross-fitted: which of its networks answers depends on where a parcel lies, "
            "which a table does not say; let it watch a season (`parcelwatch models activate`) and read its posteriors there"
        )
    load = CropModel.from_checkpoint if kind == crop_model.KIND else curve_model_of
    return LoadedModel(load(checkpoint), description)


def registered(connection: Connection, name: str) -> registry.ModelRow:
    """Return the registered model of a key, else of the first digits of an id; raises NotFound."""
    stored = registry.all_models(connection)
    found = [one for one in stored if str(one.model_key) == name]
    found = found or [one for one in stored if name and one.model_id.startswith(name)]
    if len(found) != 1:
        raise NotFound(f"{len(found) or 'no'} registered model answers to {name!r}; see `parcelwatch models list`")
    return found[0]


def posteriors(
    model: LoadedModel, observations: pd.DataFrame | Arrays, *, units: RadarUnits = "dB", starts_on: Day | None = None
) -> Any:
    """Return calibrated crop probabilities of parcels with all that is given of them; leave later rows out for an earlier day.

    Args:
        model: a classifier.
        observations: a DataFrame as `training.observation_table` describes it; or arrays by modality (`model.channels`
            names their order): (dates (T,), values (T, C) of one parcel or (P, T, C) of several), NaN where not observed.
        units: of VV and VH.
        starts_on: day 0 of these observations; None: the last anniversary of the model's day 0 before them.

    Returns:
        Of a DataFrame a DataFrame, index parcel_id, a column for each crop; of arrays an array (K,) or (P, K). NaN for a
        parcel that nothing was observed of.

    Raises:
        TableError: a channel is missing, or values, dates or shapes cannot be what they should.
    """
    if not isinstance(model.model, CropModel):
        raise TableError("this is a model of daily NDVI; posteriors need a classifier")
    if isinstance(observations, pd.DataFrame):
        table = checked(observations, units, "observations")
        return pd.DataFrame(
            _probabilities(model, model.model, table, starts_on),
            pd.Index(table.parcel_ids, name="parcel_id"),
            list(model.classes),
        )
    frame, is_one = _frame(model, observations)
    found = _probabilities(model, model.model, checked(frame, units, "observations"), starts_on)
    return found[0] if is_one else found


def daily_curve(
    model: LoadedModel,
    ndvi: Dated,
    radar: pd.DataFrame | None = None,
    *,
    units: RadarUnits = "dB",
    starts_on: Day | None = None,
) -> pd.DataFrame:
    """Return the gap-free daily NDVI of one parcel, from its first observation to its last.

    Args:
        model: of `parcelwatch models train ndvi`.
        ndvi: clear views: a Series by date, or (dates, values). NaN is no view.
        radar: VV and VH by date (index, or a column `date`), optional `direction` and `relative_orbit`; None: views alone.
        units: of VV and VH.
        starts_on: day 0; None: the last anniversary of the model's day 0 before the first view.

    Returns:
        Index date; ndvi, sd (of a clear view on that day), origin: observed, reconstructed or prior.

    Raises:
        TableError: values or dates cannot be what they should, or nothing was observed.
    """
    if isinstance(model.model, CropModel):
        raise TableError("this is a classifier; a curve needs a model of `parcelwatch models train ndvi`")
    at, values = (ndvi.index, ndvi.to_numpy()) if isinstance(ndvi, pd.Series) else ndvi
    view_at, view = times(at, "ndvi"), index(_floats(values, "ndvi"), "ndvi")
    if view.shape != view_at.shape:
        raise TableError(f"ndvi: {len(view_at)} dates, values of shape {view.shape}; one value a date is needed")
    view_at, view = view_at[np.isfinite(view)], view[np.isfinite(view)]
    passes = None if radar is None else checked(radar.assign(parcel_id="0"), units, "radar").frame
    seen = view_at if len(view_at) else np.array([], "M8[us]") if passes is None else passes["at"].to_numpy("M8[us]")
    if not len(seen):
        raise TableError("ndvi: no clear view, and no radar: there is nothing to reconstruct a curve from")
    day_0 = _day_0(model, pd.Timestamp(seen.min()).date(), starts_on)
    clear = ClearSeries(np.zeros(len(view), np.int64), season_days(view_at, day_0).astype(np.float64), view)
    sar = _sar(passes, day_0)
    days = np.floor(np.concatenate([clear.day, sar.day])).astype(np.int64)
    first, last = np.array([max(days.min(), 0)]), np.array([days.max()])
    rows = reconstruct(model.model, sar, clear, first, last)
    origin = np.array(ORIGINS, object)[rows.origin]
    on = pd.DatetimeIndex(np.datetime64(day_0) + rows.day, name="date")
    return pd.DataFrame({"ndvi": rows.ndvi, "sd": rows.sd, "origin": origin}, index=on)


def parcel_history(
    parcel_id: str,
    *,
    collection: str | None = None,
    season: str | None = None,
    as_known_at: datetime | str | None = None,
    dsn: str | None = None,
) -> pd.DataFrame:
    """Return all that the store knows of a parcel, a row each in order of time (the SQL function `parcel_history`).

    Args:
        parcel_id: the agency's own id.
        collection: needed where several collections of a season have the id.
        season: None: the newest that has it.
        as_known_at: what was known at a time, without a zone UTC; None: now.
        dsn: of the database; None: the one that the commands use.

    Returns:
        at, kind (s1, s2, ndvi, posterior, declaration, alert ...), recorded_at, ndvi, ndvi_sd, origin, vv_db, vh_db, crop,
        probability, relative_orbit, detail.

    Raises:
        NotFound: no such parcel, or several collections have one.
    """
    known = None if as_known_at is None else times([as_known_at], "as_known_at")[0].item().replace(tzinfo=UTC)
    with engine(dsn or resolve_dsn()).connect() as connection:
        found = history.find_parcel(connection, parcel_id, collection, season)
        if not found:
            raise NotFound(
                f"no parcel {parcel_id!r} is stored (collection {collection or 'any'}, season {season or 'any'})"
            )
        if len(same := [one for one in found if one[2] == found[0][2]]) > 1:
            raise NotFound(f"{parcel_id!r} is in the collections {', '.join(c for _, c, _ in same)}: give collection")
        rows = history.parcel_history(connection, found[0][0], None, None, known)
    return pd.DataFrame([asdict(one) for one in rows], columns=list(history.HistoryRow.__dataclass_fields__))


def _probabilities(
    loaded: LoadedModel, model: CropModel, table: ObservationTable, starts_on: Day | None
) -> NDArray[np.float64]:
    """Return (P, K) posteriors of the table's parcels at the end of its last day."""
    day_0 = _day_0(loaded, table.first, starts_on)
    if table.first < day_0:
        raise TableError(f"observations from {table.first} lie before starts_on {day_0}")
    reads = {one.name for one in model.config.modalities}
    if len(table.rows("s1")) and "s1" not in reads and reads & {"s1a", "s1d"}:
        raise TableError("observations: VV and VH without a direction; the model reads ascending and descending apart")
    packed = {one.name: _packed(table, one.name, one.channels, day_0) for one in model.config.modalities}
    if not any(len(one.day) for one in packed.values()):
        raise TableError(f"observations: none of what the model reads ({', '.join(packed)})")
    parcels = PackedParcels.of(model.normaliser, packed, table.geometry)
    last = float((table.last - day_0).days + 1)
    answers = predict(model.network, parcels, torch.arange(len(table.parcel_ids)), (last,), model.device)
    found = model.temperature.probabilities(answers.logits[0], answers.newest[0]).astype(np.float64)
    is_observed = np.isin(np.arange(len(found)), np.concatenate([one.parcel for one in packed.values()]))
    return np.where(is_observed[:, None], found, np.nan)


def _packed(table: ObservationTable, modality: str, channels: tuple[str, ...], day_0: date) -> Observations:
    if len(table.rows(modality)):
        return table.observations(modality, channels, day_0)
    nothing = np.zeros(0)
    return Observations(
        np.zeros((0, len(channels), 1), np.float32),
        nothing.astype(np.float32),
        nothing.astype(np.int64),
        nothing.astype(np.int16),
    )


def _frame(model: LoadedModel, arrays: Arrays) -> tuple[pd.DataFrame, bool]:
    """Return arrays as a table, parcels numbered so that text sorts as numbers do, and whether they are of one parcel."""
    if not arrays or (unknown := sorted(set(arrays) - set(model.channels))):
        names = ", ".join(unknown) if arrays else "nothing"
        raise TableError(f"arrays of {names}; the model reads {', '.join(model.channels)}")
    frames, shapes = [], set[tuple[int, ...]]()
    for name, (dates, given) in arrays.items():
        channels, at, values = model.channels[name], times(dates, f"{name}, dates"), _floats(given, name)
        if values.ndim not in (2, 3) or values.shape[-2:] != (len(at), len(channels)):
            needed = f"({len(at)}, {len(channels)}) or (P, {len(at)}, {len(channels)})"
            raise TableError(f"{name}: shape {values.shape}; {needed} is needed: dates, then {', '.join(channels)}")
        shapes.add(values.shape[:-2])
        n = values.size // max(1, len(at) * len(channels))
        frame = pd.DataFrame(values.reshape(-1, len(channels)), columns=list(channels))
        frame["parcel_id"], frame["date"] = [f"{one:09}" for one in range(n) for _ in at], np.tile(at, n)
        frames.append(frame.assign(direction=DIRECTION_OF.get(name, "mixed")))
    if len(shapes) > 1:
        raise TableError(
            f"arrays of {' and '.join(sorted(str(one[0] if one else 1) for one in shapes))} parcels; one number is needed"
        )
    return pd.concat(frames, ignore_index=True), shapes == {()}


def _sar(passes: pd.DataFrame | None, day_0: date) -> SarSeries:
    if passes is None:
        passes = pd.DataFrame({"at": np.array([], "M8[us]"), "modality": [], "relative_orbit": [], "VV": [], "VH": []})
    if "VV" not in passes:
        raise TableError("radar: no columns VV and VH")
    return SarSeries(
        np.zeros(len(passes), np.int64),
        season_days(passes["at"].to_numpy("M8[us]"), day_0).astype(np.float64),
        passes["relative_orbit"].to_numpy(np.int64),
        (passes["modality"] != "s1d").to_numpy(np.bool_),
        passes["VV"].to_numpy(np.float64),
        passes["VH"].to_numpy(np.float64),
    )


def _day_0(model: LoadedModel, first: date, given: Day | None) -> date:
    """Return day 0 as given, else the last anniversary of the model's day 0 that is not after a date."""
    if given is not None:
        return pd.Timestamp(times([given], "starts_on")[0]).date()
    if model.starts_on is None:
        raise TableError(
            "the model states no day 0 (an earlier version made it): give starts_on, the first day of the season"
        )
    return last_anniversary(model.starts_on, first)


def _floats(values: ArrayLike, where: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (ValueError, TypeError) as error:
        raise TableError(f"{where}: {error}; numbers are needed") from error
