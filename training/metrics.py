"""Scores of a replayed season against what was true: crop classes, NDVI, alerts. Pure: arrays and frames in, figures out.

    F1(c) = 2 TP / (2 TP + FP + FN)            macro-F1 = mean of F1 over the classes that occur in the truth
    ECE   = sum over bins b of n(b) / n |accuracy(b) - mean confidence(b)|        15 bins of the highest probability
    R2    = 1 - sum (y - p)^2 / sum (y - mean(y))^2                               RMSE = sqrt(mean (y - p)^2)

The confusion is pooled: every parcel is predicted once, by the model that did not see its fold, and all are counted
together.
Sources: ECE, Guo et al. 2017; mean(y) is the mean of the observed values, of the same day in a day's R2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.classifier.calibration import expected_calibration_error

Floats = NDArray[np.float64]
N_BINS: Final = 10
"""Of the reliability plot (chosen because a few hundred parcels fill no more)."""


@dataclass(frozen=True)
class Pooled:
    """The posteriors of all scored parcels beside their true classes."""

    truth: NDArray[np.int64]
    """(P,) index of the true class."""
    probabilities: Floats
    """(P, K)"""
    is_observed: NDArray[np.bool_]
    """(P,) False: nothing was known of the parcel, its row holds the class frequencies."""
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassScores:
    """How well the crop classes were known at one date."""

    classes: tuple[str, ...]
    n: int
    macro_f1: float
    accuracy: float
    ece: float
    f1: Mapping[str, float]
    """NaN for a class that the truth does not hold."""
    confusion: tuple[tuple[int, ...], ...]
    """Parcels by true class (row) and predicted class (column)."""
    n_observed: int
    """Scored parcels of which anything was known; the others count with the class frequencies as their posterior."""
    macro_f1_observed: float
    accuracy_observed: float


def pooled(
    labels: pd.DataFrame, posteriors: pd.DataFrame, classes: Sequence[str], training: pd.DataFrame | None = None
) -> Pooled:
    """Posteriors aligned with the labels, ready to score.

    Args:
        labels: parcel_id, label (None: not scored), fold.
        posteriors: index parcel_id, a column per class; no row for a parcel of which nothing was known.
        classes: the model's classes, in order.
        training: the labels the model was trained on, when that was another folder; None: the other folds of `labels`.

    Raises:
        ValueError: a posterior is not finite, or a label is none of the classes.
    """
    scored = labels[labels["label"].notna()].reset_index(drop=True)
    if unknown := sorted(set(scored["label"]) - set(classes)):
        raise ValueError(f"labels {', '.join(unknown)} are none of the model's classes {', '.join(classes)}")
    known = posteriors.reindex(index=scored["parcel_id"], columns=list(classes)).to_numpy(np.float64)
    is_observed = scored["parcel_id"].isin(posteriors.index).to_numpy(np.bool_)
    if not np.isfinite(known[is_observed]).all():
        raise ValueError("posteriors are not finite, or lack a class; every row needs a probability for each class")
    prior = np.empty_like(known)
    for fold in scored["fold"].unique():
        source = scored[scored["fold"] != fold] if training is None else training
        counts = source["label"].value_counts().reindex(list(classes), fill_value=0).to_numpy(np.float64)
        prior[(scored["fold"] == fold).to_numpy()] = counts / max(counts.sum(), 1)
    truth = np.array([list(classes).index(label) for label in scored["label"]], dtype=np.int64)
    return Pooled(truth, np.where(is_observed[:, None], known, prior), is_observed, tuple(classes))


def score_classes(pool: Pooled) -> ClassScores:
    """Return the scores of one date from the pooled posteriors; ValueError if there are none."""
    if not len(pool.truth):
        raise ValueError("no labelled parcel to score; check labels and folds")
    predicted, seen = pool.probabilities.argmax(axis=1), pool.is_observed
    confusion = _confusion(pool.truth, predicted, len(pool.classes))
    observed = _confusion(pool.truth[seen], predicted[seen], len(pool.classes))
    return ClassScores(
        classes=pool.classes,
        n=len(pool.truth),
        macro_f1=_mean(_f1(confusion)),
        accuracy=_accuracy(confusion),
        ece=expected_calibration_error(pool.probabilities, pool.truth),
        f1=dict(zip(pool.classes, _f1(confusion).tolist(), strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        n_observed=int(seen.sum()),
        macro_f1_observed=_mean(_f1(observed)),
        accuracy_observed=_accuracy(observed),
    )


@dataclass(frozen=True)
class Bin:
    """Posteriors of about the same confidence."""

    confidence: float
    accuracy: float
    n: int


def reliability(pools: Sequence[Pooled]) -> tuple[Bin, ...]:
    """Return confidence against accuracy over all pools, in bins of the highest probability; empty bins are left out."""
    confidence = np.concatenate([one.probabilities.max(1) for one in pools])
    is_right = np.concatenate([one.probabilities.argmax(1) == one.truth for one in pools])
    number = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return tuple(
        Bin(float(confidence[number == b].mean()), float(is_right[number == b].mean()), int((number == b).sum()))
        for b in range(N_BINS)
        if (number == b).any()
    )


@dataclass(frozen=True)
class DayScore:
    """NDVI scores of one day; R2 is NaN where fewer than two different values were observed."""

    n: int
    r2: float
    rmse: float


@dataclass(frozen=True)
class NdviScores:
    """How well NDVI was known where it was hidden: overall and by the day it was observed."""

    n: int
    r2: float
    rmse: float
    per_day: Mapping[date, DayScore]


def score_ndvi(observed: Floats, predicted: Floats, days: Sequence[date]) -> NdviScores:
    """Return scores of predicted (N,) against observed (N,) NDVI of the given days (N).

    Raises:
        ValueError: lengths differ, there is nothing to score, or a value is not finite.
    """
    if not len(observed) == len(predicted) == len(days):
        raise ValueError(
            f"{len(observed)} observed, {len(predicted)} predicted values, {len(days)} days: give one of each"
        )
    if not len(observed) or not (np.isfinite(observed).all() and np.isfinite(predicted).all()):
        raise ValueError(
            "NDVI scores need values, all of them finite; leave out what was not predicted, and say how many"
        )
    day_of = np.array([day.toordinal() for day in days])
    per_day = {
        date.fromordinal(day): _day_score(observed[day_of == day], predicted[day_of == day])
        for day in np.unique(day_of).tolist()
    }
    whole = _day_score(observed, predicted)
    return NdviScores(whole.n, whole.r2, whole.rmse, per_day)


@dataclass(frozen=True)
class Event:
    """Something that truly happened to a parcel."""

    parcel_id: str
    kind: str
    happened_on: date


@dataclass(frozen=True)
class Raised:
    """An alert that was raised for a parcel."""

    parcel_id: str
    rule: str
    raised_on: date


@dataclass(frozen=True)
class KindScore:
    """Events of one kind: how many, how many of them found, and how long that took."""

    events: int
    found: int
    median_days: float
    """NaN if none was found."""


@dataclass(frozen=True)
class AlertScores:
    """Alerts against events; a kind that no rule answers is counted in `per_kind` but not in the recall."""

    events: int
    alerts: int
    precision: float
    """Alerts that an event explains, over all alerts; NaN without alerts."""
    recall: float
    """Answerable events with an alert, over all answerable events; NaN without events."""
    median_days: float
    per_kind: Mapping[str, KindScore]
    false_alerts: Mapping[str, int]
    """Alerts that no event explains, by rule."""


def score_alerts(
    events: Sequence[Event], alerts: Sequence[Raised], answers: Mapping[str, Collection[str]]
) -> AlertScores:
    """Alerts matched to events: same parcel, a kind the rule answers, not raised before it happened.

    Args:
        answers: rule -> the kinds of event it is meant to find. Several alerts may be explained by one event.
    """
    by_parcel: dict[str, list[Event]] = {}
    for event in events:
        by_parcel.setdefault(event.parcel_id, []).append(event)
    delays: dict[Event, int] = {}
    false_alerts: dict[str, int] = {}
    for alert in alerts:
        explained = [
            event
            for event in by_parcel.get(alert.parcel_id, [])
            if event.kind in answers.get(alert.rule, ()) and event.happened_on <= alert.raised_on
        ]
        if not explained:
            false_alerts[alert.rule] = false_alerts.get(alert.rule, 0) + 1
        for event in explained:
            days = (alert.raised_on - event.happened_on).days
            delays[event] = min(days, delays.get(event, days))
    answerable = {kind for kinds in answers.values() for kind in kinds}
    asked = [event for event in events if event.kind in answerable]
    right = len(alerts) - sum(false_alerts.values())
    return AlertScores(
        events=len(asked),
        alerts=len(alerts),
        precision=right / len(alerts) if alerts else float("nan"),
        recall=sum(event in delays for event in asked) / len(asked) if asked else float("nan"),
        median_days=_median([delays[event] for event in asked if event in delays]),
        per_kind={kind: _kind_score(kind, events, delays) for kind in sorted({event.kind for event in events})},
        false_alerts=false_alerts,
    )


def plain(scores: Any) -> Any:
    """Return a scores dataclass as JSON values: dates as ISO text, numbers that are not finite as null."""
    if hasattr(scores, "__dataclass_fields__"):
        return plain(asdict(scores))
    if isinstance(scores, Mapping):
        return {key.isoformat() if isinstance(key, date) else str(key): plain(one) for key, one in scores.items()}
    if isinstance(scores, list | tuple):
        return [plain(one) for one in scores]
    if isinstance(scores, float):
        return scores if np.isfinite(scores) else None
    return scores.isoformat() if isinstance(scores, date) else scores


def _confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    counts = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def _f1(confusion: NDArray[np.int64]) -> Floats:
    """F1 per class (K,); NaN where the truth does not hold the class."""
    true, said, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return np.where(true > 0, 2 * right / np.maximum(true + said, 1), np.nan)


def _accuracy(confusion: NDArray[np.int64]) -> float:
    return float(confusion.trace() / confusion.sum()) if confusion.sum() else float("nan")


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _median(days: Sequence[int]) -> float:
    return float(median(days)) if days else float("nan")


def _day_score(observed: Floats, predicted: Floats) -> DayScore:
    squared = float(((observed - predicted) ** 2).sum())
    spread = float(((observed - observed.mean()) ** 2).sum())
    r2 = 1 - squared / spread if spread > 0 else float("nan")
    return DayScore(len(observed), r2, float(np.sqrt(squared / len(observed))))


def _kind_score(kind: str, events: Sequence[Event], delays: Mapping[Event, int]) -> KindScore:
    of_kind = [event for event in events if event.kind == kind]
    found = [delays[event] for event in of_kind if event in delays]
    return KindScore(len(of_kind), len(found), _median(found))
