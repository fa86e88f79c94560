"""Segmenters of windows (models.segmentation.delineation) from networks of one series.

    PaPs     its panoptic masks; scores softmax(class) x confidence
    U-TAE    the fields of a watershed; scores the mean over a field's pixels of softmax(logits)

Chosen because: a U-TAE has no fields of its own, and neighbours of one crop are one patch of its map.
Shapes: images (T, C, h, w), days (T,); K classes.
Units:  images as the network was trained on, before they are standardised, NaN where there is no value; days since the season's start.
Errors: ValueError for other channels than the network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from models.segmentation.delineation import Instances
from models.segmentation.paps import Paps, panoptic
from models.segmentation.utae import Utae, UtaeFeatures

LEAST = 16
"""Pixels of the smallest image that the networks take."""


@dataclass(frozen=True)
class Standardised:
    """A network with the statistics of its inputs; where there is no value it reads the mean, as in training (training.patches)."""

    network: Utae | Paps
    mean: NDArray[np.float32]
    """(C,)"""
    sd: NDArray[np.float32]
    """(C,)"""

    @property
    def channels(self) -> int:
        """Return C."""
        return int(self._features.channels)

    @property
    def classes(self) -> int:
        """Return K."""
        return int(self._features.classes)

    @property
    def _features(self) -> Any:
        return self.network.config.utae if isinstance(self.network, Paps) else self.network.config

    @property
    def encoder(self) -> UtaeFeatures:
        """Return the network from images to features."""
        return self.network.encoder if isinstance(self.network, Paps) else self.network

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the pixels that the network is given for a window: multiples of its stride, not too few."""
        stride = self._features.stride
        return max(-height % stride + height, LEAST), max(-width % stride + width, LEAST)

    def series(self, images: NDArray[np.floating[Any]], days: NDArray[np.integer[Any]]) -> tuple[Tensor, Tensor]:
        """Return images (1, T, C, H, W), standardised and as large as `size`, and days (1, T)."""
        if images.shape[1] != self.channels:
            raise ValueError(f"the network reads {self.channels} channels, the images have {images.shape[1]}")
        scaled = np.nan_to_num((images - self.mean[:, None, None]) / self.sd[:, None, None], posinf=0.0, neginf=0.0)
        more = [(0, to - side) for side, to in zip(images.shape[2:], self.size(*images.shape[2:]), strict=True)]
        padded = np.pad(scaled, ((0, 0), (0, 0), *more), mode="edge").astype(np.float32, copy=False)
        return torch.from_numpy(padded)[None], torch.from_numpy(np.asarray(days, np.int64))[None]

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.floating[Any]], days: NDArray[np.integer[Any]], drawn: Instances | None = None
    ) -> Instances:
        """Return the fields of a window; `drawn`: the fields that a U-TAE gives scores to."""
        return self.fields(self.levels(images, days), images.shape[2], images.shape[3], drawn)

    @torch.inference_mode()
    def levels(self, images: NDArray[np.floating[Any]], days: NDArray[np.integer[Any]]) -> list[Tensor]:
        """Return the features of a window, coarse to fine."""
        return self.encoder.features(*self.series(images, days))

    @torch.inference_mode()
    def fields(self, levels: Sequence[Tensor], height: int, width: int, drawn: Instances | None = None) -> Instances:
        """Return the fields of a window's features, coarse to fine; `drawn` as above."""
        if isinstance(self.network, Paps):
            return self._masks(self.network, levels, height, width)
        if drawn is None:
            raise ValueError("a U-TAE gives classes to fields that another segmenter drew")
        probability = self.network.head(levels[-1]).softmax(1)[0, :, :height, :width].numpy()
        flat = drawn.labels.ravel()
        count = np.maximum(np.bincount(flat, minlength=len(drawn.scores) + 1)[1:], 1)
        sums = [np.bincount(flat, one.ravel(), len(drawn.scores) + 1)[1:] for one in probability]
        return Instances(drawn.labels, np.stack(sums, 1) / count[:, None])

    @staticmethod
    def _masks(network: Paps, levels: Sequence[Tensor], height: int, width: int) -> Instances:
        prediction = network.head(levels)
        candidate = panoptic(prediction, network.config).candidate[0, :height, :width].numpy()
        chosen, labels = np.unique(candidate, return_inverse=True)
        labels = labels.reshape(candidate.shape) + (1 if chosen[0] >= 0 else 0)
        chosen = chosen[chosen >= 0]
        scores = functional.softmax(prediction.classes[chosen].float(), 1) * prediction.confidence[chosen, None]
        return Instances(_connected(labels), scores.numpy().astype(np.float64))


def _connected(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels without parts of a field that are not its largest one."""
    number, n = ndimage.label(_apart(labels))
    if not n:
        return labels
    area = np.bincount(number.ravel())
    area[0] = 0
    upper = number[::2, ::2]
    of = ndimage.maximum(labels, upper, np.arange(1, n + 1)).astype(np.int64)
    largest = np.zeros(int(labels.max()) + 1, np.int64)
    order = np.argsort(area[1:], kind="stable")
    largest[of[order]] = order + 1
    kept: NDArray[np.int64] = np.where(upper == largest[labels], labels, 0)
    return kept


def _apart(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (2h - 1, 2w - 1): pixels of fields, joined to neighbours of the same field."""
    h, w = labels.shape
    made = np.zeros((2 * h - 1, 2 * w - 1), bool)
    made[::2, ::2] = labels > 0
    made[1::2, ::2] = (labels[1:] == labels[:-1]) & (labels[1:] > 0)
    made[::2, 1::2] = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
    return made
