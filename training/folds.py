"""Spatially blocked folds: parcels of one block are never in training and test together, folds alike in their classes.

    cost of block b in fold f = sum over classes c of ((n(f, c) + n(b, c)) / n(c))^2 - (n(f, c) / n(c))^2

Blocks are placed one by one, those with most labelled parcels first (then by name), each where it costs least; so a
class is spread over folds before it is heaped, and the same folder always gives the same folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

N_FOLDS = 5  # the data's page: "five folds of blocks"


def blocked_folds(blocks: Sequence[str], labels: Sequence[str | None], n_folds: int = N_FOLDS) -> list[int]:
    """Return the fold 0..n_folds-1 of each parcel, from its block and its label (None: not scored)."""
    counts = pd.crosstab(pd.Series(blocks, name="block"), pd.Series([label or "" for label in labels]))
    scored = counts.drop(columns="", errors="ignore")
    share = scored / scored.sum()  # (B, C): how much of each class lies in each block
    order = sorted(counts.index, key=lambda block: (-scored.loc[block].sum(), -counts.loc[block].sum(), block))
    held, parcels = np.zeros((n_folds, scored.shape[1])), np.zeros(n_folds)
    fold_of: dict[str, int] = {}
    for block in order:
        cost = ((held + share.loc[block].to_numpy()) ** 2 - held**2).sum(axis=1)
        fold = min(range(n_folds), key=lambda one: (round(float(cost[one]), 12), parcels[one], one))
        held[fold] += share.loc[block].to_numpy()
        parcels[fold] += counts.loc[block].sum()
        fold_of[block] = fold
    return [fold_of[block] for block in blocks]


def blocks(x: pd.Series, y: pd.Series, size_m: float) -> pd.Series:
    """Return the name of the square block of `size_m` metres in which each point (metres, a national grid) lies."""
    return (x // size_m).astype(int).astype(str) + "," + (y // size_m).astype(int).astype(str)
