"""One new acquisition folded into a parcel's posterior, beside the published form's full recomputation.

    python -m bench.streaming [--json] [--parcels 512] [--pixels 64] [--rounds 5]

Late fusion over Sentinel-2 (61 dates), ascending and descending Sentinel-1 (70 dates each), all seen before but the last
Sentinel-2 acquisition. Ours: its embedding, the update of one state, and the decoder over all three. Published: everything
again. One thread; `growth` is the cost of an update after 200 dates over that after 20.
"""

import json
from typing import Annotated

import torch
import typer

from bench.encoder import timed
from bench.published_form import PublishedForm, decoder, trained_like
from models import streaming
from models.classifier import ClassifierConfig, ModalityConfig, PseLtae
from models.series import Batch, Series

SEASON = {"s2": (10, 61), "s1a": (3, 70), "s1d": (3, 70)}
"""Channels and dates of each modality: the season of PASTIS-R."""
CLASSES = tuple(f"crop {nr}" for nr in range(20))
PEER_PARCELS = 128
"""Batch of the peer, as published."""


def season(parcels: int, pixels: int, dates: dict[str, int], seed: int = 0) -> Batch:
    """Random seasons of parcels, every parcel on every date, dates of a parcel together."""
    random = torch.Generator().manual_seed(seed)
    series = {
        name: Series(
            torch.randn(parcels * n, SEASON[name][0], pixels, generator=random),
            torch.ones(parcels * n, pixels, dtype=torch.bool),
            torch.linspace(0, 360, n).repeat(parcels),
            torch.arange(parcels).repeat_interleave(n),
        )
        for name, n in dates.items()
    }
    return Batch(series, torch.randn(parcels, 4, generator=random))


def split(batch: Batch) -> tuple[Batch, Batch]:
    """A season without its last Sentinel-2 date, and that date."""
    s2 = batch.series["s2"]
    is_last = s2.day == s2.day.max()
    return Batch({**batch.series, "s2": s2.take(~is_last)}, batch.geometry), Batch(
        {"s2": s2.take(is_last)}, batch.geometry
    )


@torch.no_grad()
def main(
    as_json: Annotated[bool, typer.Option("--json")] = False, parcels: int = 512, pixels: int = 64, rounds: int = 5
) -> None:
    """Prints speedup, max_abs_diff, updates_per_s, state_bytes and growth."""
    torch.set_num_threads(1)
    modalities = tuple(ModalityConfig(name, tuple("x" * (i + 1) for i in range(c))) for name, (c, _) in SEASON.items())
    trained = trained_like(PseLtae(ClassifierConfig(modalities, CLASSES)), 0)
    assert isinstance(trained, PseLtae)
    network = trained.folded()

    def update_s(dates: dict[str, int]) -> tuple[float, float, int]:
        """Seconds of an update of all parcels, its difference from the full forward, bytes of a parcel's states."""
        whole = season(parcels, pixels, dates)
        before, new = split(whole)
        states = network.encode(before)
        seconds = timed(lambda: network.decode(network.encode(new, states)), rounds)
        difference = network.decode(network.encode(new, states)) - trained(whole).logits
        n_bytes = sum(len(streaming.to_bytes(state)[0]) for state in states.values())
        return seconds, float(difference.abs().max()), n_bytes

    ours_s, difference, n_bytes = update_s({name: n for name, (_, n) in SEASON.items()})
    forms = {name: trained_like(PublishedForm(c, n, len(CLASSES)), 0) for name, (c, n) in SEASON.items()}
    fused = trained_like(decoder(3 * 128, len(CLASSES)), 0)
    inputs = {
        name: (
            torch.randn(PEER_PARCELS, n, c, pixels), torch.ones(PEER_PARCELS, pixels), torch.randn(PEER_PARCELS, 4),
            torch.linspace(0, 360, n),
        )
        for name, (c, n) in SEASON.items()
    }  # fmt: skip
    peer_s = timed(lambda: fused(torch.cat([form.features(*inputs[name]) for name, form in forms.items()], 1)), rounds)  # type: ignore[operator]
    few, many = (update_s({**{name: n for name, (_, n) in SEASON.items()}, "s2": n})[0] for n in (20, 200))
    result = {
        "speedup": (peer_s / PEER_PARCELS) / (ours_s / parcels), "max_abs_diff": difference,
        "updates_per_s": parcels / ours_s, "state_bytes": n_bytes, "growth": many / few,
        "published_parcels_per_s": PEER_PARCELS / peer_s,
    }  # fmt: skip
    print(json.dumps(result) if as_json else "\n".join(f"{name:<26}{value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
