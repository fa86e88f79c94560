"""Early fusion: the radar of a parcel interpolated in time to its optical dates, pixel by pixel, as further channels.

    x_t = [optical_t ; (1 - w) radar_before + w radar_after]      w = (t - before) / (after - before), held at both ends

Source: Garnot, Landrieu and Chehata 2022, early fusion. Their code extrapolates past the last radar date; here the last
        value is held. Interpolation uses the future of a date: a network on it cannot stream.
Shapes: series of N dates (N, C, S) and M observations (M, D, S') to (N, C + D, S), no loop over parcels.
Units:  standardised; 0, the mean, stands for a parcel without any radar.
Errors: ConfigError for co-located sets of different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.classifier.ltae import ConfigError
from models.classifier.packed_series import Series


def concatenated(first: Series, others: Sequence[tuple[Series | None, int, bool]]) -> Series:
    """Return the first modality's observations with the channels of the others: series, number of channels, is co-located."""
    channels = [first.pixels, *(interpolated(*one, to=first) for one in others)]
    return Series(torch.cat(channels, dim=1), first.valid, first.day, first.parcel)


def interpolated(other: Series | None, channels: int, is_co_located: bool, *, to: Series) -> Tensor:
    """Return the pixels (N, D, S) of another modality on the N dates of `to`, linear in time for each parcel.

    Pixels are paired if co-located, else each is given its set's mean. The number of pixels does not show which: it is that
    of the largest set of the batch, so that a parcel's answer would depend on its batch-mates.
    """
    n, _, size = to.pixels.shape
    if other is None or not len(other := other.informative()):
        return to.pixels.new_zeros(n, channels, size)
    days = torch.cat([other.day, to.day]).double()
    span = days.amax() - days.amin() + 1
    key, wanted = (one.parcel * span + (one.day.double() - days.amin()) for one in (other, to))
    order = key.argsort()
    other, key = other.take(order), key[order]
    begin, end = (torch.searchsorted(other.parcel, to.parcel, right=right) for right in (False, True))
    following = torch.searchsorted(key, wanted)
    # Where the parcel has none, end - 1 < begin: some other row is read, and left out below.
    before, after = (rows.clamp(begin, end - 1).clamp(min=0) for rows in (following - 1, following))
    gap = other.day[after] - other.day[before]
    share = torch.where(gap > 0, (to.day - other.day[before]) / gap.clamp(min=1e-6), 0.0)
    pixels = _without_holes(other)
    if not is_co_located:
        pixels = pixels.mean(2, keepdim=True)
    elif pixels.shape[2] != size:
        raise ConfigError(f"co-located sets have as many pixels: {size} and {pixels.shape[2]} are given")
    mixed = torch.lerp(pixels[before], pixels[after], share[:, None, None])
    return torch.where((end > begin)[:, None, None], mixed, 0.0).expand(n, channels, size)


def _without_holes(series: Series) -> Tensor:
    """Return the pixels (M, D, S), each invalid one replaced by the mean of its set's valid ones."""
    valid = series.valid[:, None, :]
    mean = (series.pixels * valid).sum(2, keepdim=True) / valid.sum(2, keepdim=True)
    return torch.where(valid, series.pixels, mean)
