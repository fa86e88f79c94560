"""The paper's NDVI network beside a literal implementation: same weights, same windows, same run.

    python -m research.bench.mcnn_seq [--json] [--windows 1024] [--rounds 5] [--device cpu]

Ours is `McnnInference` on all windows. The reference is given its best batch size of several, then both are timed in turn and the least
time of each counts. On a CPU: one thread, and the time is that thread's own (what other users of the core take does not count);
elsewhere wall time, the device waited for. Beside `speedup`, which is of that: the reference with all scores of an output computed at
once; both sides given one window at a time; and ours in chunks over the reference one window at a time.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import typer
from torch import Tensor

from models.ndvi.published.inference import McnnInference
from models.ndvi.published.mcnn_seq import McnnSeq
from research.bench.published_mcnn import PublishedMcnn

REFERENCE_BATCHES = (64, 128, 256, 512, 1024)
"""Batch sizes the reference may choose from (chosen because 2048 is slower than 512, 32 than 64)."""
N_ALONE = 4
"""Windows timed one at a time."""

Work = Callable[[], object]


def least_s(works: Sequence[Work], rounds: int, device: torch.device) -> list[float]:
    """Return the least seconds of each piece of work, timed turn by turn after one run unmeasured."""
    seconds = [float("inf")] * len(works)
    for turn in range(rounds + 1):
        for index, work in enumerate(works):
            begun = _clock(device)
            work()
            taken = _clock(device) - begun
            if turn:
                seconds[index] = min(seconds[index], taken)
    return seconds


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def in_batches(network: Callable[[Tensor], Tensor], sar: Tensor, size: int) -> Tensor:
    """Return the outputs of windows given `size` at a time."""
    return torch.cat([network(sar[start : start + size]) for start in range(0, len(sar), size)])


def compare(model: McnnSeq, sar: Tensor, rounds: int) -> dict[str, float]:
    """Return the figures of one network on windows (B, T, 2), both on one device."""
    device, n = sar.device, len(sar)
    ours, literal, batched = McnnInference(model), PublishedMcnn(model).eval(), PublishedMcnn(model, True).eval()
    sizes = [size for size in REFERENCE_BATCHES if size <= n] or [n]
    references = [(reference, size) for reference in (literal, batched) for size in sizes]
    trials = least_s([lambda p=p, s=s: in_batches(p, sar, s) for p, s in references], 1, device)  # type: ignore[misc]
    parts = trials[: len(sizes)], trials[len(sizes) :]
    best = [min(zip(part, sizes, strict=True))[1] for part in parts]
    our_s, literal_s, batched_s = least_s(
        [lambda: ours(sar), lambda: in_batches(literal, sar, best[0]), lambda: in_batches(batched, sar, best[1])],
        rounds,
        device,
    )
    few = sar[:N_ALONE]
    alone: list[Work] = [lambda: in_batches(ours, few, 1), lambda: in_batches(literal, few, 1)]
    our_alone_s, alone_s = least_s(alone, rounds, device)
    return {
        "speedup": literal_s / our_s,
        "max_abs_diff": float((ours(sar) - in_batches(literal, sar, best[0])).abs().max()),
        "windows_per_s": n / our_s,
        "windows": n,
        "literal_windows_per_s": n / literal_s,
        "literal_batch": best[0],
        "speedup_batched_scores": batched_s / our_s,
        "batched_scores_batch": best[1],
        "speedup_one_window": alone_s / our_alone_s,
        "speedup_over_one_at_a_time": alone_s / len(few) / (our_s / n),
        "ms_one_window": 1e3 * our_alone_s / len(few),
    }


@torch.inference_mode()
def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    windows: Annotated[int, typer.Option(min=1)] = 1024,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Print speedup, max_abs_diff and windows_per_s."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = McnnSeq().eval()
    sar = torch.randn(windows, model.config.n_steps, 2)  # standardised dB
    result = compare(model.to(device), sar.to(device), rounds)
    print(json.dumps(result) if as_json else "\n".join(f"{name:<26}{value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    typer.run(main)
