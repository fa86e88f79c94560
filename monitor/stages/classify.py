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
from db.connect import Connection
from db.predictions import MODALITIES, Posteriors
from db.series import pixel_sets
from db.states import States, of_numbers
from models.classifier import attention_state
from models.classifier.attention_state import STORED, State
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import Observations
from monitor.batch import Active, BatchContext, Classified, n_held
from monitor.features import geometry, packed, season_days, sensor_of, split_modalities
from monitor.season_series import NEVER

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
    batch.classified = replace(classified, is_changed=_is_changed(batch.connection, batch.classifier.key, classified))


def save(batch: BatchContext) -> None:
    """Store the posteriors that changed."""
    if batch.classifier is not None and batch.classified is not None and batch.recorded_at is not None:
        changed = batch.classified.posteriors.where(batch.classified.is_changed)
        predictions.save_posteriors(batch.connection, batch.classifier.key, changed, batch.recorded_at)


def fold(batch: BatchContext, classifier: Active[CropModel]) -> Classified:
    """Fold what is new into the states of the claimed parcels and return the posteriors."""
    connection, claim, model, starts_on = batch.connection, batch.claim, classifier.model, batch.season.starts_on
    shape = geometry(*zip(*((p.perimeter_m, p.area_ha, p.bbox_fill) for p in batch.parcels), strict=True))
    members = {name: model.config.members(name) for name in model.config.sequences}
    known = _Rows.of(batch, [one.name for one in model.config.modalities])
    is_rebuilt = _rebuilt(batch, classifier, known)
    new = {name: known.is_new[name] | is_rebuilt[known.index[name]] for name in known.all}
    acquired = _Acquisitions.of(known, new)
    start = _states(batch, classifier, is_rebuilt)
    observations = _packed(connection, model, known, new, acquired, starts_on)
    each = model.encode(
        model.batch(observations, shape[acquired.parcel]).to(model.device),
        model.network.initial_states(len(acquired.parcel), model.device),
    )
    of = _tensor(acquired.parcel).to(model.device)
    after = {name: attention_state.prefixes(start[name], state, of) for name, state in each.items()}
    batch.new_states += _state_rows(classifier.key, members, known, is_rebuilt, start, after, acquired)
    posteriors = _posteriors(model, known, is_rebuilt, acquired, after, starts_on)
    rebuilt = frozenset(claim.parcel_keys[is_rebuilt].tolist())
    n_folded = sum(int(one.sum()) for one in new.values())
    return Classified(posteriors, rebuilt, n_folded, np.ones(len(posteriors.parcel_key), bool))


def _is_changed(connection: Connection, model_key: int, folded: Classified) -> NDArray[np.bool_]:
    """Return (G,) posteriors that are not stored like that: of a rebuilt parcel those that differ, and then its last one too.

    The last one is in force because it is recorded last, so it follows whatever is written.
    """
    new = folded.posteriors
    is_changed = np.ones(len(new.parcel_key), bool)
    asked = np.flatnonzero(np.isin(new.parcel_key, list(folded.rebuilt)))
    if len(asked) == 0:
        return is_changed
    stored, is_in_force = predictions.courses(
        connection, np.unique(new.parcel_key[asked]), model_key, new.probabilities.shape[1]
    )
    if len(stored.parcel_key) == 0:
        return is_changed
    place = np.searchsorted(_keys_of(stored), _keys_of(new)[asked])
    old = np.minimum(place, len(stored.parcel_key) - 1)
    is_same = (_keys_of(stored)[old] == _keys_of(new)[asked]) & np.all(
        stored.n_observations[old] == new.n_observations[asked], axis=1
    )
    is_same &= np.all(np.abs(stored.probabilities[old] - new.probabilities[asked]) <= SAME, axis=1)
    is_last = new.is_last[asked]
    is_changed[asked] = ~is_same
    # A last one that is stored like that, but no longer in force, is written again, as is one after which any was written.
    any_changed = np.isin(new.parcel_key[asked], new.parcel_key[asked[~is_same | (is_last & ~is_in_force[old])]])
    is_changed[asked] |= is_last & any_changed
    return is_changed


def _keys_of(posteriors: Posteriors) -> NDArray[np.void]:
    """Return (G,) parcel and time of acquisition as one value that can be sorted."""
    keys = np.empty(len(posteriors.parcel_key), [("parcel_key", "i8"), ("observed_to", "M8[us]")])
    keys["parcel_key"], keys["observed_to"] = posteriors.parcel_key, posteriors.observed_to
    return keys


def _rebuilt(batch: BatchContext, classifier: Active[CropModel], known: _Rows) -> NDArray[np.bool_]:
    """Return (P,) parcels whose states must be made anew."""
    claim, observed = batch.claim, batch.claim.observations
    is_rebuilt = claim.is_due("classifier") | known.is_late()
    # A state cannot forget: what a revision replaced or withdrew is folded into it for good.
    is_rebuilt |= np.isin(claim.parcel_keys, observed["parcel_key"][observed["revision"] > 0])
    # A state must hold exactly what is known less what is pending: anything else (a dropped state, the first pass over a
    # season that already runs) is not patched but made anew.
    for name in classifier.model.config.sequences:
        modalities, stored = classifier.model.config.members(name), batch.states.get((classifier.key, name))
        is_rebuilt |= known.before(modalities) != n_held(stored, claim.parcel_keys, 0)
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


def _states(batch: BatchContext, classifier: Active[CropModel], is_rebuilt: NDArray[np.bool_]) -> dict[str, State]:
    """Return the states to fold into: stored ones, empty ones where there is none or it is rebuilt."""
    model, keys = classifier.model, batch.claim.parcel_keys
    states = {}
    for name, empty in model.network.initial_states(1).items():
        numbers = np.repeat(attention_state.to_array(empty), len(keys), axis=0)
        if (stored := batch.states.get((classifier.key, name))) is not None:
            size = numbers.shape[1] * STORED.itemsize
            key, kept = stored.of_size(size)
            if lost := np.setdiff1d(
                stored.parcel_key[~is_rebuilt[np.searchsorted(keys, stored.parcel_key)]], key
            ).tolist():
                raise ValueError(
                    f"the state {name} of parcels {lost[:5]} has not {size} bytes; delete it from encoder_states"
                )
            place = np.searchsorted(keys, key)
            some = ~is_rebuilt[place]
            numbers[place[some]] = np.ascontiguousarray(kept[some]).view(STORED)
        state = attention_state.from_array(numbers, empty.m.shape[1], empty.v.shape[2], model=model.model)
        states[name] = state.to(model.device)
    return states


def _posteriors(
    model: CropModel,
    known: _Rows,
    is_rebuilt: NDArray[np.bool_],
    acquired: _Acquisitions,
    after: Mapping[str, State],
    starts_on: date,
) -> Posteriors:
    """Return the posterior after each acquisition."""
    n = len(acquired.parcel)
    probabilities = (
        model.posteriors(after, season_days(acquired.time, starts_on))
        if n
        else np.zeros((0, len(model.config.classes)), np.float32)
    )
    counts, n_observations = _counts(known, is_rebuilt, acquired), np.zeros((n, len(MODALITIES)), np.int64)
    for name, count in counts.items():
        n_observations[:, MODALITIES.index(name)] = count
    return Posteriors(known.parcel_keys[acquired.parcel], acquired.time, n_observations, probabilities)


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
) -> list[States]:
    """Return the states after each parcel's last acquisition, and those of parcels rebuilt to nothing."""
    last = acquired.last
    parcel, newest = acquired.parcel[last], np.full(len(is_rebuilt), NEVER)
    newest[parcel] = acquired.time[last]
    # A rebuilt state is stored even if it is empty now: all its observations may have been withdrawn.
    emptied = np.setdiff1d(np.flatnonzero(is_rebuilt), parcel)
    rows: list[States] = []
    for name, modalities in members.items():
        n_folded = sum((known.n_known[one] for one in modalities), np.zeros(len(known.parcel_keys), np.int64))
        for which, state in ((parcel, after[name].take(_tensor(last))), (emptied, start[name].take(_tensor(emptied)))):
            numbers = of_numbers(attention_state.to_array(state))
            rows.append(States(model_key, name, known.parcel_keys[which], n_folded[which], newest[which], numbers))
    return rows


def _tensor(index: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(index)
