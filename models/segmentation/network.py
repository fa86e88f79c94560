"""Segmentation and panoptic segmentation of several series of images, fused early, late or at decision.

    early     head(decoder(U-TAE of all channels at the dates of the first modality))
    late      head([finest level of the U-TAE of m for m])          PaPs: the levels of all m side by side
    decision  mean over the modalities m that were seen of the logits head_m(U-TAE of m)

Source: Garnot, Landrieu and Chehata 2022: fusion, temporal dropout, auxiliary losses of weight 0.5. Their early fusion extrapolates past
        the last radar date; here the last value is held. Decision fusion has no PaPs, early fusion no auxiliary heads, as there.
Shapes: series (B, T, C, H, W) of each modality to logits (B, K, H, W), or candidates (models.segmentation.paps).
Units:  images standardised, days since the season's start.
Errors: ConfigError for what makes no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier.ltae import ConfigError
from models.segmentation.paps import Paps, PapsConfig, PapsHead, Prediction
from models.segmentation.targets import VOID
from models.segmentation.utae import Utae, UtaeConfig, UtaeFeatures, batch_convolution

Fusion = Literal["early", "late", "decision"]
AUXILIARY = 0.5
"""Weight of the loss of each modality by itself, as published."""


@dataclass(frozen=True)
class ModalityConfig:
    """One modality: what its images hold and how training treats them."""

    name: str
    channels: int
    temporal_dropout: float = 0.0
    """Share of dates left out in training: 0.4 for S2, 0.2 for each S1 orbit direction (published)."""


@dataclass(frozen=True)
class SegmentationConfig:
    """Everything that shapes a network of pixels. Round trip: `from_json(config.to_json())`."""

    modalities: tuple[ModalityConfig, ...]
    utae: UtaeConfig
    """Of each modality; its `channels` are those of the modalities, whatever this says."""
    fusion: Fusion = "late"
    """Of two modalities or more."""
    auxiliary: bool = False
    """A head for each modality in training: in late fusion; in decision fusion they are there, and have a loss each."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.modalities]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"modalities need different names and at least one: {names}")
        if self.fusion not in get_args(Fusion):
            raise ConfigError(f"fusion is one of {', '.join(get_args(Fusion))}, not {self.fusion!r}")
        if self.auxiliary and self.scheme not in ("late", "decision"):
            raise ConfigError(f"auxiliary heads are of late and decision fusion, not of {self.scheme}")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the modalities' names, in order."""
        return tuple(one.name for one in self.modalities)

    @property
    def scheme(self) -> Literal["single", "early", "late", "decision"]:
        """Return how modalities are fused, "single" where there is one."""
        return self.fusion if len(self.modalities) > 1 else "single"

    @property
    def sequences(self) -> dict[str, int]:
        """Return the channels of each series that has a U-TAE of its own."""
        channels = {one.name: one.channels for one in self.modalities}
        return {"early": sum(channels.values())} if self.scheme == "early" else channels

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> SegmentationConfig:
        """Return the configuration from what `to_json` gave, read back from JSON.

        Raises:
            ConfigError: it was written by another version of this software.
        """
        try:
            utae: dict[str, Any] = {
                key: tuple(one) if isinstance(one, list) else one for key, one in plain["utae"].items()
            }
            modalities = tuple(ModalityConfig(**one) for one in plain["modalities"])
            return cls(modalities, UtaeConfig(**utae), plain["fusion"], plain["auxiliary"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a configuration of this version's segmentation: {error}") from error


@dataclass(frozen=True)
class ImageSeries:
    """The images of one modality of B patches, those of fewer dates padded."""

    images: Tensor
    """(B, T, C, H, W)."""
    day: Tensor
    """(B, T)."""
    valid: Tensor
    """(B, T) bool: dates that are there."""

    def to(self, device: torch.device | str) -> ImageSeries:
        """Return the same on a device."""
        return ImageSeries(*(one.to(device, non_blocking=True) for one in (self.images, self.day, self.valid)))

    @property
    def is_seen(self) -> Tensor:
        """(B,) bool: patches with a date."""
        return self.valid.any(1)


Batch = Mapping[str, ImageSeries]
"""By modality."""


class Output(NamedTuple):
    """The fused logits, and those of each modality by itself."""

    logits: Tensor
    """(B, K, H, W)."""
    auxiliary: dict[str, Tensor]
    """(B, K, H, W) of modalities with a head of their own; empty in evaluation of late fusion."""


class FusedFeatures(nn.Module):
    """A U-TAE, up to its head, of each series."""

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict(
            {name: UtaeFeatures(replace(config.utae, channels=n)) for name, n in config.sequences.items()}
        )

    def forward(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return the decoder's levels, coarse to fine, of each series.

        Raises:
            ConfigError: a modality is not given.
        """
        if missing := [name for name in self.config.names if name not in batch]:
            raise ConfigError(f"this network reads {', '.join(self.config.names)}; there is no {missing[0]}")
        if self.config.scheme == "early":
            first, *others = (batch[name] for name in self.config.names)
            images = torch.cat([first.images, *(interpolated(other, first.day) for other in others)], 2)
            batch = {"early": replace(first, images=images)}
        return {name: net.features(one.images, one.day, one.valid) for name, net, one in self._pairs(batch)}

    def _pairs(self, batch: Batch) -> Iterator[tuple[str, UtaeFeatures, ImageSeries]]:
        for name, network in self.encoders.items():
            assert isinstance(network, UtaeFeatures)
            yield name, network, batch[name]


class SegmentationNetwork(nn.Module):
    """A crop for each pixel, of one modality or several."""

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.features = FusedFeatures(config)
        fine, is_decision = config.utae.decoder[0], config.scheme == "decision"
        self.head = None if is_decision else _head(fine * len(config.sequences), config.utae)
        alone = config.names if is_decision or config.auxiliary else ()
        self.auxiliary = nn.ModuleDict({name: _head(fine, config.utae) for name in alone})

    def forward(self, batch: Batch) -> Output:
        """Return the logits of B patches."""
        finest = {name: levels[-1] for name, levels in self.features(batch).items()}
        is_wanted = self.training or self.head is None
        alone = {name: head(finest[name]) for name, head in self.auxiliary.items()} if is_wanted else {}
        if self.head is not None:
            return Output(self.head(torch.cat(list(finest.values()), 1)), alone)
        seen = torch.stack([batch[name].is_seen for name in alone])  # (M, B)
        weight = torch.where(seen.any(0), seen, True).float()[:, :, None, None, None]
        return Output((torch.stack(list(alone.values())) * weight).sum(0) / weight.sum(0), alone)


class PanopticNetwork(nn.Module):
    """Masks and crops of fields, of one modality or several."""

    def __init__(self, config: SegmentationConfig, paps: PapsConfig | None = None) -> None:
        """`paps`: thresholds and the size of shapes; None: as published.

        Raises:
            ConfigError: fusion at decision, or auxiliary heads, which panoptic segmentation has not (published).
        """
        super().__init__()
        if config.scheme == "decision" or config.auxiliary:
            raise ConfigError("fields are fused early or late, without auxiliary heads: masks have no mean")
        self.config = config
        self.features = FusedFeatures(config)
        paps = PapsConfig(config.utae) if paps is None else replace(paps, utae=config.utae)
        self.head = PapsHead([one * len(config.sequences) for one in config.utae.decoder], paps)

    def forward(self, batch: Batch, zones: Tensor | None = None) -> Prediction:
        """Return the candidates of B patches; with `zones` (B, H, W) one in each, as `PapsHead`."""
        by_level = zip(*self.features(batch).values(), strict=True)
        return self.head([torch.cat(one, 1) for one in by_level], zones)  # type: ignore[no-any-return]


def single(network: SegmentationNetwork | PanopticNetwork) -> Utae | Paps:
    """Return the U-TAE or PaPs that a trained network of one modality is.

    Raises:
        ConfigError: it fuses several modalities.
    """
    config = network.config
    if config.scheme != "single":
        raise ConfigError(f"this network fuses {', '.join(config.names)}: it is none of one series")
    (name, channels), *_ = config.sequences.items()
    utae = replace(config.utae, channels=channels)
    made: Utae | Paps
    if isinstance(network, PanopticNetwork):
        made, prefix = Paps(replace(network.head.config, utae=utae)), "encoder."
    else:
        made, prefix = Utae(utae), ""
    inner = f"features.encoders.{name}."
    made.load_state_dict({key.replace(inner, prefix, 1): one for key, one in network.state_dict().items()})
    return made.train(network.training)


def loss_of(output: Output, target: Tensor, auxiliary: float = AUXILIARY, void: int = VOID) -> Tensor:
    """Return the cross entropy of classes (B, H, W), and that of each modality by itself times `auxiliary`; void has none."""
    heads = [(1.0, output.logits), *((auxiliary, one) for one in output.auxiliary.values() if auxiliary)]
    known = (target != void).sum().clamp(min=1)
    losses = [
        weight * functional.cross_entropy(one.float(), target, ignore_index=void, reduction="sum") / known
        for weight, one in heads
    ]
    return torch.stack(losses).sum()


def without_dates(batch: Batch, config: SegmentationConfig, random: torch.Generator) -> dict[str, ImageSeries]:
    """Return the batch with dates left out at random, each modality at its rate.

    A patch that no date would be left of (in early fusion: none of the first modality) keeps all of its dates.
    """
    kept = {}
    for one in config.modalities:
        valid = batch[one.name].valid
        drawn = torch.rand(valid.shape, generator=random).to(valid.device)
        kept[one.name] = valid & (drawn >= one.temporal_dropout)
    needed = config.names[:1] if config.scheme == "early" else config.names
    is_left = torch.stack([kept[name].any(1) for name in needed]).any(0)  # (B,)
    return {
        name: replace(batch[name], valid=torch.where(is_left[:, None], valid, batch[name].valid))
        for name, valid in kept.items()
    }


def interpolated(series: ImageSeries, day: Tensor) -> Tensor:
    """Return the images (B, T, C, H, W) of a series on the days (B, T) of another: linear between dates, held before the first and after
    the last, 0 of a patch without a date.
    """
    key = torch.where(series.valid, series.day.double(), torch.inf)
    key, order = key.sort(dim=1, stable=True)
    last = series.valid.sum(1, keepdim=True) - 1  # (B, 1)
    following = torch.searchsorted(key, day.double())
    before, after = ((rows.minimum(last)).clamp(min=0) for rows in (following - 1, following))
    gap = key.gather(1, after) - key.gather(1, before)
    share = torch.where(gap > 0, (day - key.gather(1, before)) / gap.clamp(min=1e-6), 0.0)
    patch = torch.arange(len(day), device=day.device)[:, None]
    start, stop = (series.images[patch, order.gather(1, rows)] for rows in (before, after))
    mixed = torch.lerp(start, stop, share.to(start.dtype)[:, :, None, None, None])
    return torch.where((last >= 0)[:, :, None, None, None], mixed, 0.0)


def parameters(network: nn.Module, *, inference: bool = True) -> int:
    """Return the number of trained numbers; with `inference` without the heads that only training uses."""
    total = sum(one.numel() for one in network.parameters())
    if inference and isinstance(network, SegmentationNetwork) and network.head is not None:
        total -= sum(one.numel() for one in network.auxiliary.parameters())
    return total


def _head(inputs: int, config: UtaeConfig) -> nn.Sequential:
    widths: Sequence[int] = (inputs, *config.head, config.classes)
    return nn.Sequential(*(batch_convolution(a, b) for a, b in pairwise(widths)))
