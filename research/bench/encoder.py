"""Full-season inference beside the published form: same weights, same inputs, same run.

    python -m research.bench.encoder [--json] [--dates 61] [--pixels 64] [--batch 128] [--rounds 10]

Ours is the inference network in the published normalisation. Both are given their inputs as they take them, run on one
thread and are timed turn by turn, in seconds of the processor: the least of each is what a quiet core takes. Seconds of the
clock would favour the shorter work on a busy machine, where it alone is never interrupted.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import typer
from torch import Tensor

from models.classifier.inference import folded
from models.classifier.packed_series import Batch, Series
from models.classifier.published import load_published
from research.experiments.published_form import PublishedForm, trained_like


def least_s(
    works: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float] = time.thread_time
) -> list[float]:
    """Return the least seconds of each piece of work, timed turn by turn, so that other load of the machine hits all alike."""
    for work in works:
        work()
    seconds = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            begun = clock()
            work()
            seconds[index] = min(seconds[index], clock() - begun)
    return seconds


def packed(pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Batch:
    """Return the published form's inputs (B, T, C, S), (B, T, S), (B, T, 4), (T,) as our networks take them."""
    parcels, dates = pixels.shape[:2]
    parcel = torch.arange(parcels).repeat_interleave(dates)
    series = Series(pixels.flatten(0, 1), mask.flatten(0, 1) > 0, positions.repeat(parcels), parcel)
    return Batch({"s2": series}, geometry[:, 0])


@torch.no_grad()
def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    dates: int = 61,
    pixels: int = 64,
    batch: int = 128,
    rounds: int = 10,
) -> None:
    """Print speedup, max_abs_diff and parcels_per_s."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    published = trained_like(PublishedForm(10, dates, 20), 0)
    ours = folded(load_published(published.state_dict()).network)
    values = torch.randn(batch, dates, 10, pixels, generator=random)
    mask = (torch.rand(batch, 1, pixels, generator=random) < 0.8).float().repeat(1, dates, 1)
    mask[:, :, 0] = 1
    geometry = torch.randn(batch, 1, 4, generator=random).repeat(1, dates, 1)
    inputs = values, mask, geometry, torch.linspace(0, 360, dates)
    given = packed(*inputs)
    reference_s, our_s = least_s([lambda: published(*inputs), lambda: ours.decode(ours.encode(given))], rounds)
    result = {
        "speedup": reference_s / our_s,
        "max_abs_diff": float((published(*inputs) - ours.decode(ours.encode(given))).abs().max()),
        "parcels_per_s": batch / our_s,
        "published_parcels_per_s": batch / reference_s,
    }
    print(json.dumps(result) if as_json else "\n".join(f"{name:<26}{value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
