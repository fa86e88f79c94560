"""One new acquisition folded into a parcel's posterior, beside the published form's full recomputation, in the same run.

    python -m research.bench.streaming [--json] [--parcels 512] [--pixels 64] [--rounds 10] [--device cpu]

Late fusion over Sentinel-2 (61 dates), ascending and descending Sentinel-1 (70 dates each). The newest of every parcel is one
Sentinel-2 acquisition, the dearest; all else was seen before. Ours: its embedding, the update of its state, the decoder over
all three states. Published: everything again, on one thread of the CPU. `growth` is an update's cost after 200 dates over
that after 20. On a CPU one thread too, and seconds of the processor (research.bench.encoder says why); on a GPU of the clock, and also
bfloat16, and the updates with their copy from the host. `bandwidth_share`: bytes that an update must read and write, by its
time, over the rate at which the device copies memory in this run.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
import typer

from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.inference import InferenceNetwork, sent_ahead
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.packed_series import Batch, Series
from research.bench.encoder import least_s
from research.experiments.published_form import PublishedForm, decoder, trained_like

SEASON = {"s2": (10, 61), "s1a": (3, 70), "s1d": (3, 70)}
"""Channels and dates of each modality: the season of PASTIS-R."""
CLASSES = tuple(f"crop {nr}" for nr in range(20))
REFERENCE_PARCELS = 128
"""Batch of the reference, as published."""
SEASON_PARCELS = 64
"""Parcels whose seasons are made and recomputed at once: a season is 300 KiB a parcel, its unfolded forward 3 MiB."""


def season(parcels: int, pixels: int, s2_dates: int, seed: int) -> Batch:
    """Return random seasons, every parcel on every date; a fifth of the optical pixels is cloudy, radar sees all."""
    random = torch.Generator().manual_seed(seed)
    series = {}
    for name, (channels, dates) in SEASON.items():
        n = s2_dates if name == "s2" else dates
        valid = torch.rand(parcels * n, pixels, generator=random) < (0.8 if name == "s2" else 2)
        series[name] = Series(
            torch.randn(parcels * n, channels, pixels, generator=random),
            valid,
            torch.linspace(0, 360, n).repeat(parcels),
            torch.arange(parcels).repeat_interleave(n),
        )
    return Batch(series, torch.randn(parcels, 4, generator=random))


def without_last(batch: Batch) -> tuple[Batch, Batch]:
    """Return a season without its last Sentinel-2 date, and that date."""
    s2 = batch.series["s2"]
    is_last = s2.day == s2.day.max()
    return Batch({**batch.series, "s2": s2.take(~is_last)}, batch.geometry), Batch(
        {"s2": s2.take(is_last)}, batch.geometry
    )


def joined(batches: list[Batch]) -> Batch:
    """Return the batches of one series and one observation a parcel as one."""
    of = [batch.series["s2"] for batch in batches]
    parcel = torch.arange(sum(map(len, batches)))
    pixels, valid, day = (
        torch.cat(part) for part in zip(*((one.pixels, one.valid, one.day) for one in of), strict=True)
    )
    series = Series(pixels, valid, day, parcel)
    return Batch({"s2": series}, torch.cat([batch.geometry for batch in batches]))


def before_and_newest(
    network: PseLtae, parcels: int, pixels: int, s2_dates: int
) -> tuple[dict[str, State], Batch, float]:
    """Return states of parcels before their last acquisition, that acquisition, and how far an update is from the full forward."""
    ours = InferenceNetwork(network)
    states: list[dict[str, State]] = []
    newest, difference = [], 0.0
    for begin in range(0, parcels, SEASON_PARCELS):
        whole = season(min(SEASON_PARCELS, parcels - begin), pixels, s2_dates, begin)
        before, new = without_last(whole)
        states.append(ours.encode(before))
        newest.append(new)
        if begin == 0:
            got = ours.decode(ours.encode(new, states[0]))
            difference = float((got - network(whole).logits).abs().max())
    together = {name: attention_state.concatenate([one[name] for one in states]) for name in states[0]}
    return together, joined(newest), difference


def recomputation(pixels: int) -> Callable[[], object]:
    """Return the published form on whole seasons of REFERENCE_PARCELS parcels."""
    forms = {name: trained_like(PublishedForm(c, n, len(CLASSES)), 0) for name, (c, n) in SEASON.items()}
    fused = trained_like(decoder(3 * 128, len(CLASSES)), 0)
    inputs = {
        name: (
            torch.randn(REFERENCE_PARCELS, n, c, pixels),
            torch.ones(REFERENCE_PARCELS, n, pixels),
            torch.randn(REFERENCE_PARCELS, n, 4),
            torch.linspace(0, 360, n),
        )
        for name, (c, n) in SEASON.items()
    }
    return lambda: fused(torch.cat([form.features(*inputs[name]) for name, form in forms.items()], 1))


def bytes_of_update(newest: Batch, states: Mapping[str, State], classes: int) -> int:
    """Return bytes that folding the newest must read and write: observations, the state that changes twice, the others, logits."""
    s2 = newest.series["s2"]
    tensors = [s2.pixels, s2.valid, s2.day, s2.parcel, newest.geometry]
    tensors += [one for name, state in states.items() for one in (state.m, state.s, state.v) * (1 + (name == "s2"))]
    return sum(one.nbytes for one in tensors) + len(newest) * classes * 4


def copied_bytes_per_s(device: torch.device, wait: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return bytes read and written a second by a large copy on the device."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device).zero_()
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        wait()

    return 2 * source.nbytes / least_s([copy], 10, clock)[0]


@torch.no_grad()
def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    parcels: Annotated[int, typer.Option(help="parcels updated at once; more for a GPU, such as 65536")] = 512,
    pixels: int = 64,
    rounds: int = 10,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Print speedup, max_abs_diff, updates_per_s, state_bytes, growth, bandwidth_share; ms of an update by season length."""
    torch.set_num_threads(1)
    on = torch.device(device)
    clock = time.thread_time if on.type == "cpu" else time.perf_counter

    def wait() -> None:
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    modalities = tuple(ModalityConfig(name, tuple("x" * (i + 1) for i in range(c))) for name, (c, _) in SEASON.items())
    trained = trained_like(PseLtae(ClassifierConfig(modalities, CLASSES)), 0)
    network = InferenceNetwork(trained).to(on)
    lengths = {n: before_and_newest(trained, parcels, pixels, n) for n in (61, 20, 60, 200)}
    resident = {
        n: ({name: one.to(on) for name, one in states.items()}, new.to(on)) for n, (states, new, _) in lengths.items()
    }

    def update(n: int, of: InferenceNetwork = network) -> torch.Tensor:
        states, new = resident[n]
        logits = of.decode(of.encode(new, states))
        wait()
        return logits

    reference_s, *ours_s = least_s([recomputation(pixels), *(lambda n=n: update(n) for n in lengths)], rounds, clock)
    seconds = dict(zip(lengths, ours_s, strict=True))
    states, newest, difference = lengths[61]
    result = {
        "speedup": (reference_s / REFERENCE_PARCELS) / (seconds[61] / parcels),
        "max_abs_diff": difference,
        "updates_per_s": parcels / seconds[61],
        "state_bytes": sum(attention_state.to_array(one.take(slice(1))).nbytes for one in states.values()),
        "growth": seconds[200] / seconds[20],
        **{f"update_us_after_{n}": seconds[n] / parcels * 1e6 for n in (20, 60, 200)},
        "bandwidth_share": bytes_of_update(newest, states, len(CLASSES))
        / seconds[61]
        / copied_bytes_per_s(on, wait, clock),
        "published_parcels_per_s": REFERENCE_PARCELS / reference_s,
    }
    if on.type == "cuda":
        half = InferenceNetwork(trained, torch.bfloat16).to(on)

        def from_host() -> None:
            for new in sent_ahead([newest] * 8, on):
                network.decode(network.encode(new, resident[61][0]))
            wait()

        half_s, host_s = least_s([lambda: update(61, half), from_host], rounds, clock)
        full, low = update(61).softmax(1), update(61, half).softmax(1)
        result |= {
            "bfloat16_updates_per_s": parcels / half_s,
            "bfloat16_max_probability_diff": float((full - low).abs().max()),
            "bfloat16_share_of_changed_classes": float((full.argmax(1) != low.argmax(1)).float().mean()),
            "updates_per_s_from_host": 8 * parcels / host_s,
        }
    print(json.dumps(result) if as_json else "\n".join(f"{name:<34}{value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
