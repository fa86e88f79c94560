"""Classification: new acquisitions of each claimed parcel, folded into its cached encoder states one by one.

    in order      state before ── acquisition ── posterior ── acquisition ── posterior ... state after
    anything else the parcel's states are made anew from all its current observations, and so is its course of posteriors

So the course of a parcel's posteriors is a function of what is known of it, not of when a worker came by, and rules on
the course find the same after a pause. Anything else is: an observation older than what the state has seen, a revised or
withdrawn one, a state that is missing or of another model. A state belongs to a sequence of the model: that of a modality, or of
all (mid fusion).

Reads the batch's observations, its classifier, stored states and posteriors. Adds `classified` to the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from db import predictions
from db.columns import to_utc
from db.connect import Connection
from db.predictions import PosteriorRow
from db.series import pixel_sets
from db.states import StateRow
from db.work import Claim
from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import Observations
from monitor.batch import Active, BatchContext, Classified
from monitor.features import geometry, packed, season_days, sensor_of, split_modalities
from monitor.season_series import MODALITIES, NEVER

SAME: Final = 2e-6
"""Probabilities that differ by less are the same: the order of float32 sums changes them by some 1e-7."""


@dataclass(frozen=True)
class _Rows:
    """The observations that were read of a claim, by modality, each of parcels in order of the claim and of time."""

    parcel_keys: NDArray[np.int64]
    """(P,) those of the claim."""
    all: Mapping[str, NDArray[np.void]]
    index: Mapping[str, NDArray[np.int64]]
    """(N,) the place of each row's parcel in the claim."""
    is_new: Mapping[str, NDArray[np.bool_]]
    """(N,) pending."""
    n_known: Mapping[str, NDArray[np.int64]]
    """(P,) observations known of each modality, pending ones included."""

    @classmethod
    def of(cls, batch: BatchContext, names: Sequence[str]) -> "_Rows":
        claim, series = batch.claim, split_modalities(batch.s2, batch.s1)
        return cls(
            claim.parcel_keys,
            {name: series[name] for name in names},
            {name: np.searchsorted(claim.parcel_keys, series[name]["parcel_key"]) for name in names},
            {name: claim.is_among(series[name], name == "s2") for name in names},
            {name: batch.series.n_observations[:, MODALITIES.index(name)] for name in names},
        )

    def before(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return (P,) observations of modalities that are known and not pending."""
        counts = np.zeros(len(self.parcel_keys), np.int64)
        for name in names:
            new = self.index[name][self.is_new[name]]
            counts += self.n_known[name] - np.bincount(new, minlength=len(self.parcel_keys))
        return counts

    def is_late(self) -> NDArray[np.bool_]:
        """Return (P,) parcels of which a pending observation is not newer than all that were read and folded before."""
        oldest_new, newest_old = (
            np.full(len(self.parcel_keys), np.datetime64("9999-01-01", "us")),
            np.full(len(self.parcel_keys), NEVER),
        )
        for name, rows in self.all.items():
            new = self.is_new[name]
            np.minimum.at(oldest_new, self.index[name][new], rows["observed_at"][new])
            np.maximum.at(newest_old, self.index[name][~new], rows["observed_at"][~new])
        return oldest_new <= newest_old


def classify(batch: BatchContext) -> None:
    """Fold new acquisitions into the parcels' cached states and find the posterior after each; without a classifier, nothing.

    Adds the states, which are a cache, to those that are to be stored, and leaves the posteriors to `save`.
    """
    if batch.classifier is None:
        return
    classified = fold(batch, batch.classifier)
    batch.classified = replace(classified, changed=_changed(batch.connection, batch.classifier.key, classified))


def save(batch: BatchContext) -> None:
    """Store the posteriors that changed."""
    if batch.classifier is not None and batch.classified is not None and batch.recorded_at is not None:
        predictions.save_posteriors(batch.connection, batch.classifier.key, batch.classified.changed, batch.recorded_at)


def fold(batch: BatchContext, classifier: Active[CropModel]) -> Classified:
    """Fold what is new into the states of the claimed parcels and return the posteriors."""
    connection, claim, model, starts_on = batch.connection, batch.claim, classifier.model, batch.season.starts_on
    shape = geometry(*zip(*((p.perimeter_m, p.area_ha, p.bbox_fill) for p in batch.parcels), strict=True))
    members = {name: model.config.members(name) for name in model.config.sequences}
    known = _Rows.of(batch, [one.name for one in model.config.modalities])
    is_rebuilt = _rebuilt(batch, members, known)
    new = {name: known.is_new[name] | is_rebuilt[known.index[name]] for name in known.all}
    acquired = _Acquisitions.of(known, new)
    start = _states(claim, batch.states, is_rebuilt, model)
    observations = _packed(connection, model, known, new, acquired, starts_on)
    each = model.encode(
        model.batch(observations, shape[acquired.parcel]).to(model.device),
        model.network.initial_states(len(acquired.parcel), model.device),
    )
    of = _tensor(acquired.parcel).to(model.device)
    after = {name: attention_state.prefixes(start[name], state, of) for name, state in each.items()}
    batch.new_states += _state_rows(classifier.key, members, known, is_rebuilt, start, after, acquired)
    courses = _courses(model, known, is_rebuilt, acquired, after, starts_on)
    rebuilt = frozenset(claim.parcel_keys[is_rebuilt].tolist())
    return Classified(courses, rebuilt, sum(int(one.sum()) for one in new.values()), {})


def _changed(connection: Connection, model_key: int, folded: Classified) -> dict[int, list[PosteriorRow]]:
    """Return the posteriors that are not stored like that: of a rebuilt parcel those that differ, and then its last one too.

    The last one is in force because it is recorded last, so it follows whatever is written.
    """
    rebuilt = np.array(sorted(folded.rebuilt & folded.courses.keys()), np.int64)
    stored = {(row.parcel_key, row.observed_to): row for row in predictions.courses(connection, rebuilt, model_key)}
    in_force = {row.parcel_key: row for row in predictions.latest_posteriors(connection, rebuilt, model_key, None)}
    rows: dict[int, list[PosteriorRow]] = {}
    for key, course in folded.courses.items():
        if key not in folded.rebuilt:
            rows[key] = course
            continue
        some = [row for row in course[:-1] if not _is_same(stored.get((key, row.observed_to)), row)]
        if some or not _is_same(in_force.get(key), course[-1]):
            rows[key] = [*some, course[-1]]
    return rows


def _is_same(before: PosteriorRow | None, row: PosteriorRow) -> bool:
    return (
        before is not None
        and before.observed_to == row.observed_to
        and all(before.n_observations[name] == n for name, n in row.n_observations.items())
        and len(before.probabilities) == len(row.probabilities)
        and bool(np.allclose(before.probabilities, row.probabilities, rtol=0, atol=SAME))
    )


def _rebuilt(batch: BatchContext, members: Mapping[str, tuple[str, ...]], known: _Rows) -> NDArray[np.bool_]:
    """Return (P,) parcels whose states must be made anew."""
    claim, observed = batch.claim, batch.claim.observations
    is_rebuilt = claim.is_due("classifier") | known.is_late()
    # A state cannot forget: what a revision replaced or withdrew is folded into it for good.
    is_rebuilt |= np.isin(claim.parcel_keys, observed["parcel_key"][observed["revision"] > 0])
    # A state must hold exactly what is known less what is pending: anything else (a dropped state, the first pass over a
    # season that already runs) is not patched but made anew.
    for name, modalities in members.items():
        held = np.array([s.n_folded if (s := batch.states.get((int(key), name))) else 0 for key in claim.parcel_keys])
        is_rebuilt |= known.before(modalities) != held
    # Of parcels in order nothing but the pending was read.
    return is_rebuilt & ~batch.is_in_order


@dataclass(frozen=True)
class _Acquisitions:
    """What is folded, by parcel and time."""

    parcel: NDArray[np.int64]
    """(G,) ascending, the place in the claim."""
    time: NDArray[np.datetime64]
    """(G,) ascending for each parcel."""
    of_row: Mapping[str, NDArray[np.int64]]
    """By modality, the acquisition of each new row."""

    @classmethod
    def of(cls, known: _Rows, new: Mapping[str, NDArray[np.bool_]]) -> "_Acquisitions":
        names = list(known.all)
        parcel = np.concatenate([known.index[name][new[name]] for name in names])
        time = np.concatenate([known.all[name]["observed_at"][new[name]] for name in names])
        unique, which = np.unique(np.stack([parcel, time.astype(np.int64)]), axis=1, return_inverse=True)
        bounds = np.cumsum([int(new[name].sum()) for name in names])[:-1]
        return cls(
            np.ascontiguousarray(unique[0]),
            unique[1].astype("M8[us]"),
            dict(zip(names, np.split(which.reshape(-1), bounds), strict=True)),
        )

    @property
    def last(self) -> NDArray[np.int64]:
        """Return the last acquisition of each parcel that has one."""
        return np.flatnonzero(np.diff(self.parcel, append=-1) != 0)


def _packed(
    connection: Connection,
    model: CropModel,
    known: _Rows,
    new: Mapping[str, NDArray[np.bool_]],
    acquired: _Acquisitions,
    starts_on: date,
) -> dict[str, Observations]:
    """Return the new observations by modality, each acquisition as if of a parcel of its own."""
    observations = {}
    for one in model.config.modalities:
        rows = known.all[one.name][new[one.name]]
        sets = pixel_sets(connection, sensor_of(one.name), rows) if one.pixels > 1 else None
        observations[one.name] = packed(one, rows, acquired.of_row[one.name], starts_on, sets)
    return observations


def _states(
    claim: Claim, stored: Mapping[tuple[int, str], StateRow], is_rebuilt: NDArray[np.bool_], model: CropModel
) -> dict[str, State]:
    """Return the states to fold into: stored ones, empty ones where there is none or it is rebuilt."""
    empty = model.network.initial_states(1)
    states = {}
    for name, one in empty.items():
        nothing = attention_state.to_bytes(one)[0]
        kept = [
            nothing if anew or (int(key), name) not in stored else stored[int(key), name].state
            for key, anew in zip(claim.parcel_keys, is_rebuilt, strict=True)
        ]
        states[name] = attention_state.from_bytes(kept, one.m.shape[1], one.v.shape[2], model=model.model).to(
            model.device
        )
    return states


def _courses(
    model: CropModel,
    known: _Rows,
    is_rebuilt: NDArray[np.bool_],
    acquired: _Acquisitions,
    after: Mapping[str, State],
    starts_on: date,
) -> dict[int, list[PosteriorRow]]:
    """Return the posterior after each acquisition, by parcel key."""
    courses: dict[int, list[PosteriorRow]] = {}
    if len(acquired.parcel) == 0:
        return courses
    probabilities = model.posteriors(after, season_days(acquired.time, starts_on))
    counts = _counts(known, is_rebuilt, acquired)
    for g, (p, row) in enumerate(zip(acquired.parcel.tolist(), probabilities, strict=True)):
        seen = {name: int(count[g]) for name, count in counts.items()}
        key = int(known.parcel_keys[p])
        courses.setdefault(key, []).append(PosteriorRow(key, to_utc(acquired.time[g]), seen, row.tolist()))
    return courses


def _counts(known: _Rows, is_rebuilt: NDArray[np.bool_], acquired: _Acquisitions) -> dict[str, NDArray[np.int64]]:
    """By modality (G,) the observations that each posterior has seen."""
    parcel = acquired.parcel
    first = np.searchsorted(parcel, parcel)
    counts = {}
    for name in known.all:
        here = np.cumsum(np.bincount(acquired.of_row[name], minlength=len(parcel)))
        before = np.where(is_rebuilt, 0, known.before([name]))
        counts[name] = before[parcel] + here - np.where(first > 0, here[first - 1], 0)
    return counts


def _state_rows(  # what an acquisition changes, by what it is found from
    model_key: int,
    members: Mapping[str, tuple[str, ...]],
    known: _Rows,
    is_rebuilt: NDArray[np.bool_],
    start: Mapping[str, State],
    after: Mapping[str, State],
    acquired: _Acquisitions,
) -> list[StateRow]:
    """Return the states after each parcel's last acquisition, and those of parcels rebuilt to nothing."""
    last = acquired.last
    parcel, newest = acquired.parcel[last], np.full(len(is_rebuilt), NEVER)
    newest[parcel] = acquired.time[last]
    # A rebuilt state is stored even if it is empty now: all its observations may have been withdrawn.
    emptied = np.setdiff1d(np.flatnonzero(is_rebuilt), parcel)
    rows: list[StateRow] = []
    for name, modalities in members.items():
        n_folded = sum((known.n_known[one] for one in modalities), np.zeros(len(known.parcel_keys), np.int64))
        for which, state in ((parcel, after[name].take(_tensor(last))), (emptied, start[name].take(_tensor(emptied)))):
            rows += [
                StateRow(int(known.parcel_keys[p]), model_key, name, int(n_folded[p]), to_utc(newest[p]), one)
                for p, one in zip(which.tolist(), attention_state.to_bytes(state), strict=True)
            ]
    return rows


def _tensor(index: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(index)
