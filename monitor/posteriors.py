"""Incremental posteriors: what is new of each claimed parcel, folded into its encoder states acquisition by acquisition.

    in order      state before ── acquisition ── posterior ── acquisition ── posterior ... state after
    anything else the parcel's states are made anew from all its current observations, and so is its course of posteriors

So the course of a parcel's posteriors is a function of what is known of it, not of when a worker came by, and rules that look
at the course find the same after a pause. Anything else is: an observation older than what the state has seen, a revised or
withdrawn one, a state that is missing or of another model. A state belongs to a sequence of the model: that of a modality, or of
all (mid fusion).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from db import beliefs
from db.beliefs import PosteriorRow, StateRow
from db.columns import to_utc
from db.series import pixel_sets
from db.work import Claim
from models import streaming
from models.crop_model import CropModel
from models.streaming import State
from monitor.features import packed, season_days, sensor_of

SAME: Final = 2e-6
"""Probabilities that differ by less are the same: the order of float32 sums changes them by some 1e-7."""
NEVER: Final = np.datetime64("0001-01-01", "us")


@dataclass(frozen=True)
class Folded:
    """The posteriors that the claimed parcels' new acquisitions make."""

    courses: Mapping[int, list[PosteriorRow]]
    """By parcel key, in order of acquisition; parcels without a new acquisition are absent, a rebuilt one has all of its own."""
    rebuilt: frozenset[int]
    """Parcels whose course begins at the season's start."""
    n_folded: int
    """Observations that went through the network."""


@dataclass(frozen=True)
class _Rows:
    """The observations of a claim by modality, each of parcels in order of the claim and of time."""

    all: Mapping[str, NDArray[np.void]]
    index: Mapping[str, NDArray[np.int64]]
    """(N,) the place of each row's parcel in the claim."""
    is_new: Mapping[str, NDArray[np.bool_]]
    """(N,) pending."""

    @classmethod
    def of(cls, claim: Claim, series: Mapping[str, NDArray[np.void]]) -> "_Rows":
        index = {name: np.searchsorted(claim.parcel_keys, rows["parcel_key"]) for name, rows in series.items()}
        return cls(series, index, {name: claim.is_among(rows, name == "s2") for name, rows in series.items()})

    def count(self, names: Sequence[str], n_parcels: int, is_new: bool | None = None) -> NDArray[np.int64]:
        """(P,) observations of modalities; only the pending ones, or the others, where `is_new` says which."""
        counts = np.zeros(n_parcels, np.int64)
        for name in names:
            some = np.ones(len(self.all[name]), bool) if is_new is None else self.is_new[name] == is_new
            counts += np.bincount(self.index[name][some], minlength=n_parcels)
        return counts

    def newest(self, names: Sequence[str], n_parcels: int) -> NDArray[np.datetime64]:
        """(P,) the newest observation of modalities; the year 1 where there is none."""
        newest = np.full(n_parcels, NEVER)
        for name in names:
            np.maximum.at(newest, self.index[name], self.all[name]["observed_at"])
        return newest

    def is_late(self, n_parcels: int) -> NDArray[np.bool_]:
        """(P,) parcels of which a pending observation is not newer than all that were folded before."""
        oldest_new, newest_old = np.full(n_parcels, np.datetime64("9999-01-01", "us")), np.full(n_parcels, NEVER)
        for name, rows in self.all.items():
            new = self.is_new[name]
            np.minimum.at(oldest_new, self.index[name][new], rows["observed_at"][new])
            np.maximum.at(newest_old, self.index[name][~new], rows["observed_at"][~new])
        return oldest_new <= newest_old


def fold(
    connection: sa.Connection, model_key: int, model: CropModel, claim: Claim, series: Mapping[str, NDArray[np.void]],
    geometry: NDArray[np.float64], starts_on: date,
) -> Folded:  # fmt: skip
    """Fold what is new into the states of the claimed parcels, store the states (a cache), return the posteriors.

    Args:
        series: rows by modality (newest revisions, sorted by parcel and time), all that is known of the claimed parcels.
        geometry: (P, 4) of the claimed parcels.
    """
    n = len(claim.parcel_keys)
    members = {name: model.config.members(name) for name in model.config.sequences}
    known = _Rows.of(claim, {one.name: series[one.name] for one in model.config.modalities})
    stored = {
        (row.parcel_key, row.modality): row for row in beliefs.load_states(connection, claim.parcel_keys, model_key)
    }
    is_rebuilt = _rebuilt(claim, members, known, stored)
    new = {name: known.is_new[name] | is_rebuilt[known.index[name]] for name in known.all}
    parcel, time, row_of = _acquisitions(known, new)
    start = _states(claim, stored, is_rebuilt, model)
    after = _after_each(connection, model, known, new, row_of, geometry[parcel], starts_on, start, parcel)
    last = np.flatnonzero(np.append(parcel[1:] != parcel[:-1], True)) if len(parcel) else np.empty(0, np.int64)
    _save(connection, model_key, claim, members, known, is_rebuilt, start, after, parcel[last], last)
    courses: dict[int, list[PosteriorRow]] = {}
    if len(parcel):
        probabilities = model.posteriors(after, season_days(time, starts_on))
        counts = _counts(known, is_rebuilt, row_of, parcel, n)
        for g, (p, row) in enumerate(zip(parcel.tolist(), probabilities, strict=True)):
            seen = {name: int(count[g]) for name, count in counts.items()}
            key = int(claim.parcel_keys[p])
            courses.setdefault(key, []).append(PosteriorRow(key, to_utc(time[g]), seen, row.tolist()))
    return Folded(
        courses, frozenset(claim.parcel_keys[is_rebuilt].tolist()), sum(int(one.sum()) for one in new.values())
    )


def changed(connection: sa.Connection, model_key: int, folded: Folded) -> dict[int, list[PosteriorRow]]:
    """Return the posteriors that are not stored like that: of a rebuilt parcel those that differ, and then its last one too.

    The last one is in force because it is recorded last, so it follows whatever is written.
    """
    rebuilt = np.array(sorted(folded.rebuilt & folded.courses.keys()), np.int64)
    stored = {(row.parcel_key, row.observed_to): row for row in beliefs.courses(connection, rebuilt, model_key)}
    in_force = {row.parcel_key: row for row in beliefs.latest_posteriors(connection, rebuilt, model_key, None)}
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


def _rebuilt(
    claim: Claim, members: Mapping[str, tuple[str, ...]], known: _Rows, stored: Mapping[tuple[int, str], StateRow]
) -> NDArray[np.bool_]:
    """(P,) parcels whose states must be made anew."""
    n, observed = len(claim.parcel_keys), claim.observations
    is_rebuilt = claim.is_due("classifier") | known.is_late(n)
    is_rebuilt |= np.isin(claim.parcel_keys, observed["parcel_key"][observed["revision"] > 0])
    # A state must hold exactly what is known less what is pending: anything else (a dropped state, a first look at a
    # season that already runs) is not patched but made anew.
    for name, modalities in members.items():
        held = np.array([s.n_folded if (s := stored.get((int(key), name))) else 0 for key in claim.parcel_keys])
        is_rebuilt |= known.count(modalities, n, is_new=False) != held
    return is_rebuilt


def _acquisitions(
    known: _Rows, new: Mapping[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], NDArray[np.datetime64], dict[str, NDArray[np.int64]]]:
    """Parcel (G,) and time (G,) of what is folded, by parcel and time, and by modality the acquisition of each row."""
    names = list(known.all)
    parcel = np.concatenate([known.index[name][new[name]] for name in names])
    time = np.concatenate([known.all[name]["observed_at"][new[name]] for name in names])
    both = np.stack([parcel, time.astype(np.int64)])
    unique, which = np.unique(both, axis=1, return_inverse=True)
    bounds = np.cumsum([int(new[name].sum()) for name in names])[:-1]
    return (
        np.ascontiguousarray(unique[0]),
        unique[1].astype("M8[us]"),
        dict(zip(names, np.split(which.reshape(-1), bounds), strict=True)),
    )


def _after_each(
    connection: sa.Connection, model: CropModel, known: _Rows, new: Mapping[str, NDArray[np.bool_]],
    row_of: Mapping[str, NDArray[np.int64]], geometry: NDArray[np.float64], starts_on: date, start: Mapping[str, State],
    parcel: NDArray[np.int64],
) -> dict[str, State]:  # fmt: skip
    """The states (G) after each acquisition."""
    observations = {}
    for one in model.config.modalities:
        rows = known.all[one.name][new[one.name]]
        sets = pixel_sets(connection, sensor_of(one.name), rows) if one.pixels > 1 else None
        observations[one.name] = packed(one, rows, row_of[one.name], starts_on, sets)
    each = model.encode(
        model.batch(observations, geometry).to(model.device), model.network.initial_states(len(geometry), model.device)
    )
    of = _tensor(parcel).to(model.device)
    return {name: streaming.prefixes(start[name], state, of) for name, state in each.items()}


def _states(
    claim: Claim, stored: Mapping[tuple[int, str], StateRow], is_rebuilt: NDArray[np.bool_], model: CropModel
) -> dict[str, State]:
    """The states to fold into: stored ones, empty ones where there is none or it is rebuilt."""
    empty = model.network.initial_states(1)
    states = {}
    for name, one in empty.items():
        nothing = streaming.to_bytes(one)[0]
        kept = [
            nothing if anew or (int(key), name) not in stored else stored[int(key), name].state
            for key, anew in zip(claim.parcel_keys, is_rebuilt, strict=True)
        ]
        states[name] = streaming.from_bytes(kept, one.m.shape[1], one.v.shape[2], model=model.model).to(model.device)
    return states


def _counts(
    known: _Rows, is_rebuilt: NDArray[np.bool_], row_of: Mapping[str, NDArray[np.int64]], parcel: NDArray[np.int64],
    n_parcels: int,
) -> dict[str, NDArray[np.int64]]:  # fmt: skip
    """By modality (G,) the observations that each posterior has seen."""
    first = np.searchsorted(parcel, parcel)
    counts = {}
    for name in known.all:
        here = np.cumsum(np.bincount(row_of[name], minlength=len(parcel)))
        before = np.where(is_rebuilt, 0, known.count([name], n_parcels, is_new=False))
        counts[name] = before[parcel] + here - np.where(first > 0, here[first - 1], 0)
    return counts


def _save(
    connection: sa.Connection, model_key: int, claim: Claim, members: Mapping[str, tuple[str, ...]], known: _Rows,
    is_rebuilt: NDArray[np.bool_], start: Mapping[str, State], after: Mapping[str, State], parcel: NDArray[np.int64],
    last: NDArray[np.int64],
) -> None:  # fmt: skip
    """Stores the states of parcels (parcel, after their last acquisition) and of those rebuilt to nothing."""
    n = len(claim.parcel_keys)
    # A rebuilt state is stored even if it is empty now: all its observations may have been withdrawn.
    emptied = np.setdiff1d(np.flatnonzero(is_rebuilt), parcel)
    rows: list[StateRow] = []
    for name, modalities in members.items():
        n_folded, newest = known.count(modalities, n), known.newest(modalities, n)
        for which, state in ((parcel, after[name].take(_tensor(last))), (emptied, start[name].take(_tensor(emptied)))):
            rows += [
                StateRow(int(claim.parcel_keys[p]), name, int(n_folded[p]), to_utc(newest[p]), one)
                for p, one in zip(which.tolist(), streaming.to_bytes(state), strict=True)
            ]
    if rows:
        beliefs.save_states(connection, model_key, rows)


def _tensor(index: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(index)
