"""A season of images folded date by date: what U-TAE needs of all dates so far, in a state of fixed size, exact in any order.

    coarsest level   m, s, v of every pixel and head, as the parcels' (models.classifier.attention_state)
    other levels     S_j' = S_j e^(m_j - m_j') + e^(l_j - m_j') e^l          of the 4 coarse pixels j around a fine one
                     sum_t resize(a_t) e_t^l = sum_j c_j S_j / s_j           c_j the coefficients of the bilinear resize

Chosen because: weights are resized after the softmax, whose denominator differs between the coarse pixels that a fine one lies between,
        so one sum a fine pixel would not do, and four do, whatever the number of dates: 22 MB for 128 x 128 pixels; the levels of 61 dates
        are 336 MB.
Source: Milakov and Gimelshein 2018, eq. 3 to 6; U-TAE with its norm over each date.
Shapes: images (B, T, C, H, W) of T new dates of B series, day (B, T); S of a level (B, 4, C, H, W).
Units:  images standardised, days since the season's start.
Errors: ConfigError for a network whose norm is over a season; ValueError for numbers of a state of another size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.ltae import ConfigError
from models.segmentation.utae import Utae, UtaeFeatures


@dataclass(frozen=True)
class TileState:
    """What B series of images have shown so far."""

    pixels: State
    """Of B x h x w pixels of the coarsest level, in this order."""
    sums: tuple[Tensor, ...]
    """Of each other level, fine to coarse, (B, 4, C, H, W): relative to m of the coarse pixels above left, right, below left, right."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Return B, h and w of the coarsest level."""
        samples, _, _, height, width = self.sums[-1].shape
        return samples, height // 2, width // 2

    @property
    def is_seen(self) -> bool:
        """Say whether any date is in it."""
        return bool(self.pixels.is_seen.any())


def initial(
    network: UtaeFeatures, samples: int, height: int, width: int, device: torch.device | str = "cpu"
) -> TileState:
    """Return the state of series of H x W pixels that nothing was seen of.

    Raises:
        ConfigError: the network couples dates, or the size is no multiple of its stride.
    """
    c = network.config
    if c.norm != "date":
        raise ConfigError(
            "the norm of this network is taken over the dates of a whole season: no date can be folded in by itself"
        )
    if height % c.stride or width % c.stride:
        raise ConfigError(f"{height} x {width} pixels are no multiple of {c.stride}")
    coarse = (height // c.stride) * (width // c.stride)
    sums = tuple(
        torch.zeros(samples, 4, channels, height >> level, width >> level, device=device)
        for level, channels in enumerate(c.encoder[:-1])
    )
    return TileState(attention_state.init(samples * coarse, c.heads, c.value, device=device), sums)


@torch.inference_mode()
def fold(network: UtaeFeatures, state: TileState, images: Tensor, day: Tensor) -> TileState:
    """Return the state with T more dates of each series; the network is in evaluation mode. One date is held at a time."""
    for nr in range(images.shape[1]):
        state = _fold_one(network, state, images[:, nr], day[:, nr])
    return state


@torch.inference_mode()
def logits(network: Utae, state: TileState) -> Tensor:
    """Return the logits (B, K, H, W) of what the state has seen; meaningless where it has seen nothing."""
    return network.head(levels(network, state)[-1])  # type: ignore[no-any-return]


@torch.inference_mode()
def levels(network: UtaeFeatures, state: TileState) -> list[Tensor]:
    """Return the decoder's levels, coarse to fine, as `UtaeFeatures.features` of all dates that the state has seen."""
    samples, height, width = state.size
    attended = attention_state.finish(state.pixels).view(samples, height, width, -1)
    skips = [_resized_sum(sums, state) for sums in state.sums]
    return network.decode(network.temporal.summarise(attended), skips)


def to_arrays(state: TileState) -> list[NDArray[np.float32]]:
    """Return the state for storage, float32 little endian: the coarsest level, then the others fine to coarse."""
    sums = [one.detach().cpu().numpy().astype(attention_state.STORED, copy=False) for one in state.sums]
    return [attention_state.to_array(state.pixels), *sums]


def from_arrays(network: UtaeFeatures, stored: NDArray[np.float32], size: tuple[int, int, int]) -> TileState:
    """Return the state of stored numbers (n,), end to end, for series of `size` (B, H, W).

    Raises:
        ValueError: a state of that size has more or fewer numbers.
    """
    shapes = [one.shape for one in initial(network, size[0], size[1], size[2], device="meta").sums]
    config = network.config
    pixels = size[0] * (size[1] // config.stride) * (size[2] // config.stride)
    numbers = [pixels * config.heads * (2 + config.value), *(one.numel() for one in shapes)]
    if len(stored) != sum(numbers):
        raise ValueError(f"a state of {size} has {sum(numbers)} numbers, got {len(stored)}")
    coarse, *others = np.split(stored, np.cumsum(numbers)[:-1])
    state = attention_state.from_array(coarse.reshape(pixels, -1), config.heads, config.value)
    return TileState(state, tuple(torch.from_numpy(one).view(shape) for one, shape in zip(others, shapes, strict=True)))


def _fold_one(network: UtaeFeatures, state: TileState, images: Tensor, day: Tensor) -> TileState:
    """Fold one date (B, C, H, W) of each series in."""
    samples, height, width = state.size
    sample = torch.arange(samples, device=images.device)
    levels = network.encode(images)
    new, values = network.temporal.attend(levels[-1], day.to(images.dtype), sample, samples)
    pixel = torch.arange(len(state.pixels), device=images.device)
    pixels = attention_state.update(state.pixels, new.flatten(0, 2), values.flatten(0, 2), pixel)

    def of_heads(rows: Tensor) -> Tensor:
        return rows.view(samples, height, width, -1).permute(0, 3, 1, 2)

    kept = of_heads(torch.exp(state.pixels.m - pixels.m))
    weight = of_heads(torch.exp(new.flatten(0, 2) - pixels.m))
    sums = []
    for level, before in zip(levels[:-1], state.sums, strict=True):
        by_head = level.unflatten(1, (weight.shape[1], -1))  # type: ignore[no-untyped-call]
        after = torch.empty_like(before)
        for place, (rows, columns, _) in enumerate(_around(height, width, before.shape[-2:], images.device)):
            was = before[:, place].unflatten(1, (weight.shape[1], -1))  # type: ignore[no-untyped-call]
            scale, added = (_taken(one, rows, columns)[:, :, None] for one in (kept, weight))
            after[:, place] = torch.addcmul(was * scale, by_head, added).flatten(1, 2)
        sums.append(after)
    return replace(state, pixels=pixels, sums=tuple(sums))


def _resized_sum(sums: Tensor, state: TileState) -> Tensor:
    """Return what the softmax over all dates, resized, gives of a level: (B, C, H, W)."""
    samples, height, width = state.size
    s = state.pixels.s.view(samples, height, width, -1).permute(0, 3, 1, 2)
    share = torch.where(s > 0, 1.0 / s, 0.0)
    out = sums.new_zeros(samples, share.shape[1], sums.shape[2] // share.shape[1], *sums.shape[-2:])
    for place, (rows, columns, coefficient) in enumerate(_around(height, width, sums.shape[-2:], sums.device)):
        by_head = sums[:, place].unflatten(1, (share.shape[1], -1))  # type: ignore[no-untyped-call]
        out.addcmul_(by_head, (_taken(share, rows, columns) * coefficient)[:, :, None])
    return out.flatten(1, 2)


def _taken(coarse: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, heads, H, W) of the coarse pixels (B, heads, h, w) in these rows and columns."""
    return coarse[:, :, rows][..., columns]


def _around(height: int, width: int, size: torch.Size, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return, of each of the 4 coarse pixels around each fine one, its row (H,), column (W,) and coefficient (H, W).

    Those of the bilinear resize without aligned corners.
    """

    def axis(coarse: int, fine: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        at = ((torch.arange(fine, device=device) + 0.5) * (coarse / fine) - 0.5).clamp(min=0)
        first = at.floor().long()
        share = at - first
        return (first, 1 - share), ((first + 1).clamp(max=coarse - 1), share)

    return [
        (row, column, of_row[:, None] * of_column)
        for row, of_row in axis(height, size[0])
        for column, of_column in axis(width, size[1])
    ]
