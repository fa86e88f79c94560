"""Full-season inference beside the published form: same weights, same inputs, same run.

    python -m bench.encoder [--json] [--dates 61] [--pixels 64] [--batch 128] [--rounds 3]

Ours: batch norms folded, pixels last in memory, chunks that stay in cache, in the published normalisation.
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor

from bench.published_form import PublishedForm, trained_like
from models.published import load_published


def timed(work: Callable[[], Tensor], rounds: int) -> float:
    """Median seconds."""
    work()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


@torch.no_grad()
def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    dates: int = 61,
    pixels: int = 64,
    batch: int = 128,
    rounds: int = 5,
) -> None:
    """Prints speedup, max_abs_diff and parcels_per_s."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    published = trained_like(PublishedForm(10, dates, 20), 0)
    ours = load_published(published.state_dict()).folded()
    values = torch.randn(batch, dates, 10, pixels, generator=random)
    mask = (torch.rand(batch, pixels, generator=random) < 0.8).float()
    mask[:, 0] = 1
    inputs = values, mask, torch.randn(batch, 4, generator=random), torch.linspace(0, 360, dates)
    peer_s, our_s = timed(lambda: published(*inputs), rounds), timed(lambda: ours(*inputs), rounds)
    result = {
        "speedup": peer_s / our_s,
        "max_abs_diff": float((published(*inputs) - ours(*inputs)).abs().max()),
        "parcels_per_s": batch / our_s,
        "published_parcels_per_s": batch / peer_s,
    }
    print(json.dumps(result) if as_json else "\n".join(f"{name:<26}{value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
