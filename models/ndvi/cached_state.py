"""Cached states of the gap filler: hidden states of forward encoders and decoders after all inputs up to a day.

    h, c after the steps that have ended by the day       encoder, one LSTM step more for each step since
    s, q after the views up to the day                    decoder, one LSTM step more for each view since

Source: the LSTM's own recursion, Hochreiter and Schmidhuber 1997.
Shapes: P parcels, K networks, hidden H of the encoder and G of the decoder.
Units:  whole days since the season's start, steps of 6 days.
Errors: none; a stored state that another model or version made is empty.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.classifier.attention_state import STORED
from models.ndvi.inputs import NEVER, Bools, Ints
from models.ndvi.network import GapNetwork
from models.ndvi.queries import STEP_DAYS, next_step

HEAD = struct.Struct("<16siiII")
"""Before the numbers of a stored state: model, first step, day, checksums."""


@dataclass(frozen=True)
class CachedState:
    """States of P parcels."""

    model: bytes
    """(16,) bytes that name the networks."""
    first_step: Ints
    """(P,) the first step read, `NEVER` where there is none."""
    day: Ints
    """(P,) everything up to this day is read, -`NEVER` where nothing is."""
    steps_sum: Ints
    """(P,) checksum of the steps read."""
    views_sum: Ints
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
        never, none = np.full(n_parcels, NEVER), np.zeros(n_parcels, np.int64)
        return cls(model, never, -never, none, none, encoder, decoder)

    def starts_on(self, first_day: Ints) -> Ints:
        """Return (P,) the day from which there are steps to read, of parcels whose radar begins on a day (P,)."""
        first = np.where(self.first_step < NEVER, -NEVER, first_day)
        return np.asarray(np.maximum(first, STEP_DAYS * next_step(self.day)))

    def rows(self, parcel: Ints | slice) -> "CachedState":
        """Return the states of the chosen parcels."""
        first, day, steps, views = (one[parcel] for one in (self.first_step, self.day, self.steps_sum, self.views_sum))
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
        steps, views = np.where(keep, self.steps_sum, 0), np.where(keep, self.views_sum, 0)
        is_kept = torch.as_tensor(keep, device=self.encoder.device)[:, None]
        encoder, decoder = (torch.where(is_kept, one, 0.0) for one in (self.encoder, self.decoder))
        return CachedState(self.model, first, day, steps, views, encoder, decoder)


def to_bytes(states: CachedState) -> list[bytes]:
    """Return each parcel's state for storage: 32 bytes of head and K (2 H + 2 G) float32 little endian."""
    flat = torch.cat([one.permute(2, 0, 1, 3).flatten(1) for one in (states.encoder, states.decoder)], dim=1)
    heads = zip(states.first_step, states.day, states.steps_sum, states.views_sum, strict=True)
    rows = flat.cpu().numpy().astype(STORED)
    return [HEAD.pack(states.model, *map(int, head)) + row.tobytes() for head, row in zip(heads, rows, strict=True)]


def from_bytes(stored: Sequence[bytes | None], empty: CachedState) -> CachedState:
    """Return the states of P parcels; empty where there is none or another model made it: a cache is made anew, not mended.

    Args:
        empty: the empty states of P parcels, of the model that is to go on with them.
    """
    is_like = (empty.encoder[:, :, 0], empty.decoder[:, :, 0]) if stored else ()
    sizes = [one.numel() for one in is_like]
    nothing = HEAD.pack(empty.model, NEVER, -NEVER, 0, 0) + bytes(sum(sizes) * STORED.itemsize)
    kept = [
        one if one is not None and len(one) == len(nothing) and one.startswith(empty.model) else nothing
        for one in stored
    ]
    if not kept:
        return empty
    first, day, steps, views = np.array([HEAD.unpack_from(one)[1:] for one in kept], np.int64).T
    flat = np.stack([np.frombuffer(one, STORED, offset=HEAD.size) for one in kept]).astype(np.float32)
    parts = zip(np.split(flat, sizes[:1], axis=1), is_like, strict=True)
    encoder, decoder = (
        torch.as_tensor(part, device=like.device).view(-1, *like.shape).permute(1, 2, 0, 3) for part, like in parts
    )
    return CachedState(empty.model, first, day, steps, views, encoder, decoder)
