"""How well `crop_mismatch` finds wrong declarations when the classifier learns from this very season's, wrong ones among them.

    truth ── a share swapped ── declared ── fold models of what was observed by a date ── course of posteriors ── crop_mismatch

The rule runs along the course from the season's start, as the monitor does for parcels of a model that has just become active.
No parcel's course is of a model that learnt from its block: folds are of whole blocks, and the held-out blocks that give a fold's
temperature are of the other folds too.
Shapes: P labelled parcels, G acquisitions of them, by parcel and time, K classes.
Units:  days since the season's start.
Errors: ValueError for a share that cannot be swapped; RunConfigError for a fold that cannot be trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.classifier import attention_state
from models.classifier.crop_model import CropModel
from models.classifier.packed_series import Batch, Series
from models.classifier.sampling import PackedParcels
from monitor.alerts.rules import GREEN, RED, UNKNOWN, Found, Posteriors, crop_mismatch
from monitor.alerts.settings import RuleSettings
from training.labelled import NO_LABEL, LabelledParcels

Ints = NDArray[np.int64]


def swapped(labels: Ints, classes: int, share: float, seed: int) -> Ints:
    """Return labels (P,) of which a share, drawn at random, is another class, drawn by the frequencies of all others.

    Raises:
        ValueError: the share is not in [0, 1], or there is no other class.
    """
    known = np.flatnonzero(labels != NO_LABEL)
    counts = np.bincount(labels[known], minlength=classes)
    if not 0 <= share <= 1 or (counts > 0).sum() < 2:
        raise ValueError(f"a share of 0 to 1 of labels of two classes or more can be swapped, not {share}")
    random, declared = np.random.default_rng(seed), labels.copy()
    for parcel in random.choice(known, round(share * len(known)), replace=False):
        others = np.where(np.arange(classes) == labels[parcel], 0, counts)
        declared[parcel] = random.choice(classes, p=others / others.sum())
    return declared


def labelled_only(data: LabelledParcels) -> LabelledParcels:
    """Return the labelled parcels alone."""
    rows = np.flatnonzero(data.is_labelled)
    place = np.full(len(data), -1)
    place[rows] = np.arange(len(rows))
    of_labelled = {name: one.take(np.flatnonzero(place[one.parcel] >= 0)) for name, one in data.observations.items()}
    return replace(
        data,
        observations={name: replace(one, parcel=place[one.parcel]) for name, one in of_labelled.items()},
        geometry=data.geometry[rows],
        labels=data.labels[rows],
        fold=data.fold[rows],
        block=data.block[rows],
        parcel_ids=None if data.parcel_ids is None else data.parcel_ids[rows],
    )


def known_by(data: LabelledParcels, on: date) -> LabelledParcels:
    """Return the parcels as they stand at the end of a day: nothing later is there, nor is any later day scored.

    Raises:
        ValueError: the source does not know its day 0.
    """
    last = end_of(data, on)
    seen = {name: one.take(np.flatnonzero(one.day <= last)) for name, one in data.observations.items()}
    days = (*(day for day in data.scored_on if day < last), last)
    names = (*(name for name, day in zip(data.day_names, data.scored_on, strict=True) if day < last), f"{on:%-d %b}")
    return replace(data, observations=seen, scored_on=days, day_names=names)


def end_of(data: LabelledParcels, on: date) -> float:
    """Return the day of the season at whose beginning all of a date is known; ValueError where day 0 is not."""
    if data.starts_on is None:
        raise ValueError(f"{data.name}: the day on which the season starts is not known")
    return float((on - data.starts_on + timedelta(days=1)).days)


@dataclass(frozen=True)
class Course:
    """The posteriors of some parcels after each of their acquisitions."""

    parcel: Ints
    """(G,) ascending, row of the labelled parcels."""
    day: NDArray[np.float32]
    """(G,) ascending for each parcel."""
    n_observations: Ints
    """(G,)"""
    probabilities: NDArray[np.float32]
    """(G, K) calibrated."""

    @classmethod
    def joined(cls, parts: Sequence[Course]) -> Course:
        """Return the courses of different parcels together."""
        order = np.argsort(np.concatenate([one.parcel for one in parts]), kind="stable")
        names = ("parcel", "day", "n_observations", "probabilities")
        return cls(*(np.concatenate([getattr(one, name) for one in parts])[order] for name in names))


@torch.no_grad()
def course(model: CropModel, data: LabelledParcels, members: Ints) -> Course:
    """Return the course of parcels (M,) ascending under a model, each acquisition folded into the state of those before it."""
    wanted = {one.name: data.observations[one.name] for one in model.config.modalities}
    batch = PackedParcels.of(model.normaliser, wanted, data.geometry).take(torch.from_numpy(members))
    rows = {name: np.stack([one.parcel.numpy(), one.day.numpy()], 1) for name, one in batch.series.items()}
    acquired, which = np.unique(np.concatenate([*rows.values()]), axis=0, return_inverse=True)
    bounds = np.cumsum([len(one) for one in rows.values()])[:-1]
    of_row = dict(zip(rows, np.split(which.ravel(), bounds), strict=True))
    series = {
        name: Series(one.pixels, one.valid, one.day, torch.from_numpy(of_row[name]))
        for name, one in batch.series.items()
    }
    parcel = torch.from_numpy(acquired[:, 0].astype(np.int64))
    folded = model.for_inference()
    each = folded.encode(Batch(series, batch.geometry[parcel]))
    start = folded.network.initial_states(len(members))
    after = {name: attention_state.prefixes(start[name], state, parcel) for name, state in each.items()}
    here = np.bincount(which.ravel(), minlength=len(acquired))
    total, first = np.cumsum(here), np.searchsorted(parcel.numpy(), parcel.numpy())
    return Course(
        members[parcel.numpy()],
        acquired[:, 1].astype(np.float32),
        total - np.where(first > 0, total[first - 1], 0),
        folded.posteriors(after, acquired[:, 1]),
    )


def verdicts(
    known: Course, classes: Sequence[str], declared: Sequence[str | None], starts_on: date, settings: RuleSettings
) -> Ints:
    """Return (G,) what `crop_mismatch` finds after each acquisition of a course.

    Args:
        declared: (P,) of all parcels that `known.parcel` can name.
    """
    found, verdict = Found.nothing(len(declared)), np.full(len(known.parcel), UNKNOWN)
    step = np.arange(len(known.parcel)) - np.searchsorted(known.parcel, known.parcel)
    observed_to = np.datetime64(starts_on) + np.floor(known.day).astype("m8[D]")
    posteriors = Posteriors(classes, known.probabilities, known.n_observations, observed_to)
    for nth in range(int(step.max(initial=-1)) + 1):
        rows = np.flatnonzero(step == nth)
        places = known.parcel[rows]
        crops = [declared[place] for place in places]
        decided = crop_mismatch(crops, posteriors.of(rows), found.of(places), settings).found
        found.verdict[places], found.departed_on[places] = decided.verdict, decided.departed_on
        verdict[rows] = decided.verdict
    return verdict


def at(known: Course, verdict: Ints, day: float, parcels: int) -> Ints:
    """Return (P,) the verdict after the last acquisition before a day, UNKNOWN where there was none."""
    found = np.full(parcels, UNKNOWN)
    rows = np.flatnonzero(known.day < day)
    found[known.parcel[rows]] = verdict[rows]  # of equal parcels the last assignment stays
    return found


@dataclass(frozen=True)
class MismatchCounts:
    """What the rule had found at a date, beside what had been swapped."""

    parcels: int
    judged: int
    """Parcels of which the rule has a colour."""
    swapped: int
    swapped_judged: int
    red: int
    true_red: int
    yellow: int

    @classmethod
    def of(cls, found: Ints, is_swapped: NDArray[np.bool_]) -> MismatchCounts:
        """Count verdicts (P,) of parcels of which some were swapped (P,)."""
        is_judged, is_red = found >= GREEN, found == RED
        return cls(
            len(found),
            int(is_judged.sum()),
            int(is_swapped.sum()),
            int((is_swapped & is_judged).sum()),
            int(is_red.sum()),
            int((is_red & is_swapped).sum()),
            int((is_judged & ~is_red & (found != GREEN)).sum()),
        )

    def figures(self) -> dict[str, float | None]:
        """Return counts and shares by name; None for a share of nothing."""
        false = self.red - self.true_red
        return {
            "judged": self.judged,
            "swapped": self.swapped,
            "swapped_judged": self.swapped_judged,
            "reds": self.red,
            "yellows": self.yellow,
            "recall": _share(self.true_red, self.swapped),
            "recall_judged": _share(self.true_red, self.swapped_judged),
            "precision": _share(self.true_red, self.red),
            "false_reds": false,
            "false_reds_per_1000": None if not self.judged else 1000 * false / self.judged,
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def summary(figures: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return mean and standard deviation over seeds of each figure, of the seeds that have it."""
    result = {}
    for name in figures[0]:
        values = [value for one in figures if (value := one[name]) is not None]
        result[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values),
        }
    return result
