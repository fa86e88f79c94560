"""Online softmax of the temporal attention: acquisitions in, a state of fixed size out, exact in any order.

    m' = max(m, l)    s' = s e^(m - m') + e^(l - m')    v' = v e^(m - m') + e^(l - m') x    output = v / s

Source: Milakov and Gimelshein 2018, eq. 3 to 6; the L-TAE of Garnot and Landrieu 2020 has a constant query, so that
        logits l and values x of an observation depend on that observation alone.
Shapes: l (N, H), x (N, H, D), m and s (P, H), v (P, H, D); N observations, P parcels, H heads, D value channels
        (16 and 16 in the published L-TAE: 288 numbers a parcel).
Units:  l dimensionless logits.
Errors: StateModelError if states, or a state and its network, belong to different models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Little-endian float32 whatever the machine: states are stored and read by different ones.
STORED = np.dtype("<f4")


class StateModelError(ValueError):
    """A state meets a model it was not made by. The caller drops the state and rebuilds it from observations."""


@dataclass(frozen=True)
class State:
    """The attention of P parcels over all observations folded in so far."""

    m: Tensor
    """(P, H) running maximum of the logits, -inf before the first observation."""
    s: Tensor
    """(P, H) softmax denominator relative to m."""
    v: Tensor
    """(P, H, D) weighted sum of values relative to m."""
    model: str = ""
    """Id of the model whose logits and values are in here."""

    def __len__(self) -> int:
        return self.m.shape[0]

    @property
    def is_seen(self) -> Tensor:
        """Return (P,) bool, parcels with at least one observation."""
        return self.s[:, 0] > 0

    def to(self, device: torch.device | str) -> State:
        """Return the same states on another device."""
        return replace(self, m=self.m.to(device), s=self.s.to(device), v=self.v.to(device))

    def take(self, parcels: Tensor | slice) -> State:
        """Return the states of some parcels: indices, a boolean mask (P,) or a slice."""
        return replace(self, m=self.m[parcels], s=self.s[parcels], v=self.v[parcels])


def init(parcels: int, heads: int, width: int, *, model: str = "", device: torch.device | str = "cpu") -> State:
    """Return the state of `parcels` parcels that nothing was observed of."""
    return State(
        m=torch.full((parcels, heads), -torch.inf, device=device),
        s=torch.zeros(parcels, heads, device=device),
        v=torch.zeros(parcels, heads, width, device=device),
        model=model,
    )


def update(state: State, logits: Tensor, values: Tensor, parcel: Tensor, *, model: str = "") -> State:
    """Return the state with N observations folded in; any number for each parcel, in any order. Differentiable.

    Args:
        logits: (N, H); -inf makes an observation weigh nothing.
        values: (N, H, D).
        parcel: (N,) int64 in 0..P-1, the parcel each observation is of.
        model: id of the model that made logits and values.
    """
    _same_model(state.model, model)
    each = dates_each(parcel, len(state))
    with torch.no_grad():  # the maximum cancels out of v / s: it takes no gradient
        if each:
            m = torch.maximum(state.m, logits.view(-1, each, logits.shape[1]).amax(1))
        else:
            m = state.m.scatter_reduce(0, parcel[:, None].expand_as(logits), logits, "amax")
        shift = _finite(m)
    kept = torch.exp(state.m - shift)
    weight = torch.exp(logits - (shift if each == 1 else shift[parcel]))  # (N, H)
    added = weight[..., None] * values
    if each:  # one sum instead of N scattered ones
        s, v = (new.view(-1, each, *new.shape[1:]).sum(1) if each > 1 else new for new in (weight, added))
        return State(m, state.s * kept + s, torch.addcmul(v, state.v, kept[..., None]), state.model)
    return State(
        m=m,
        s=(state.s * kept).index_add(0, parcel, weight),
        v=(state.v * kept[..., None]).index_add(0, parcel, added),
        model=state.model,
    )


def is_remote(tensor: Tensor) -> bool:
    """Say whether the tensor is on a GPU: the host waits for all work there to learn a value of it, so it must not ask."""
    return tensor.device.type != "cpu"


def dates_each(parcel: Tensor, parcels: int) -> int:
    """Return how many observations every parcel has, if all have the same number and come in order; else 0.

    0 too where the answer would have to be waited for.
    """
    if parcels == 0 or len(parcel) == 0 or len(parcel) % parcels or is_remote(parcel):
        return 0
    each = len(parcel) // parcels
    in_order = torch.arange(parcels)[:, None] == parcel.view(parcels, each)
    return each if bool(in_order.all()) else 0


def merge(a: State, b: State) -> State:
    """Return the state of the same parcels over the observations of both, which must not overlap."""
    _same_model(a.model, b.model)
    m = torch.maximum(a.m, b.m)
    of_a, of_b = torch.exp(a.m - _finite(m)), torch.exp(b.m - _finite(m))
    return State(m, a.s * of_a + b.s * of_b, a.v * of_a[..., None] + b.v * of_b[..., None], a.model)


def take_out(state: State, part: State) -> tuple[State, Tensor]:
    """Return the state of the same parcels without a part of their observations, and what is left of the weights.

    The share left (P,) is the least of the heads: the error of the sums grows to a rounding of float32, 6e-8, over it. Where it is
    small the state is to be made anew.

    Args:
        part: (P) the state of what is taken out, which `state` must hold.
    """
    _same_model(state.model, part.model)
    weight = torch.exp(part.m - _finite(state.m))
    s = torch.clamp(state.s - part.s * weight, min=0.0)
    left = torch.where(state.s > 0, s / torch.where(state.s > 0, state.s, 1.0), 1.0).amin(1)
    return State(state.m, s, state.v - part.v * weight[..., None], state.model), left


def prefixes(start: State, each: State, parcel: Tensor) -> State:
    """Return the state of a parcel after each of its acquisitions: `start` with this acquisition and all before it folded in.

    Args:
        start: (P) parcels before the first of them.
        each: (N) every acquisition by itself (a state of its observations alone).
        parcel: (N,) int64 ascending, the parcel of each; acquisitions of a parcel in order of time.
    """
    _same_model(start.model, each.model)
    rank = torch.arange(len(parcel), device=parcel.device) - torch.searchsorted(parcel, parcel)
    after = merge(start.take(parcel), each)  # right for the first of each parcel
    for nth in range(1, int(rank.max()) + 1 if len(rank) else 0):
        rows = torch.nonzero(rank == nth)[:, 0]
        # The nth acquisition follows the one before it, in the row above.
        one = merge(after.take(rows - 1), each.take(rows))
        after.m[rows], after.s[rows], after.v[rows] = one.m, one.s, one.v
    return after


def finish(state: State, *, model: str = "") -> Tensor:
    """Return the attention's output (P, H * D): the softmax-weighted mean of the values, zeros where nothing was seen."""
    _same_model(state.model, model)
    seen = state.s > 0
    mean = state.v / torch.where(seen, state.s, 1.0)[..., None]
    return mean.flatten(1)


def concatenate(states: Sequence[State]) -> State:
    """Return the states of different parcels as one, in the order given."""
    if len(states) == 1:
        return states[0]
    for other in states[1:]:
        _same_model(states[0].model, other.model)
    return State(
        torch.cat([one.m for one in states]),
        torch.cat([one.s for one in states]),
        torch.cat([one.v for one in states]),
        states[0].model,
    )


def to_array(state: State) -> NDArray[np.float32]:
    """Return each parcel's state for storage (P, H * (2 + D)): m, s, v as float32 little endian. The model id is apart."""
    flat: NDArray[np.float32] = torch.cat([state.m, state.s, state.v.flatten(1)], dim=1).detach().cpu().numpy()
    return flat.astype(STORED, copy=False)


def from_array(stored: NDArray[np.float32], heads: int, width: int, *, model: str = "") -> State:
    """Return the state of P parcels from stored numbers (P, H * (2 + D)); the model id is the one stored beside them.

    Raises:
        ValueError: a stored state has another size than heads and width need.
    """
    numbers = heads * (2 + width)
    if stored.shape[1] != numbers:
        size = numbers * STORED.itemsize
        got = stored.shape[1] * STORED.itemsize
        raise ValueError(f"a stored state of {heads} heads of {width} has {size} bytes, got {got}")
    own = torch.from_numpy(stored.astype(np.float32))
    return State(own[:, :heads], own[:, heads : 2 * heads], own[:, 2 * heads :].view(-1, heads, width), model)


def _finite(m: Tensor) -> Tensor:
    """m with 0 where nothing was seen, so that -inf - m is -inf and never NaN."""
    return torch.where(torch.isinf(m), 0.0, m)


def _same_model(one: str, other: str) -> None:
    if one != other:
        raise StateModelError(f"the state belongs to model {one!r}, not to {other!r}: rebuild it from observations")
