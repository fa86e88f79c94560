"""PaPs: fields as points. A heat map of centres, and for each centre a size, a crop and a shape that becomes a mask.

    m = sigmoid(heat(f))          centres: pixels with m at least that of their 8 neighbours, and above the mean
    g = [f^L .. f^1 at a centre]  size = softplus(MLP(g))  crop = MLP(g)  shape = MLP(g)
    panoptic                      masks by falling m, each where no earlier one lies, unless less than half of it is left

Source: Garnot and Landrieu 2021 (PaPs), sizes and thresholds of their public code. Mended: any number of images, of centres and of dates,
        images that are not square, and the mean of a heat map is that of its own image ("batch": of all, as published).
Shapes: levels (B, 128, H/8, W/8) to (B, 32, H, W), coarse to fine; N candidates, K classes; zones (B, H, W).
Units:  sizes and boxes in pixels.
Errors: ConfigError for settings that do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier.ltae import ConfigError
from models.classifier.pixel_set_encoder import LinearNorm
from models.segmentation.instance_masks import Boxes, MaskNetwork, Masks, boxes, masks
from models.segmentation.utae import UtaeConfig, UtaeFeatures, batch_convolution

Mean = Literal["image", "batch"]
HIDDEN = 32
"""Channels between the features and a map of one channel, as published."""
PRIOR = 0.01
"""Of a pixel to be a centre, before anything is learnt (Lin et al. 2017, section 4.1); not published of PaPs."""


@dataclass(frozen=True)
class PapsConfig:
    """Settings of a PaPs; defaults are the published ones but for `mean`."""

    utae: UtaeConfig
    """The network of the features; its `classes` are those of fields, void among them."""
    shape: int = 16
    """Side of the shape of a field, in cells."""
    min_confidence: float = 0.2
    mask_threshold: float = 0.4
    min_remaining: float = 0.5
    """Share of a mask that no earlier one covers, above which it is kept."""
    mean: Mean = "image"
    """Over what the mean is taken that a centre is above."""

    def __post_init__(self) -> None:
        if self.shape < 1:
            raise ConfigError(f"a shape has at least 1 cell a side, not {self.shape}")
        if self.mean not in get_args(Mean):
            raise ConfigError(f"the mean of a heat map is one of {', '.join(get_args(Mean))}, not {self.mean!r}")
        for name in ("min_confidence", "mask_threshold", "min_remaining"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Prediction:
    """Candidates for fields, in the order of images, rows and columns."""

    heatmap: Tensor
    """(B, 1, H, W)."""
    saliency: Tensor
    """(B, 1, H, W), before the sigmoid."""
    centers: Tensor
    """(B, H, W) bool."""
    at: Tensor
    """(N, 3) image, row and column of each centre."""
    confidence: Tensor
    """(N,) the heat map at the centre."""
    size: Tensor
    """(N, 2) height and width."""
    classes: Tensor
    """(N, K) logits."""
    boxes: Tensor
    """(N, 4) x0, y0, x1, y1, clipped to the image."""
    masks: Masks
    """Of all candidates, each its whole box, where zones were given; else of those confident enough, where above the threshold."""


@dataclass(frozen=True)
class Panoptic:
    """Fields that do not overlap."""

    instances: Tensor
    """(B, H, W) int64: the rank of the field's candidate in its image, from 1; 0 where there is none."""
    candidate: Tensor
    """(B, H, W) int64: the candidate, -1 where there is none."""

    def class_scores(self, prediction: Prediction) -> Tensor:
        """Return the logits of each pixel's field (B, K, H, W), zeros where there is none."""
        rows = torch.cat([prediction.classes, prediction.classes.new_zeros(1, prediction.classes.shape[1])])
        return rows[self.candidate].permute(0, 3, 1, 2)


class PapsHead(nn.Module):
    """The network from features to candidates, whatever made the features."""

    def __init__(self, widths: Sequence[int], config: PapsConfig) -> None:
        """`widths`: channels of the levels, in any order."""
        super().__init__()
        self.config = config
        stack, fine = sum(widths), widths[0]
        half, quarter = stack // 2, stack // 4
        self.heat = self._map(fine, PRIOR)
        self.saliency = self._map(fine)
        self.shape = nn.Sequential(LinearNorm(stack, half), nn.ReLU(), nn.Linear(half, config.shape**2))
        self.size = nn.Sequential(
            LinearNorm(stack, half), nn.ReLU(), LinearNorm(half, quarter), nn.ReLU(), nn.Linear(quarter, 2)
        )
        # Published so: no activation between the last two.
        self.classes = nn.Sequential(
            LinearNorm(stack, half), nn.ReLU(), nn.Linear(half, quarter), nn.Linear(quarter, config.utae.classes)
        )
        self.mask = MaskNetwork()

    @staticmethod
    def _map(fine: int, prior: float = 0.5) -> nn.Sequential:
        last = batch_convolution(HIDDEN, 1, relu=False)
        # Centres are rare: from a half everywhere, thousands of steps go by before there is one (docs/LOG.md).
        nn.init.constant_(last.norm.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]
        return nn.Sequential(batch_convolution(fine, HIDDEN), last)

    def forward(self, levels: Sequence[Tensor], zones: Tensor | None = None) -> Prediction:
        """Return the candidates of the decoder's levels, coarse to fine.

        Args:
            levels: each twice as fine as the one before.
            zones: (B, H, W) the true field whose centre is nearest to each pixel, 0: none. With them there is one candidate in each
                zone, where the heat map is highest, for training; without, one in each local maximum.
        """
        device = levels[-1].device.type
        # In float32 under autocast too: half the digits make neighbours equal, and each of them a centre.
        with torch.autocast(device, enabled=False):
            heatmap = self.heat(levels[-1].float()).sigmoid()
        saliency = self.saliency(levels[-1])
        centers = self._maxima(heatmap) if zones is None else highest_in_zones(heatmap, zones)
        at = centers.nonzero()
        stack = _stacked(levels, at)
        size = functional.softplus(self.size(stack).float())
        confidence = heatmap[:, 0][centers]
        found = boxes(at[:, 1], at[:, 2], size, *heatmap.shape[-2:])
        shapes = self.shape(stack).float().unflatten(1, (self.config.shape, -1))
        with torch.autocast(device, enabled=False):  # places in a shape are fractions of a pixel
            packed = self._masks(shapes, saliency.float(), at[:, 0], found, confidence, is_whole=zones is not None)
        return Prediction(heatmap, saliency, centers, at, confidence, size, self.classes(stack), found.clipped, packed)

    def _maxima(self, heatmap: Tensor) -> Tensor:
        over = (0, 1, 2, 3) if self.config.mean == "batch" else (1, 2, 3)
        is_maximum = heatmap == functional.max_pool2d(heatmap, 3, 1, 1)
        return (is_maximum & (heatmap > heatmap.mean(over, keepdim=True)))[:, 0]

    def _masks(
        self, shapes: Tensor, saliency: Tensor, image: Tensor, found: Boxes, confidence: Tensor, *, is_whole: bool
    ) -> Masks:
        if is_whole:
            return masks(self.mask, shapes, saliency, image, found, torch.arange(len(image), device=image.device))
        chosen = (confidence >= self.config.min_confidence).nonzero()[:, 0]
        return masks(self.mask, shapes, saliency, image, found, chosen, self.config.mask_threshold)


class Paps(nn.Module):
    """The network of one series of images."""

    def __init__(self, config: PapsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = UtaeFeatures(config.utae)
        self.head = PapsHead(config.utae.decoder, config)

    def forward(
        self, images: Tensor, day: Tensor, valid: Tensor | None = None, zones: Tensor | None = None
    ) -> Prediction:
        """Return the candidates of B series: images (B, T, C, H, W), day and valid (B, T), zones (B, H, W) as `PapsHead`."""
        return self.head(self.encoder.features(images, day, valid), zones)  # type: ignore[no-any-return]


def highest_in_zones(heatmap: Tensor, zones: Tensor) -> Tensor:
    """Return (B, H, W) bool, true at the highest pixel of each zone (B, H, W) but 0; the first of several that are equal."""
    heat, zone = heatmap.detach().flatten(), zones.long().flatten()
    image = torch.arange(len(zones), device=zone.device).repeat_interleave(zones[0].numel())
    _, key = (image * (zone.max() + 1) + zone).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    highest = heat.new_full((int(key.max()) + 1,), -torch.inf).scatter_reduce(0, key, heat, "amax")
    pixel = torch.arange(len(heat), device=heat.device)
    is_candidate = (heat == highest[key]) & (zone != 0)
    first = pixel.new_full(highest.shape, len(heat))
    first = first.scatter_reduce(0, key[is_candidate], pixel[is_candidate], "amin")
    centers = torch.zeros(len(heat) + 1, dtype=torch.bool, device=heat.device)
    centers[first] = True
    return centers[:-1].view(zones.shape)


def _stacked(levels: Sequence[Tensor], at: Tensor) -> Tensor:
    """Return the features of all levels, coarse to fine, at the centres (N, 3): (N, sum of channels)."""
    image, row, column = at.unbind(1)
    coarser = range(len(levels) - 1, -1, -1)
    return torch.cat([
        level[image, :, row >> power, column >> power] for level, power in zip(levels, coarser, strict=True)
    ], dim=1)  # fmt: skip


@torch.no_grad()
def panoptic(prediction: Prediction, config: PapsConfig) -> Panoptic:
    """Return the fields that remain of confident candidates, the most confident first.

    Candidates are looked at one by one on the processor, as each depends on those before it; masks are lists of pixels there.
    """
    images, height, width = prediction.centers.shape
    image, confidence = prediction.at[:, 0].cpu().numpy(), prediction.confidence.float().cpu().numpy()
    order = np.lexsort((-confidence, image))
    first = np.searchsorted(image[order], np.arange(images))
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    rank = position - first[image] + 1

    is_field = prediction.masks.value > config.mask_threshold
    candidate = prediction.masks.candidate[is_field].cpu().numpy()
    pixel = prediction.masks.pixel[is_field].cpu().numpy()
    is_confident = confidence[candidate] >= np.float32(config.min_confidence)
    candidate, pixel = candidate[is_confident], pixel[is_confident]
    by_position = np.argsort(position[candidate], kind="stable")
    candidate, pixel = candidate[by_position], pixel[by_position]
    starts, stops = (np.flatnonzero(np.diff(candidate, prepend=-1)), np.flatnonzero(np.diff(candidate, append=-1)) + 1)

    of_pixel = np.full(images * height * width, -1, np.int64)
    for start, stop in zip(starts, stops, strict=True):
        mask = pixel[start:stop]
        free = mask[of_pixel[mask] < 0]
        if len(free) == len(mask) or len(free) > config.min_remaining * len(mask):
            of_pixel[free] = candidate[start]
    instances = np.where(of_pixel >= 0, np.append(rank, 0)[of_pixel], 0)
    shape = (images, height, width)
    device = prediction.heatmap.device
    return Panoptic(
        torch.from_numpy(instances).view(shape).to(device), torch.from_numpy(of_pixel).view(shape).to(device)
    )
