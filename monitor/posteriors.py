"""Incremental posteriors: what is new of each claimed parcel, folded into its encoder states.

A state belongs to a sequence of the model: that of a modality, or of all (mid fusion). A parcel whose state is missing, whose
model changed, or of which an observation was revised or withdrawn is rebuilt from its current observations; for all others
only the pending rows are read into the network. Both give the same posterior.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from db import beliefs
from db.beliefs import PosteriorRow, StateRow
from db.columns import to_utc
from db.work import Claim
from models import streaming
from models.crop_model import CropModel
from models.streaming import State
from monitor.features import observations, season_days


@dataclass(frozen=True)
class Folded:
    """What inference says of the claimed parcels that anything is known of."""

    rows: list[PosteriorRow]
    n_folded: int
    """Observations that went through the network."""


def fold(
    connection: sa.Connection, model_key: int, model: CropModel, claim: Claim, series: Mapping[str, NDArray[np.void]],
    geometry: NDArray[np.float64], starts_on: date,
) -> Folded:  # fmt: skip
    """Folds what is new into the states of the claimed parcels, stores the states, returns the posteriors.

    Args:
        series: rows by modality (newest revisions, sorted by parcel), all that is known of the claimed parcels.
        geometry: (P, 4) of the claimed parcels.
    """
    n = len(claim.parcel_keys)
    wanted = {one.name: series[one.name] for one in model.config.modalities}
    stored = {
        (row.parcel_key, row.modality): row for row in beliefs.load_states(connection, claim.parcel_keys, model_key)
    }
    is_new = {name: _is_new(rows, claim, name) for name, rows in wanted.items()}
    members = {name: model.config.members(name) for name in model.config.sequences}
    is_rebuilt = _rebuilt(claim, members, wanted, is_new, stored)
    new = {name: rows[is_new[name] | is_rebuilt[_index(claim, rows)]] for name, rows in wanted.items()}
    batch = model.batch(
        {
            one.name: observations(connection, one, new[one.name], claim.parcel_keys, starts_on)
            for one in model.config.modalities
        },
        geometry,
    )
    states = model.encode(batch.to(model.device), _states(claim, stored, is_rebuilt, model))
    counts = {name: np.bincount(_index(claim, rows), minlength=n) for name, rows in wanted.items()}
    newest_of = {name: _newest(claim, rows) for name, rows in wanted.items()}
    _save(connection, model_key, claim, members, new, is_rebuilt, states, counts, newest_of)
    newest = np.max(list(newest_of.values()), axis=0)
    known = np.flatnonzero(sum(counts.values()))
    if len(known) == 0:
        return Folded([], 0)
    index = {name: state.take(_tensor(known).to(model.device)) for name, state in states.items()}
    probabilities = model.posteriors(index, season_days(newest[known], starts_on))
    rows_ = [
        PosteriorRow(
            int(claim.parcel_keys[p]), to_utc(newest[p]), {name: int(c[p]) for name, c in counts.items()}, row.tolist()
        )
        for p, row in zip(known, probabilities, strict=True)
    ]
    return Folded(rows_, sum(map(len, new.values())))


def _rebuilt(
    claim: Claim, members: Mapping[str, tuple[str, ...]], series: Mapping[str, NDArray[np.void]],
    is_new: Mapping[str, NDArray[np.bool_]], stored: Mapping[tuple[int, str], StateRow],
) -> NDArray[np.bool_]:  # fmt: skip
    """(P,) parcels whose states must be made anew."""
    pending = claim.pending
    revised = pending[pending["is_rebuild"] | (pending["revision"] > 0)]["parcel_key"]
    is_rebuilt = np.isin(claim.parcel_keys, revised)
    # A state must hold exactly what is known less what is pending: anything else (a dropped state, a first look at a
    # season that already runs) is not patched but made anew.
    for name, modalities in members.items():
        seen = np.concatenate([_index(claim, series[one][~is_new[one]]) for one in modalities])
        old = np.bincount(seen, minlength=len(claim.parcel_keys))
        held = np.array([s.n_folded if (s := stored.get((int(key), name))) else 0 for key in claim.parcel_keys])
        is_rebuilt |= old != held
    return is_rebuilt


def _is_new(rows: NDArray[np.void], claim: Claim, modality: str) -> NDArray[np.bool_]:
    """(N,) rows that are pending."""
    pending = claim.pending[~claim.pending["is_rebuild"] & (claim.pending["is_s2"] == (modality == "s2"))]
    key = ["parcel_key", "observed_at", "relative_orbit", "revision"]
    kind = np.dtype([(name, claim.pending.dtype[name]) for name in key])
    wanted, given = np.empty(len(pending), kind), np.empty(len(rows), kind)
    for name in key:
        wanted[name], given[name] = pending[name], rows[name]
    return np.isin(given.view(f"V{kind.itemsize}"), wanted.view(f"V{kind.itemsize}"))


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


def _save(
    connection: sa.Connection, model_key: int, claim: Claim, members: Mapping[str, tuple[str, ...]],
    new: Mapping[str, NDArray[np.void]], is_rebuilt: NDArray[np.bool_], states: Mapping[str, State],
    counts: Mapping[str, NDArray[np.int64]], newest: Mapping[str, NDArray[np.datetime64]],
) -> None:  # fmt: skip
    rows: list[StateRow] = []
    for name, state in states.items():
        # A rebuilt state is stored even if it is empty now: all its observations may have been withdrawn.
        with_news = np.concatenate([_index(claim, new[one]) for one in members[name]])
        touched = np.union1d(with_news, np.flatnonzero(is_rebuilt))
        if len(touched) == 0:
            continue
        n_folded = np.sum([counts[one] for one in members[name]], axis=0)
        seen_to = np.max([newest[one] for one in members[name]], axis=0)
        rows += [
            StateRow(int(claim.parcel_keys[p]), name, int(n_folded[p]), to_utc(seen_to[p]), one)
            for p, one in zip(touched, streaming.to_bytes(state.take(_tensor(touched).to(state.m.device))), strict=True)
        ]
    if rows:
        beliefs.save_states(connection, model_key, rows)


def _newest(claim: Claim, rows: NDArray[np.void]) -> NDArray[np.datetime64]:
    """(P,) the newest observation of each parcel; the year 1 where there is none."""
    newest = np.full(len(claim.parcel_keys), np.datetime64("0001-01-01", "us"))
    np.maximum.at(newest, _index(claim, rows), rows["observed_at"])
    return newest


def _index(claim: Claim, rows: NDArray[np.void]) -> NDArray[np.int64]:
    return np.searchsorted(claim.parcel_keys, rows["parcel_key"])


def _tensor(index: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(index)
