"""A packed store of PASTIS-R as labelled parcels.

Scores are taken at calendar days of the main season, 2019, and at the end of the last day that was observed.
Units:  S2 reflectance, S1 dB, days since 2018-09-01.
Errors: PastisError for a store without an observation.
"""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from research.experiments.pastis_store import Notice, Options, Store
from training.labelled import NO_LABEL, LabelledParcels
from training.patch_metadata import CLASSES, INVALID, SENSORS, STARTS_ON, PastisError, Sensor

SCORED_ON = (date(2019, 2, 28), date(2019, 4, 30), date(2019, 6, 15), date(2019, 7, 15), date(2019, 8, 15))
"""The days of the recorded seasons (research.seasons.nl), and one before them: most of these crops are sown in autumn."""


def labelled(store: Store, name: str, options: Options, notice: Notice, *, is_co_located: bool) -> LabelledParcels:
    """Return the parcels of a store with published temporal dropout, official folds, and patches as blocks.

    Args:
        is_co_located: pixel s is the same place for all sensors and dates.

    Raises:
        PastisError: there is no observation.
    """
    parcels = store.parcels
    sensors = [one for one in SENSORS if one.modality in store.observed]
    if absent := [one.name for one in SENSORS if one not in sensors]:
        notice(f"{name}: without {', '.join(absent)}; fusion of all three needs PASTIS-R whole")
    if unseen := int((parcels.n_pixels == 0).sum()):
        notice(f"{name}: {unseen} parcels without a pixel stay, observed by nothing")
    days = [one.day for one in store.observed.values() if len(one.day)]
    if not days:
        raise PastisError(f"{name}: nothing was observed of a parcel of the 18 classes; is this PASTIS-R as published?")
    first, last = min(float(one.min()) for one in days), max(float(one.max()) for one in days)
    inner = [float((day - STARTS_ON).days) for day in SCORED_ON]
    scored = [*(day for day in inner if first <= day < last), float(math.ceil(last))]
    return LabelledParcels(
        name=name,
        observations={one.modality: _observations(store, one) for one in sensors},
        geometry=parcels.geometry,
        labels=np.where(parcels.is_crop, parcels.label - 1, NO_LABEL),
        classes=CLASSES,
        modalities=tuple(
            ModalityConfig(
                one.modality, one.channels, one.temporal_dropout, pixels=options.pixels, is_co_located=is_co_located
            )
            for one in sensors
        ),
        fold=parcels.fold,
        block=parcels.patch,
        scored_on=tuple(scored),
        day_names=tuple(_name(day) for day in scored),
        parcel_ids=np.array(
            [f"{patch}-{one}" for patch, one in zip(parcels.patch, parcels.parcel, strict=True)], object
        ),
        starts_on=STARTS_ON,
    )


def _observations(store: Store, sensor: Sensor) -> Observations:
    """Return the packed pixels as they are mapped; PASTIS-R gives no relative orbit."""
    one = store.observed[sensor.modality]
    orbit = np.zeros(len(one.day), np.int16)
    return Observations(one.pixels, one.day, one.parcel, orbit, scale=sensor.scale, nodata=int(INVALID))


def _name(day: float) -> str:
    on = STARTS_ON + timedelta(days=day)
    return f"{on.day} {on:%b}"
