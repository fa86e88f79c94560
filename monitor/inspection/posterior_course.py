"""The posteriors of one parcel after each of some acquisitions, computed anew: for what was available by a time.

Every acquisition is encoded once, as if of a parcel of its own; states merge in the order of time.
"""

from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from db import registry
from db.columns import to_utc
from db.connect import Connection
from db.history import HistoryRow
from db.parcels import Parcel
from db.pixel_sets import pixel_sets
from models.checkpoint import Checkpoint
from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.crop_model import CropModel
from models.classifier.cross_fitted import classifier_of
from monitor.features import geometry, packed, season_days, sensor_of, split_modalities


def posterior_course(
    connection: Connection, parcel: Parcel, model_key: int, starts_on: date, s2: NDArray[np.void], s1: NDArray[np.void]
) -> list[HistoryRow]:
    """Return a posterior for each pass over a parcel, given it and all passes before; rows as `parcel_history` has them.

    Args:
        model_key: the classifier.
        starts_on: first day of the season.
        s2, s1: observations of the parcel, sorted by time (`db.series`).

    Raises:
        CheckpointError: the model is no crop classifier that can be read.
    """
    model = classifier_of(Checkpoint(*registry.checkpoint(connection, model_key)))
    series = split_modalities(s2, s1)
    passes = np.unique(np.concatenate([series[one.name]["observed_at"] for one in model.config.modalities]))
    if len(passes) == 0:
        return []
    observed = {}
    for one in model.config.modalities:
        rows = np.sort(series[one.name], order="observed_at")
        sets = pixel_sets(connection, sensor_of(one.name), rows) if one.pixels > 1 else None
        observed[one.name] = packed(one, rows, np.searchsorted(passes, rows["observed_at"]), starts_on, sets)
    shape = np.repeat(geometry([parcel.perimeter_m], [parcel.area_ha], [parcel.bbox_fill]), len(passes), axis=0)
    fold = model.fold_of(np.full(len(passes), parcel.lon or 0.0), np.full(len(passes), parcel.lat or 0.0))
    each = model.encode(model.batch(observed, shape), fold=fold)
    states = {name: _running(state) for name, state in each.items()}
    probabilities = model.posteriors(states, season_days(passes, starts_on), fold)
    return [_row(to_utc(at), model, of_pass) for at, of_pass in zip(passes, probabilities, strict=True)]


def _running(each: State) -> State:
    """Return the states (T,) after each of T passes from those (T,) of the passes alone."""
    so_far = [each.take(slice(0, 1))]
    for nr in range(1, len(each)):
        so_far.append(attention_state.merge(so_far[-1], each.take(slice(nr, nr + 1))))
    return attention_state.concatenate(so_far)


def _row(at: datetime, model: CropModel, probabilities: NDArray[np.float32]) -> HistoryRow:
    best = int(np.argmax(probabilities))
    classes = list(model.config.classes)
    nothing = dict.fromkeys(("relative_orbit", "ndvi", "ndvi_sd", "origin", "vv_db", "vh_db"))
    detail = {"classes": classes, "probabilities": probabilities.tolist()}
    return HistoryRow(
        at=at,
        kind="posterior",
        recorded_at=at,
        crop=classes[best],
        probability=float(probabilities[best]),
        detail=detail,
        **nothing,
    )
