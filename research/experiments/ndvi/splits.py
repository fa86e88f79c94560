"""Who is held back: five folds or a share of the series, at random or in whole blocks; and what clouds leave of the others.

    random     series of one crop dealt out at random: a neighbour on the same soil under the same sky may be in training
    blocked    whole blocks (1.5 km of parcels, a field of pixels): what a score for a new area is

Source: Zhao et al. 2020 split at random; the data's page asks for blocks. Both are reported.
Shapes: masks (P,) over parcels, (R,) over clear views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.ndvi.inputs import Bools, ClearSeries, Ints
from research.experiments.gaps.series import GapSeries

Split = Literal["random", "blocked"]
SPLITS: Final[tuple[Split, ...]] = ("random", "blocked")
N_FOLDS = 5


@dataclass(frozen=True)
class Trial:
    """One choice of what is held back; models are trained on the rest."""

    name: str
    split: Split
    is_test: Bools
    """(P,) parcels that training does not see and that are answered."""
    is_view_kept: Bools | None = None
    """(R,) clear views that training may see of the others; None: all."""


def folds(series: GapSeries, split: Split, seed: int = 0) -> Ints:
    """Return (P,) the fold 0..4 of every parcel."""
    return series.fold if split == "blocked" else _dealt(series.group, np.random.default_rng(seed)) % N_FOLDS


def fold_trials(series: GapSeries, split: Split, chosen: Sequence[int]) -> list[Trial]:
    """Return a trial for each chosen fold 1..5: its parcels are held back."""
    own = folds(series, split)
    return [Trial(f"{split}-fold-{number}", split, own == number - 1) for number in chosen]


def held_back(series: GapSeries, split: Split, share: float, draw: int) -> Trial:
    """Return a share of all series held back whole, as if a cloud lay over them in every optical pass.

    At random: that share of each crop. In blocks: blocks in random order until the share of the scored series is reached;
    a larger share holds back what a smaller one of the same draw does.
    """
    rng, name = np.random.default_rng(draw), f"{split}-held-{100 * share:.0f}-{draw}"
    if split == "random":
        rank = _dealt(series.group, rng)
        size = dict(zip(*np.unique(series.group, return_counts=True), strict=True))
        return Trial(name, split, rank < np.round(share * np.array([size[one] for one in series.group])))
    order = rng.permutation(np.unique(series.block))
    scored = np.array([(series.is_scored & (series.block == one)).sum() for one in order])
    before = np.cumsum(scored) - scored
    # A block goes where its middle lies, so that the share is met to half a block.
    taken = order[(before + scored / 2 < share * scored.sum()) & (scored > 0)]
    return Trial(name, split, np.isin(series.block, taken))


def clouded(trial: Trial, clear: ClearSeries, share: float, draw: int) -> Trial:
    """Return the same trial with a share of each parcel's clear views lost at random; a larger share loses what a smaller does."""
    u = np.random.default_rng(draw).random(len(clear.day))
    order = np.lexsort((u, clear.parcel))
    sizes = np.bincount(clear.parcel)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[clear.parcel[order]]
    kept = rank < np.round((1 - share) * sizes[clear.parcel])
    return Trial(f"{trial.name}-views-{100 * share:.0f}-{draw}", trial.split, trial.is_test, kept)


def _dealt(group: NDArray[np.str_], rng: np.random.Generator) -> Ints:
    """Return (P,) the place of each parcel in a random order of its group."""
    u = rng.random(len(group))
    place = np.empty(len(group), np.int64)
    for name in np.unique(group):
        own = np.flatnonzero(group == name)
        place[own[np.argsort(u[own])]] = np.arange(len(own))
    return place
