"""Update cached states, so that an answer costs the observations since and not the whole season.

`GapModel.fill` answers from a cached state as it does from everything: it reads what came after the state's day, the radar
around the days asked for and the nearest views. A kept state stays `DELAY_DAYS` behind, so that what is late by less is still
to be read. Where something the state has read is revised, withdrawn, screened out or joined by a later arrival, `holding`
empties it, and the next reading makes it anew.
Source: decision 9 (docs/decisions).
Shapes: P parcels of T steps and M views.
Units:  whole days since the season's start, steps of 6 days.
Errors: none.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from models.ndvi.cached_state import CachedState
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import NEVER, Floats, Ints
from models.ndvi.queries import STEP_DAYS, Series, StepGrid, Steps, next_step, step_inputs, view_inputs
from models.ndvi.views import Mode

DELAY_DAYS = 45
"""Days a kept state stays behind: 1 of 70 Dutch views changes days farther back, a cloud dip shows within 25, a pass comes in days."""


def begin(model: GapModel, mode: Mode, n_parcels: int) -> CachedState:
    """Return the states of parcels of which nothing is read."""
    return CachedState.nothing(model.members[mode], n_parcels, model.names[mode])


def advance(model: GapModel, mode: Mode, cached: CachedState, steps: Steps, series: Series, day: Ints) -> CachedState:
    """Return the states with everything read up to a day; those that are there already stay.

    Args:
        cached: of P parcels; what they read must still hold (`holding`).
        steps: radar of the P parcels since the state's day, and of the step then unfinished; of an empty state all of it.
        series: of the P parcels in order, the last view read and all since; of an empty state all of them.
        day: (P,) whole days.
    """
    networks, device = model.members[mode], cached.encoder.device
    config = networks[0].config
    # Never back: what an LSTM has read cannot be taken out again. And no step before it has ended: more passes may fall in it.
    day, parcel = np.maximum(day, cached.day), np.arange(len(day))
    start = cached.starts_on(steps.first_days) // STEP_DAYS
    n_steps = np.maximum(next_step(day) - start, 0)
    grid = StepGrid(start, int(n_steps.max(initial=0)))
    x = _window(steps, grid)
    column, n_views = series.columns(cached.day, day)
    views = view_inputs(series, model.prior, config, column=column).to(device)
    new = (parcel[:, None], column)
    place = tuple(torch.as_tensor(one, device=device) for one in (new[0], grid.complete(new[0], series.day[new])))
    encoder, decoder = [], []
    with torch.inference_mode():
        for k, network in enumerate(networks):
            vectors = network.branched(step_inputs(x, grid, config).to(device))
            before, after = _read(network.encoders[0], vectors, n_steps, cached.encoder[k])
            encoder.append(after)
            vectors = torch.cat([views, before[place]], dim=2)
            decoder.append(_read(network.decoders[0], vectors, n_views, cached.decoder[k])[1])
    return CachedState(
        cached.model,
        np.where((cached.first_step == NEVER) & (n_steps > 0), start, cached.first_step),
        day,
        _sum(x, n_steps, cached.steps_sum),
        _sum(_rows(series)[new], n_views, cached.views_sum),
        torch.stack(encoder),
        torch.stack(decoder),
    )


def holding(cached: CachedState, steps: Steps, series: Series, day: Ints) -> CachedState:
    """Return the states, emptied where what they read is not what is known by now of the time up to their day.

    Args:
        steps, series: all that is known of the P parcels.
        day: (P,) the first day asked for; a state beyond it is emptied.
    """
    # All that is known is summed again, not what is new: a revision or a late view changes the middle of what was read.
    first = steps.first_days // STEP_DAYS
    n_steps = np.maximum(next_step(cached.day) - first, 0)
    x = _window(steps, StepGrid(first, int(n_steps.max(initial=0))))
    n_views, nothing = (series.day <= cached.day[:, None]).sum(axis=1), np.zeros(len(day), np.int64)
    return cached.where(
        (cached.day <= day)
        & (_sum(x, n_steps, nothing) == cached.steps_sum)
        & (_sum(_rows(series), n_views, nothing) == cached.views_sum)
    )


def _rows(series: Series) -> Floats:
    """Return (P, M, 2) day and NDVI of each view."""
    return np.stack([series.day, series.ndvi], axis=2)


def _window(steps: Steps, grid: StepGrid) -> Floats:
    """Return (P, n, 6) the grid's steps."""
    return steps.ending_on(np.arange(len(grid.first)), (grid.first + grid.n) * STEP_DAYS - 1, grid.n)


def _read(layer: nn.Module, x: Tensor, n: Ints, start: Tensor) -> tuple[Tensor, Tensor]:
    """h (P, N + 1, H) before each of the first n (P,) of inputs (P, N, D) and after the last; then h and c (2, P, H)."""
    h, c = start.contiguous()
    before = [h]
    for i in range(int(n.max(initial=0))):
        after = layer(x[:, i : i + 1], (h[None], c[None]))[1]
        is_on = torch.as_tensor(i < n, device=x.device)[:, None]
        h, c = (torch.where(is_on, new[0], old) for new, old in zip(after, (h, c), strict=True))
        before.append(h)
    return torch.stack(before, dim=1), torch.stack([h, c])


def _sum(x: Floats, n: Ints, so_far: Ints) -> Ints:
    """Return (P,) checksums continued by the first n (P,) of rows (P, N, D); -0 counts as 0."""
    rows = [row[:m] for row, m in zip(np.asarray(x, np.float32) + 0.0, n, strict=True)]
    return np.array([zlib.crc32(row.tobytes(), int(s)) for row, s in zip(rows, so_far, strict=True)], np.int64)
