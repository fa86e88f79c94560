"""Recorded seasons by kind: opening one, and the labels, blocks and folds on which it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from research.seasons import fr, nl
from research.seasons.replay_source import RecordedSeason, SeasonDataError
from training.folds import blocked_folds

Kind = Literal["nl", "fr"]
READERS = {"nl": nl.read, "fr": fr.read}


def open_season(kind: Kind, folder: Path) -> RecordedSeason:
    """Return the recorded season in a folder of the Dutch or the French form.

    Raises:
        SeasonDataError: the folder does not hold one.
    """
    return READERS[kind](folder)


def labels_frame(season: RecordedSeason, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return labels, blocks and folds: parcel_id, label (None: not scored), block, fold (0..4); a row per parcel.

    Args:
        classes: those to score, as when the model was trained on another folder; None: those with enough samples here.

    Raises:
        SeasonDataError: no parcel, or only one class, can be scored.
    """
    frame = season.labels.copy()
    counts = frame["label"].value_counts()
    wanted = set(counts[counts >= season.min_samples].index) if classes is None else set(classes)
    labels = [label if label in wanted else None for label in frame["label"]]
    frame["label"] = pd.Series(labels, index=frame.index, dtype=object)
    if frame["label"].nunique() < (2 if classes is None else 1):
        raise SeasonDataError(
            f"{season.collection}: {frame['label'].nunique()} crop classes with at least {season.min_samples} parcels; "
            "a score needs two (one where another season gave the classes)"
        )
    frame["fold"] = blocked_folds(frame["block"].tolist(), labels)
    return frame[["parcel_id", "label", "block", "fold"]]


def classes_of(labels: pd.DataFrame) -> tuple[str, ...]:
    """Return the scored classes of a labels frame, in alphabetical order."""
    return tuple(sorted(labels["label"].dropna().unique()))
