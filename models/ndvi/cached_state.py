"""Cached states of the gap filler: hidden states of forward encoders and decoders after all inputs up to a day.

    h, c after the steps that have ended by the day       encoder, one LSTM step more for each step since
    s, q after the views up to the day                    decoder, one LSTM step more for each view since

Source: the LSTM's own recursion, Hochreiter and Schmidhuber 1997.
Shapes: P parcels, K networks, hidden H of the encoder and G of the decoder.
Units:  whole days since the season's start, steps of 6 days.
Errors: none; a stored state that another model or version made is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.attention_state import STORED
from models.ndvi.inputs import NEVER, Bools, Checksums, Ints
from models.ndvi.network import GapNetwork
from models.ndvi.queries import STEP_DAYS, next_step

HEAD = np.dtype([("model", "V16"), ("first_step", "<i4"), ("day", "<i4"), ("steps_sum", "<u8"), ("views_sum", "<u8")])
"""Before the numbers of a stored state: model, first step, day, checksums.

The model's name must change with all that a state depends on: bytes of another meaning and the same length look like ours."""


@dataclass(frozen=True)
class CachedState:
    """States of P parcels."""

    model: bytes
    """(16,) bytes that name the networks."""
    first_step: Ints
    """(P,) the first step read, `NEVER` where there is none."""
    day: Ints
    """(P,) everything up to this day is read, -`NEVER` where nothing is."""
    steps_sum: Checksums
    """(P,) checksum of the steps read."""
    views_sum: Checksums
    """(P,) checksum of the views read."""
    encoder: Tensor
    """(K, 2, P, H) h and c."""
    decoder: Tensor
    """(K, 2, P, G)"""

    @classmethod
    def nothing(cls, networks: Sequence[GapNetwork], n_parcels: int, model: bytes = bytes(16)) -> "CachedState":
        """Return the states of parcels of which nothing is read."""
        config, device = networks[0].config, next(networks[0].parameters()).device
        encoder, decoder = (
            torch.zeros(len(networks), 2, n_parcels, size, device=device)
            for size in (config.hidden, config.view_hidden)
        )
        never, none = np.full(n_parcels, NEVER), np.zeros(n_parcels, np.uint64)
        return cls(model, never, -never, none, none, encoder, decoder)

    def starts_on(self, first_day: Ints) -> Ints:
        """Return (P,) the day from which there are steps to read, of parcels whose radar begins on a day (P,)."""
        first = np.where(self.first_step < NEVER, -NEVER, first_day)
        return np.asarray(np.maximum(first, STEP_DAYS * next_step(self.day)))

    def rows(self, parcel: Ints | slice) -> "CachedState":
        """Return the states of the chosen parcels."""
        first, day = self.first_step[parcel], self.day[parcel]
        steps, views = self.steps_sum[parcel], self.views_sum[parcel]
        return CachedState(self.model, first, day, steps, views, self.encoder[:, :, parcel], self.decoder[:, :, parcel])

    def put(self, parcel: Ints, states: "CachedState") -> "CachedState":
        """Return the states with those of some parcels replaced."""
        ours = self.rows(np.arange(len(self.day)))  # a copy
        for name in ("first_step", "day", "steps_sum", "views_sum"):
            getattr(ours, name)[parcel] = getattr(states, name)
        ours.encoder[:, :, parcel], ours.decoder[:, :, parcel] = states.encoder, states.decoder
        return ours

    def where(self, keep: Bools) -> "CachedState":
        """Return the states of the parcels to keep, empty ones in place of the others."""
        first, day = np.where(keep, self.first_step, NEVER), np.where(keep, self.day, -NEVER)
        steps, views = (np.where(keep, one, np.uint64(0)) for one in (self.steps_sum, self.views_sum))
        is_kept = torch.as_tensor(keep, device=self.encoder.device)[:, None]
        encoder, decoder = (torch.where(is_kept, one, 0.0) for one in (self.encoder, self.decoder))
        return CachedState(self.model, first, day, steps, views, encoder, decoder)


def to_array(states: CachedState) -> NDArray[np.uint8]:
    """Return each parcel's state for storage (P, size): 40 bytes of head and K (2 H + 2 G) float32 little endian."""
    n, heads = len(states.day), np.empty(len(states.day), HEAD)
    heads["model"] = np.void(states.model)
    for name in ("first_step", "day", "steps_sum", "views_sum"):
        heads[name] = getattr(states, name)
    flat = torch.cat([one.permute(2, 0, 1, 3).flatten(1) for one in (states.encoder, states.decoder)], dim=1)
    numbers = np.ascontiguousarray(flat.cpu().numpy().astype(STORED, copy=False))
    return np.concatenate(
        [
            heads.view(np.uint8).reshape(n, HEAD.itemsize),
            numbers.view(np.uint8).reshape(n, size_of(states) - HEAD.itemsize),
        ],
        axis=1,
    )


def size_of(empty: CachedState) -> int:
    """Return the bytes of a parcel's stored state."""
    k, _, _, hidden = empty.encoder.shape
    return HEAD.itemsize + k * 2 * (hidden + empty.decoder.shape[3]) * STORED.itemsize


def from_array(stored: NDArray[np.uint8], parcel: Ints, empty: CachedState) -> CachedState:
    """Return the states of P parcels, of which K are stored; empty where another model made it: a cache is made anew, not mended.

    Args:
        stored: (K, size) of some parcels.
        parcel: (K,) which of the P.
        empty: the empty states of P parcels, of the model that is to go on with them.
    """
    heads = np.ascontiguousarray(stored[:, : HEAD.itemsize]).view(HEAD)[:, 0]
    # Others stay empty, which is right at any time: what is empty is read anew from the observations.
    own = np.flatnonzero(np.array([bytes(one) == empty.model for one in heads["model"]], bool))
    numbers = np.ascontiguousarray(stored[own, HEAD.itemsize :]).view(STORED).astype(np.float32)
    parts = np.split(numbers, [empty.encoder[:, :, :1].numel()], axis=1)
    states = empty.rows(np.arange(len(empty.day)))  # a copy
    to = torch.as_tensor(parcel[own])
    for part, into in zip(parts, (states.encoder, states.decoder), strict=True):
        into[:, :, to] = (
            torch.as_tensor(part, device=into.device).view(-1, *into.shape[:2], into.shape[3]).permute(1, 2, 0, 3)
        )
    for name in ("first_step", "day", "steps_sum", "views_sum"):
        getattr(states, name)[parcel[own]] = heads[name][own]
    return states
