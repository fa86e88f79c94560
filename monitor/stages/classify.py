"""Classification: new acquisitions of each claimed parcel, folded into its cached encoder states one by one.

    in order   state before ── acquisition ── posterior ── acquisition ── posterior ... state after
    late, revised, withdrawn   what the state holds of that time and later is taken out, and all of it folded in order again
    anything else   the parcel's states are made anew from all its current observations, and so is its course of posteriors

So the course of a parcel's posteriors is a function of what is known of it, not of when a worker came by, and rules on
the course find the same after a pause. Anything else is: a state that is missing or of another model, one of which little would be
left. A state belongs to a sequence of the model: that of a modality, or of all (early and mid fusion).

States are stored by db/states.py in encoder_states, whose column `modality` holds the sequence's name: a modality's, "early" or "mid";
of the gap filler "ndvi causal" or "ndvi retrospective"; under model_key 0 "series", the season's (monitor/season_series.py), and
"curve", the daily curve (monitor/season_curves.py).

Reads the batch's observations, its classifier, stored states and posteriors. Adds `classified` to the batch.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from db import predictions
from db.connect import Connection
from db.predictions import MODALITIES, Posteriors
from db.states import States, of_numbers
from models.classifier import attention_state
from models.classifier.attention_state import STORED, State
from models.classifier.crop_model import CropModel
from monitor.acquisitions import Acquisitions, Known, acquisition_keys, folded
from monitor.batch import Active, BatchContext, Classified, n_held
from monitor.features import season_days
from monitor.season_series import NEVER

LEAST_LEFT: Final = 0.3
"""Share of a state's weights that must be left when observations are taken out of it: the rounding then stays below 1e-5
(0.03 left 8e-5 in one posterior of some thousand, docs/LOG.md)."""
SAME: Final = 2e-6
"""Probabilities that differ by less are the same: the order of float32 sums changes them by some 1e-7."""


def classify(batch: BatchContext) -> None:
    """Fold new acquisitions into the parcels' cached states and find the posterior after each; without a classifier, nothing.

    Adds the states, which are a cache, to those that are to be stored, and leaves the posteriors to `save`.
    """
    if batch.classifier is None:
        return
    batch.classified = fold(batch, batch.classifier)


def save(batch: BatchContext) -> None:
    """Store the posteriors that changed."""
    if batch.classifier is not None and batch.classified is not None and batch.recorded_at is not None:
        changed = batch.classified.posteriors.where(batch.classified.is_changed)
        predictions.save_posteriors(batch.connection, batch.classifier.key, changed, batch.recorded_at)


def fold(batch: BatchContext, classifier: Active[CropModel]) -> Classified:
    """Fold what is new into the states of the claimed parcels and return the posteriors."""
    claim, model = batch.claim, classifier.model
    known = Known.of(batch, [one.name for one in model.config.modalities])
    replaced = known.replaced(batch)
    is_rebuilt = _rebuilt(batch, classifier, known, replaced)
    before = _states(batch, classifier, is_rebuilt)
    start, is_rebuilt = _without_later(batch, model, known, replaced, before, is_rebuilt)
    new = known.since(np.where(is_rebuilt, NEVER, known.first_pending))
    acquired = Acquisitions.of(known, new)
    probabilities = [np.zeros((0, len(model.config.classes)), np.float32)]
    ends = [{name: state.take(slice(0, 0)) for name, state in start.items()}]
    for some, after in folded(batch, model, acquired, new, start):
        days, fold = season_days(acquired.time[some], batch.season.starts_on), batch.fold_of(acquired.parcel[some])
        probabilities.append(model.posteriors(after, days, fold))
        ends.append(_last_of(after, acquired.parcel[some]))
    is_anew = is_rebuilt | ~batch.is_in_order
    batch.new_states += _state_rows(batch, classifier, is_anew, start, _joined(ends), acquired)
    posteriors = _posteriors(known, new, acquired, np.concatenate(probabilities))
    n_folded = sum(len(one) for one in new.values())
    return _with_earlier(batch.connection, classifier.key, posteriors, claim.parcel_keys[is_anew], known, n_folded)


def _rebuilt(
    batch: BatchContext, classifier: Active[CropModel], known: Known, replaced: Mapping[str, NDArray[np.void]]
) -> NDArray[np.bool_]:
    """Return (P,) parcels whose states must be made anew."""
    claim = batch.claim
    is_rebuilt = claim.is_due("classifier")
    # A state must hold exactly what is known less what is pending, and what that replaced: anything else (a dropped state, the
    # first pass over a season that already runs) is not patched but made anew.
    for name in classifier.model.config.sequences:
        modalities, stored = classifier.model.config.members(name), batch.states.get((classifier.key, name))
        gone = sum(
            (known.counted(replaced[one]) for one in modalities if one in replaced), np.zeros(len(is_rebuilt), np.int64)
        )
        is_rebuilt |= known.before(modalities) + gone != n_held(stored, claim.parcel_keys, 0)
    # Of parcels in order nothing but the pending was read.
    return is_rebuilt & ~batch.is_in_order


def _without_later(  # the states as they were before the first pending observation, from all that says what came later
    batch: BatchContext,
    model: CropModel,
    known: Known,
    replaced: Mapping[str, NDArray[np.void]],
    start: Mapping[str, State],
    is_rebuilt: NDArray[np.bool_],
) -> tuple[Mapping[str, State], NDArray[np.bool_]]:
    """Return the states without what is not older than the first pending observation, and (P,) which parcels are to be rebuilt.

    Softmax sums can be subtracted; where little is left of them the rounding would show, and the parcel is rebuilt.
    """
    if batch.is_in_order.all():
        return start, is_rebuilt
    later = known.later(replaced)
    later = {name: rows[~is_rebuilt[known.place(rows)]] for name, rows in later.items()}
    if not any(len(rows) for rows in later.values()):
        return start, is_rebuilt
    n_later = sum((known.counted(rows) for rows in later.values()), np.zeros(len(is_rebuilt), np.int64))
    n_before = known.before(list(known.all))
    is_rebuilt = is_rebuilt | (2 * n_later > n_before)  # to embed them twice would cost more
    later = {name: rows[~is_rebuilt[known.place(rows)]] for name, rows in later.items()}
    acquired = Acquisitions.of(known, later)
    nothing = model.network.initial_states(len(is_rebuilt), model.device)
    ends = [_last_of(after, acquired.parcel[some]) for some, after in folded(batch, model, acquired, later, nothing)]
    summed = _joined([nothing, *ends])
    last = np.arange(len(is_rebuilt))  # of each parcel: its sum, below those of which there is none
    last[acquired.parcel[acquired.last]] = len(is_rebuilt) + np.arange(len(acquired.last))
    reduced = {}
    for name, state in start.items():
        part = summed[name].take(_tensor(last).to(model.device))
        reduced[name], left = attention_state.take_out(state, part)
        is_rebuilt |= (left < LEAST_LEFT).cpu().numpy() & (n_later > 0)
    anew = _tensor(np.flatnonzero(is_rebuilt)).to(model.device)
    for state in reduced.values():  # of a rebuilt parcel nothing is kept
        state.m[anew], state.s[anew], state.v[anew] = -torch.inf, 0.0, 0.0
    return reduced, is_rebuilt


def _with_earlier(  # a batch's posteriors, from those found now and those stored of parcels that are not in order
    connection: Connection, model_key: int, new: Posteriors, anew: NDArray[np.int64], known: Known, n_folded: int
) -> Classified:
    """Return the posteriors found, of parcels whose past changed (keys) the whole course, and which are to be stored.

    Those are the ones that are not stored like that, and then the parcel's last one too: it is in force because it is recorded
    last, so it follows whatever is written.
    """
    is_changed = np.ones(len(new.parcel_key), bool)
    if len(anew) == 0:
        return Classified(new, anew, n_folded, is_changed)
    stored, is_in_force = predictions.courses(connection, anew, model_key, new.probabilities.shape[1])
    stored_keys, new_keys = (acquisition_keys(one.parcel_key, one.observed_to) for one in (stored, new))
    # Of an acquisition that has been withdrawn, and of one that is folded anew, what is stored counts no more.
    is_earlier = np.isin(stored_keys, known.keys_before_pending()) & ~np.isin(stored_keys, new_keys)
    keys = np.concatenate([stored_keys[is_earlier], new_keys])
    order = np.argsort(keys, kind="stable")
    course, keys = Posteriors.joined([stored.where(is_earlier), new]).where(order), keys[order]
    is_changed = order >= int(is_earlier.sum())
    if len(stored_keys):
        is_anew, is_last = np.isin(course.parcel_key, anew), course.is_last
        old = np.minimum(np.searchsorted(stored_keys, keys), len(stored_keys) - 1)
        is_same = (stored_keys[old] == keys) & np.all(stored.n_observations[old] == course.n_observations, axis=1)
        is_same &= np.all(np.abs(stored.probabilities[old] - course.probabilities) <= SAME, axis=1)
        is_changed &= ~(is_same & is_anew)
        last_differs = is_last & is_anew & ~(is_same & is_in_force[old])
        is_changed |= is_last & np.isin(course.parcel_key, course.parcel_key[(is_changed & is_anew) | last_differs])
    return Classified(course, anew, n_folded, is_changed)


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
            place, found = np.searchsorted(keys, key), np.ascontiguousarray(kept).view(STORED)
            some = ~is_rebuilt[place]
            if some.sum() == len(keys):
                numbers = found
            else:
                numbers[place[some]] = found[some]
        state = attention_state.from_array(numbers, empty.m.shape[1], empty.v.shape[2], model=model.model)
        states[name] = state.to(model.device)
    return states


def _posteriors(
    known: Known, new: Mapping[str, NDArray[np.void]], acquired: Acquisitions, probabilities: NDArray[np.float32]
) -> Posteriors:
    """Return the posterior after each acquisition, of probabilities (G, C)."""
    n, parcel = len(acquired.parcel), acquired.parcel
    first, n_observations = np.searchsorted(parcel, parcel), np.zeros((n, len(MODALITIES)), np.int64)
    for name, rows in new.items():
        here = np.cumsum(np.bincount(acquired.of_row[name], minlength=n))
        before = known.n_known[name] - known.counted(rows)
        n_observations[:, MODALITIES.index(name)] = before[parcel] + here - np.where(first > 0, here[first - 1], 0)
    return Posteriors(known.parcel_keys[parcel], acquired.time, n_observations, probabilities)


def _state_rows(  # what an acquisition changes, by what it is found from
    batch: BatchContext,
    classifier: Active[CropModel],
    is_anew: NDArray[np.bool_],
    start: Mapping[str, State],
    ends: Mapping[str, State],
    acquired: Acquisitions,
) -> list[States]:
    """Return the states that are to be stored.

    Those after each parcel's last acquisition (`ends`, of parcels that have one), and of those that begin anew or were reduced
    and have none.
    """
    keys, config = batch.claim.parcel_keys, classifier.model.config
    # Stored even if it is empty now: all its observations may have been withdrawn.
    emptied = np.setdiff1d(np.flatnonzero(is_anew), acquired.parcel)
    rows: list[States] = []
    for name in config.sequences:
        n_folded = batch.series.count(config.members(name))
        # In order, a sequence of which nothing came is as it is stored.
        is_other = is_anew | (n_folded != n_held(batch.states.get((classifier.key, name)), keys, -1))
        ended = acquired.parcel[acquired.last]
        some = np.flatnonzero(is_other[ended])
        for which, state in (
            (ended[some], ends[name].take(_tensor(some))),
            (emptied, start[name].take(_tensor(emptied))),
        ):
            numbers = of_numbers(attention_state.to_array(state))
            rows.append(States(classifier.key, name, keys[which], n_folded[which], batch.series.newest[which], numbers))
    return rows


def _last_of(after: Mapping[str, State], parcel: NDArray[np.int64]) -> dict[str, State]:
    """Return the states after each parcel's last acquisition; parcel (G,) ascending."""
    last = _tensor(np.flatnonzero(np.diff(parcel, append=-1)))
    return {name: state.take(last.to(state.v.device)) for name, state in after.items()}


def _joined(parts: Sequence[Mapping[str, State]]) -> dict[str, State]:
    """Return the states of all parts in their order."""
    return {name: attention_state.concatenate([one[name] for one in parts]) for name in parts[0]}


def _tensor(index: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(index)
