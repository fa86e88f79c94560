"""What a classifier says of parcels at the end of given days, and how well it says it.

    logits (D, P, K) from what was known at the end of each day      IoU_c = TP / (TP + FP + FN)      F1_c = 2 TP / (2 TP + FP + FN)

Source: mIoU and macro-F1 are means over the classes that occur in truth or answers, as in the published code.
Shapes: D days, P parcels, K classes.
Units:  days since the season's start.
Errors: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.attention_state import State
from models.classifier.inference import folded
from models.classifier.network import FusionNetwork
from models.classifier.packed_series import Batch
from models.classifier.sampling import PackedParcels, moved

# Parcels that are answered at once; chosen because 256 seasons of 200 dates x 64 pixels x 10 bands are 130 MB a modality.
CHUNK = 256


@dataclass(frozen=True)
class Predictions:
    """What a model says of parcels, uncalibrated, with the day of the newest observation that each answer rests on."""

    logits: NDArray[np.float32]
    """(D, P, K)."""
    newest: NDArray[np.float64]
    """(D, P), 0 before the first observation."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the predictions of several sets of parcels, one after the other."""
        return cls(np.concatenate([one.logits for one in parts], 1), np.concatenate([one.newest for one in parts], 1))


def predict(
    network: FusionNetwork,
    parcels: PackedParcels,
    some: Tensor,
    days: tuple[float, ...],
    device: torch.device | str = "cpu",
) -> Predictions:
    """Return what a trained network says of the parcels `some` (P,) at the end of each of the days, ascending."""
    fast = folded(network).to(device)
    batches = (moved(parcels.take(part), torch.device(device)) for part in torch.split(some, CHUNK))
    parts = [Predictions(logits_at(fast, batch, days), newest_days(batch, days)) for batch in batches]
    nothing = np.zeros((len(days), 0, len(network.config.classes)), np.float32)
    return Predictions.joined([Predictions(nothing, np.zeros((len(days), 0))), *parts])


@torch.no_grad()
def logits_at(network: FusionNetwork, batch: Batch, days: tuple[float, ...]) -> NDArray[np.float32]:
    """Logits (D, P, K) with what was known at the end of each of the days, ascending.

    One pass over the season where the network streams; else the season so far anew for each day.
    """
    if not network.config.is_streaming:
        return np.stack([network.decode(network.encode(batch.until(day))).cpu().numpy() for day in days])
    states: dict[str, State] | None = None
    since, logits = -np.inf, []
    for day in days:
        new = {name: one.take((one.day > since) & (one.day <= day)) for name, one in batch.series.items()}
        states = network.encode(Batch(new, batch.geometry), states)
        logits.append(network.decode(states).cpu().numpy())
        since = day
    return np.stack(logits)


def newest_days(batch: Batch, days: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the day (D, P) of each parcel's newest observation known at the end of each of the days; 0 before the first."""
    newest = np.zeros((len(days), len(batch)))
    for one in batch.series.values():
        parcel, day = one.parcel.cpu().numpy(), one.day.cpu().numpy()
        for row, until in zip(newest, days, strict=True):
            np.maximum.at(row, parcel[day <= until], day[day <= until])
    return newest


def confusion(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.int64]:
    """Counts (K, K) by true class (row) and predicted class (column), K the largest class that occurs and one."""
    classes = int(max(labels.max(initial=0), predicted.max(initial=0))) + 1
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class (K,); NaN for one that is neither in truth nor in answers."""
    either = counts.sum(0) + counts.sum(1)
    return np.where(either > 0, 2 * counts.diagonal() / np.maximum(either, 1), np.nan)


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class (K,); NaN for one that is neither in truth nor in answers."""
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return np.where(union > 0, counts.diagonal() / np.maximum(union, 1), np.nan)


def macro_f1(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the mean F1 of the classes that occur in labels or predictions."""
    return float(np.nanmean(f1(confusion(labels, predicted))))


def mean_iou(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the mean IoU of the classes that occur in labels or predictions."""
    return float(np.nanmean(iou(confusion(labels, predicted))))
