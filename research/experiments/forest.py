"""The baseline of every experiment: a random forest on binned means of the same observations, same folds, same dates.

    x(p, m, c, b) = mean over observations of parcel p in period b of (channel c of modality m - mean of its orbit)

Ten-day periods of the season so far, each relative orbit less its mean over the training parcels, and the four geometric
features the networks see; what was not seen is a value of its own. Trained and applied with what was observed by the day.
Chosen because: periods of ten days are the strongest of those tried on the Dutch parcels (research.seasons.baselines), and a
        baseline is to be strong; geometry because the networks have it.
Shapes: features (P, F); probabilities (P, K).
Units:  as observed; days since the season's start.
Errors: none: without a training parcel or an observation every parcel has the class frequencies.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from models.classifier.normalisation import Observations
from research.seasons.baselines import N_TREES, PERIOD_D, UNSEEN
from training.labelled import LabelledParcels

Floats = NDArray[np.float64]
CHUNK = 4096
"""Pixel sets averaged at once; chosen because 4096 sets of 64 pixels in ten bands are 10 MB."""


def forest(
    data: LabelledParcels, training: NDArray[np.bool_], test: NDArray[np.bool_], day: float, seed: int
) -> Floats:
    """Return class probabilities (P_test, K) of the test parcels as known at the end of a day.

    Args:
        data: with one pixel an observation, as `averaged` gives it.
    """
    counts = np.bincount(data.labels[training], minlength=len(data.classes))
    answer = np.tile(counts / max(counts.sum(), 1), (int(test.sum()), 1))
    seen = data.observed_by(day)
    taught, asked = training & seen, test & seen
    if not taught.any() or not asked.any():
        return answer
    x = np.where(np.isfinite(known := features(data, training, day)), known, UNSEEN)
    model = RandomForestClassifier(N_TREES, random_state=seed, n_jobs=1).fit(x[taught], data.labels[taught])
    found = np.zeros((int(asked.sum()), len(data.classes)))
    found[:, model.classes_] = model.predict_proba(x[asked])
    answer[seen[test]] = found
    return answer


def features(data: LabelledParcels, training: NDArray[np.bool_], day: float) -> Floats:
    """Return binned means of every modality and the geometry (P, F), NaN where nothing was seen; columns never seen are left out."""
    columns = [_binned(data.observations[one.name], training, day) for one in data.modalities]
    x = np.concatenate([*columns, data.geometry], axis=1)
    return x[:, np.isfinite(x).any(axis=0)]


def _binned(observed: Observations, training: NDArray[np.bool_], day: float) -> Floats:
    """Return (P, periods * C) means of one modality."""
    known = observed.take(observed.day <= day)
    value = known.pixels[..., 0].astype(np.float64)  # (N, C)
    is_taught = training[known.parcel]
    for orbit in np.unique(known.orbit[known.orbit > 0]):
        own = known.orbit == orbit
        if (own & is_taught).any():
            value[own] -= np.nanmean(value[own & is_taught], axis=0)
    first = min(float(observed.day.min(initial=0.0)), 0.0)
    period = ((known.day - first) // PERIOD_D).astype(np.int64)
    n = int(period.max(initial=-1)) + 1
    cell = known.parcel * n + period
    count = [np.bincount(cell[np.isfinite(c)], minlength=len(training) * n) for c in value.T]
    total = [np.bincount(cell, np.nan_to_num(c), minlength=len(training) * n) for c in value.T]
    with np.errstate(invalid="ignore"):
        mean = np.stack(total, -1) / np.where(counts := np.stack(count, -1), counts, np.nan)
    return np.asarray(mean.reshape(len(training), -1), np.float64)


def averaged(data: LabelledParcels) -> LabelledParcels:
    """Return the same parcels with the mean of each pixel set in its place, in memory: what a forest needs of them."""
    observations = {}
    for name, one in data.observations.items():
        means = parcel_means(one).astype(np.float32)[..., None]
        observations[name] = replace(one, pixels=means, scale=1.0, nodata=None)
    return replace(data, observations=observations)


def parcel_means(observed: Observations) -> Floats:
    """Return means (N, C) in physical units over the valid pixels of each set; NaN where there is none."""
    n, channels, _ = observed.pixels.shape
    found = np.full((n, channels), np.nan)
    for start in range(0, n, CHUNK):
        pixels = observed.physical(slice(start, start + CHUNK))
        is_valid = np.isfinite(pixels).all(axis=1, keepdims=True)  # (N, 1, S)
        total, count = np.where(is_valid, pixels, np.float32(0)).sum(axis=2, dtype=np.float64), is_valid.sum(axis=2)
        found[start : start + CHUNK] = total / np.where(count, count, np.nan)
    return found
