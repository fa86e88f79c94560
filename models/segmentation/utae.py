"""U-TAE: a series of images to a crop for each pixel, by an attention over dates at the coarsest level of a U-Net.

    e_t^1 .. e_t^L = encoder(x_t)                      levels from fine to coarse, each date by itself
    a_t            = softmax_t(q . K h_t / sqrt(4))    16 heads, at the coarsest level
    f^L            = norm(MLP(sum_t a_t h_t))          f^l = up(f^(l+1), sum_t resize(a_t) e_t^l)

Source: Garnot and Landrieu 2021 (U-TAE); sizes of Garnot, Landrieu and Chehata 2022, section 3.3. Their group norm before the
        attention is taken over the dates of a season, padding too: "season" here, over the dates that are there. "date" acts on one
        date at a time, so that a season can be folded date by date (models.segmentation.tile_state).
Shapes: images (N, C, H, W) of N dates, day and sample (N,), H and W multiples of 8; a series (B, T, C, H, W); logits (B, K, H, W);
        features of L levels, coarse to fine.
Units:  images standardised, days since the season's start.
Errors: ConfigError for sizes that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier.attention_state import is_remote
from models.classifier.ltae import Attention, ConfigError
from models.classifier.pixel_set_encoder import CPU_CHUNK, GPU_CHUNK, LinearNorm

Norm = Literal["date", "season"]
EPS = 1e-5


@dataclass(frozen=True)
class UtaeConfig:
    """Sizes of a U-TAE of one series; defaults are the published ones."""

    channels: int
    classes: int
    encoder: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of each level, fine to coarse; each level halves the resolution."""
    decoder: tuple[int, ...] = (32, 32, 64, 128)
    width: int = 256
    """d_model of the attention: heads x value channels."""
    heads: int = 16
    key: int = 4
    period: float = 1000.0
    """Longest period of the positional code, in days."""
    norm: Norm = "date"
    head: tuple[int, ...] = (32,)
    """Channels of the convolutions before that of the logits."""
    dropout: float = 0.2
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.encoder) != len(self.decoder) or self.encoder[-1] != self.decoder[-1]:
            raise ConfigError(
                f"levels of encoder {self.encoder} and decoder {self.decoder} do not fit: same number, same coarsest"
            )
        if wrong := [one for one in (*self.encoder, self.width) if one % self.heads]:
            raise ConfigError(f"{wrong[0]} channels are not a multiple of {self.heads} heads")
        if self.norm not in get_args(Norm):
            raise ConfigError(f"the norm of the attention is one of {', '.join(get_args(Norm))}, not {self.norm!r}")

    @property
    def value(self) -> int:
        """Value channels of one head."""
        return self.width // self.heads

    @property
    def stride(self) -> int:
        """Pixels of an image to one of the coarsest level; height and width are multiples of it."""
        return 2 ** (len(self.encoder) - 1)  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """A convolution, a norm and a ReLU; group norm looks at one image, batch norm at all."""

    def __init__(
        self, inputs: int, outputs: int, norm: nn.Module, *, kernel: int = 3, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        pad = 0 if kernel == 1 else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, padding_mode="reflect" if pad else "zeros")
        self.norm, self.relu = norm, relu

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.conv(images))
        return functional.relu(out, inplace=not self.training) if self.relu else out


def group_convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Convolution:
    """Return a convolution of the encoder: 4 groups of channels are normalised, each image by itself."""
    return Convolution(inputs, outputs, nn.GroupNorm(4, outputs), kernel=kernel, stride=stride)


def batch_convolution(inputs: int, outputs: int, kernel: int = 3, *, relu: bool = True) -> Convolution:
    """Return a convolution of the decoder, with batch norm."""
    return Convolution(inputs, outputs, nn.BatchNorm2d(outputs), kernel=kernel, relu=relu)


class Down(nn.Module):
    """A level of the encoder: half the resolution, then two convolutions of which the second is added to the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = group_convolution(inputs, inputs, kernel=4, stride=2)
        self.conv1, self.conv2 = group_convolution(inputs, outputs), group_convolution(outputs, outputs)

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv1(self.down(images))
        return out + self.conv2(out)  # type: ignore[no-any-return]


class Up(nn.Module):
    """A level of the decoder: twice the resolution, beside what the encoder saw there."""

    def __init__(self, inputs: int, outputs: int, skipped: int) -> None:
        super().__init__()
        self.skip = batch_convolution(skipped, skipped, kernel=1)
        self.up = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.conv1, self.conv2 = batch_convolution(outputs + skipped, outputs), batch_convolution(outputs, outputs)

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        up = functional.relu(self.norm(self.up(coarse)))
        out = self.conv1(torch.cat([up, self.skip(skipped)], dim=1))
        return out + self.conv2(out)  # type: ignore[no-any-return]


class PixelAttention(nn.Module):
    """The L-TAE of every pixel of the coarsest level, each by itself."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.encoder[-1]
        self.norm_in = nn.GroupNorm(config.heads, inputs)
        self.project = nn.Linear(inputs, config.width)
        self.attention = Attention(config.width, config.heads, config.key)
        self.mlp = LinearNorm(config.width, inputs)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_out = nn.GroupNorm(config.heads, inputs)
        self.turns: Tensor
        self.register_buffer("turns", turns(config.value, config.period), persistent=False)

    def attend(self, images: Tensor, day: Tensor, sample: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return logits (N, h, w, heads) and values (N, h, w, heads, 16) of the coarsest level (N, 128, h, w) of N dates."""
        c = self.config
        rows = self._normalised(images.permute(0, 2, 3, 1), sample, samples)
        code = positional_code(day, self.turns).to(rows.dtype).repeat(1, c.heads)
        dates = self.project(rows) + code[:, None, None]
        return self.attention(dates), dates.unflatten(3, (c.heads, c.value))

    def _normalised(self, rows: Tensor, sample: Tensor, samples: int) -> Tensor:
        """Return (N, h, w, 128) with each group of channels normalised, over its date or over the dates of its series."""
        if len(rows) == 0:  # a batch without a date
            return rows
        grouped = rows.unflatten(3, (self.config.heads, -1))  # type: ignore[no-untyped-call]
        if self.config.norm == "date":
            # As the season's, of a season of one date: `nn.GroupNorm` would take its rows apart in another order of memory.
            variance, mean = torch.var_mean(grouped, 4, correction=0, keepdim=True)
        else:
            count = torch.bincount(sample, minlength=samples).clamp(min=1).view(-1, 1, 1, 1, 1)

            def over_dates(of_dates: Tensor) -> Tensor:
                sums = of_dates.new_zeros(samples, *of_dates.shape[1:]).index_add(0, sample, of_dates)
                return (sums / count)[sample]

            mean = over_dates(grouped.mean(4, keepdim=True))
            variance = over_dates((grouped - mean).square().mean(4, keepdim=True))
        scaled = ((grouped - mean) * torch.rsqrt(variance + EPS)).flatten(3)
        return scaled * self.norm_in.weight + self.norm_in.bias  # type: ignore[no-any-return]

    def summarise(self, attended: Tensor) -> Tensor:
        """Return (B, 128, h, w) of the weighted sum of values (B, h, w, 256)."""
        rows = self.dropout(functional.relu(self.mlp(attended.flatten(0, 2))))
        return self.norm_out(rows).view(*attended.shape[:3], -1).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class UtaeFeatures(nn.Module):
    """What U-TAE and PaPs share: a series of images to features of each level."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__()
        self.config = config
        first = config.encoder[0]
        levels = range(len(config.encoder) - 1)
        self.first = nn.Sequential(group_convolution(config.channels, first), group_convolution(first, first))
        self.downs = nn.ModuleList(Down(config.encoder[i], config.encoder[i + 1]) for i in levels)
        self.temporal = PixelAttention(config)
        self.ups = nn.ModuleList(
            Up(config.decoder[i + 1], config.decoder[i], config.encoder[i]) for i in reversed(levels)
        )

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the levels of each date (N, C, H, W), fine to coarse."""
        levels = [self.first(images)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels

    def features(self, images: Tensor, day: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Return the decoder's levels of B series, coarse to fine: (B, 128, H/8, W/8) to (B, 32, H, W).

        Args:
            images: (B, T, C, H, W).
            day: (B, T).
            valid: (B, T) bool, dates that are there; the others take part in nothing. None: all.
        """
        return self._features(images, day, valid)[0]

    def features_and_attention(
        self, images: Tensor, day: Tensor, valid: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return `features`, and the weight of each date (heads, B, T, H/8, W/8), 0 of those that are not there."""
        levels, weights = self._features(images, day, valid)
        dense = weights.new_zeros(*images.shape[:2], *weights.shape[1:])
        if valid is None:
            return levels, weights.view_as(dense).permute(4, 0, 1, 2, 3)
        dense[valid] = weights
        return levels, dense.permute(4, 0, 1, 2, 3)

    def _features(self, images: Tensor, day: Tensor, valid: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Return the decoder's levels, and the weights (N, h, w, heads) of the dates that are there."""
        samples, dates = images.shape[:2]
        valid = torch.ones(samples, dates, dtype=torch.bool, device=images.device) if valid is None else valid
        sample, rows = torch.nonzero(valid)[:, 0], images[valid]
        parts = self._parts(rows)
        levels = [self.encode(rows[part]) for part in parts]  # of each part
        coarse = torch.cat([its[-1] for its in levels])
        logits, values = self.temporal.attend(coarse, day[valid].to(images.dtype), sample, samples)
        weights = _softmax(logits, valid)
        if self.training and self.config.attention_dropout > 0:
            weights = functional.dropout(weights, self.config.attention_dropout)
        attended = _summed((weights[..., None] * values).flatten(3), sample, samples)
        heads = weights.permute(0, 3, 1, 2)
        skips = []
        for nr in range(len(self.ups)):
            sums = (
                weighted_dates(its[nr], heads[part], sample[part], samples)
                for part, its in zip(parts, levels, strict=True)
            )
            skips.append(reduce(torch.add, sums))
        return self.decode(self.temporal.summarise(attended), skips), weights

    def _parts(self, rows: Tensor) -> list[slice]:
        """Return the dates (N, C, H, W) that are encoded at once: all where gradients are kept, few where memory is near (docs/LOG.md)."""
        if torch.is_grad_enabled() or len(rows) == 0:
            return [slice(None)]
        budget = GPU_CHUNK if is_remote(rows) else CPU_CHUNK
        step = max(1, budget // (self.config.encoder[0] * rows.shape[-2] * rows.shape[-1]))
        return [slice(first, first + step) for first in range(0, len(rows), step)]

    def decode(self, coarse: Tensor, skips: Sequence[Tensor]) -> list[Tensor]:
        """Return the decoder's levels, coarse to fine, from the coarsest (B, 128, h, w) and the encoder's others, fine to coarse."""
        levels = [coarse]
        for up, skipped in zip(self.ups, reversed(skips), strict=True):
            levels.append(up(levels[-1], skipped))
        return levels


class Utae(UtaeFeatures):
    """The network of one series of images."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__(config)
        widths = [config.decoder[0], *config.head, config.classes]
        # Published so: a batch norm and a ReLU on the logits too.
        self.head = nn.Sequential(*(batch_convolution(a, b) for a, b in pairwise(widths)))

    def forward(self, images: Tensor, day: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.head(self.features(images, day, valid)[-1])  # type: ignore[no-any-return]


def turns(channels: int, period: float) -> Tensor:
    """Return what days are divided by (channels,): period^(2 floor(i / 2) / channels)."""
    return torch.pow(period, 2 * (torch.arange(channels).float() // 2) / channels)


def positional_code(day: Tensor, turns: Tensor) -> Tensor:
    """Return the code of days (N,) as (N, channels): day / turns, even ones sine, odd ones cosine.

    In float32 throughout, as published, unlike that of the parcels: in float64 it moves attention after day 200 by 1.5e-5.
    """
    angle = day[:, None].float() / turns
    is_even = torch.arange(len(turns), device=day.device) % 2 == 0
    return torch.where(is_even, angle.sin(), angle.cos())


def weighted_dates(level: Tensor, weights: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Return the dates (N, C, H, W) of each series summed with the weights (N, heads, h, w) of the coarsest level, (B, C, H, W).

    A head weighs its own C / heads channels.
    """
    weights = functional.interpolate(weights, size=level.shape[-2:], mode="bilinear", align_corners=False)
    weighted = level.unflatten(1, (weights.shape[1], -1)) * weights[:, :, None]  # type: ignore[no-untyped-call]
    return _summed(weighted.flatten(1, 2), sample, samples)


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Return the softmax of (N, ...) over the dates of each series, of which those of `valid` (B, T) are there."""
    dense = logits.new_full((*valid.shape, *logits.shape[1:]), -torch.inf)
    dense[valid] = logits
    return dense.softmax(1)[valid]  # a series without a date has no row here


def _summed(dates: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Return the sum over the dates of each series, zeros of one without."""
    return dates.new_zeros(samples, *dates.shape[1:]).index_add(0, sample, dates)
