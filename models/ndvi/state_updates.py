"""Update cached states, so that an answer costs the observations since and not the whole season.

`GapModel.fill` answers from a cached state as it does from everything: it reads what came after the state's day, the radar
around the days asked for and the nearest views. Where something the state has read is revised, withdrawn, screened out or
joined by a later arrival, `holding` empties it, and the next reading makes it anew.
Source: decision 9 (docs/decisions).
Shapes: P parcels of T steps and M views.
Units:  whole days since the season's start, steps of 6 days.
Errors: none.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.ndvi.cached_state import CachedState
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import NEVER, Floats, Ints
from models.ndvi.queries import STEP_DAYS, Series, StepGrid, Steps, next_step, step_inputs, view_inputs
from models.ndvi.views import Mode


def begin(model: GapModel, mode: Mode, n_parcels: int) -> CachedState:
    """Return the states of parcels of which nothing is read."""
    return CachedState.nothing(model.members[mode], n_parcels, model.names[mode])


def advance(model: GapModel, mode: Mode, cached: CachedState, steps: Steps, series: Series, day: Ints) -> CachedState:
    """Return the states with everything read up to a day; those that are there already stay.

    Args:
        cached: of P parcels; what they read must still hold (`holding`).
        steps, series: all that is known of the P parcels, in order.
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
        steps.checksums(next_step(day)),
        series.checksums(day),
        torch.stack(encoder),
        torch.stack(decoder),
    )


def holding(cached: CachedState, steps: Steps, series: Series, day: Ints) -> CachedState:
    """Return the states, emptied where what they read is not what is known by now of the time up to their day.

    Args:
        steps, series: all that is known of the P parcels.
        day: (P,) the first day asked for; a state beyond it is emptied.
    """
    return cached.where(
        (cached.day <= day)
        & (steps.checksums(next_step(cached.day)) == cached.steps_sum)
        & (series.checksums(cached.day) == cached.views_sum)
    )


def _window(steps: Steps, grid: StepGrid) -> Floats:
    """Return (P, n, 6) the grid's steps."""
    return steps.ending_on(np.arange(len(grid.first)), (grid.first + grid.n) * STEP_DAYS - 1, grid.n)


def _read(layer: nn.Module, x: Tensor, n: Ints, start: Tensor) -> tuple[Tensor, Tensor]:
    """h (P, N + 1, H) before each of the first n (P,) of inputs (P, N, D) and after the last; then h and c (2, P, H)."""
    state, before = start.contiguous(), [start[0]]
    for i in range(int(n.max(initial=0))):
        on = torch.as_tensor(np.flatnonzero(i < n), device=x.device)
        after = layer(x[on, i : i + 1], tuple(state[:, None, on]))[1]
        state = state.index_copy(1, on, torch.cat(after))
        before.append(state[0])
    return torch.stack(before, dim=1), state
