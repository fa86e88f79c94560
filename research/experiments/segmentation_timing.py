"""Table 4 of Garnot, Landrieu and Chehata 2022 for networks of pixels: parameters, and seconds of reading and of inference a patch.

As published, reading a patch and interpolating radar (early fusion) are in it. Patches are taken one at a time, networks as they are
applied (models.segmentation.inference). Nothing is trained: weights are drawn, which takes as long; a PaPs is made to find as many fields
as PASTIS has, as each mask takes time. Beside it, on a processor, U-TAE in its published form (research.experiments.published_segmentation)
at the same sizes, without the pass of zeros that its authors' code makes first.
Units:  seconds: of the processor, all threads together, or with a GPU of the wall; medians over patches and rounds after one that warms up.
Errors: those of a training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

from models.segmentation.inference import folded
from models.segmentation.network import Batch, PanopticNetwork, SegmentationNetwork, interpolated, parameters
from models.segmentation.paps import PapsHead
from research.experiments import plots, tables
from research.experiments.pastis_synthetic import Landscape, write_patches
from research.experiments.published_segmentation import Sizes, utae_features, utae_outputs, utae_state
from research.experiments.segmentation import NOTE, Row, run_of
from research.experiments.tables import Measurement
from research.experiments.timing import ROUNDS, machine
from training.patches import rows_of
from training.segmentation_config import SegmentationRun, Task
from training.segmentation_fitting import predicted
from training.segmentation_run import loading_of, network_of

P = ParamSpec("P")
Answer = TypeVar("Answer")
PARAMETERS, SPEED, WHOLE, RATIO = METRICS = (
    "parameters",
    "seconds a patch",
    "seconds of 500 patches",
    "published form / ours",
)
READING, INFERENCE = "reading", "inference"
PATCHES: Final = 500
"""Of a fold, as published; here the seconds of a patch times as many."""
PUBLISHED_S: Final[Mapping[Task, Mapping[str, float]]] = {
    "segmentation": {"early": 280, "late": 259},
    "panoptic": {"early": 414, "late": 819},
}
"""Of 500 patches."""
CLOCK: Final = ("Seconds of the wall.", "Seconds of the processor, all threads together.")
FIELDS: Final = 51 / 128**2
"""A pixel: 124,422 parcels in 2,433 patches (Garnot and Landrieu 2021)."""
FIELD: Final = 16.0
"""Pixels of a side; chosen because so many of them cover four fifths of a patch."""


def patches_of_published_size(out: Path, patches: int) -> dict[str, Any]:
    """Return the table [data] of made-up patches of PASTIS-R's size and dates; write them where they are not yet."""
    folder = out / f"patches-{5 * patches}"
    if not (folder / "NORM_S1D_patch.json").exists():  # written last
        write_patches(folder, Landscape(patches=5 * patches))  # a fifth is in the fold that is timed
    return {"kind": "pastis", "path": str(folder)}


def measure(
    task: Task,
    plain: Mapping[str, Any],
    rows: Sequence[Row],
    out: Path,
    report: Callable[[str], None],
    *,
    patches: int,
    rounds: int = ROUNDS,
) -> list[Measurement]:
    """Return the figures of each scheme, trained in whatever way, on the first patches of the first test fold."""
    found = []
    for row in {one.scheme: one for one in rows}.values():
        report(row.scheme)
        key = (row.scheme, "", 0, 0, 0.0)
        for at, metric, value in _figures(task, run_of(task, plain, row, 0, out), row, patches, rounds):
            found.append(Measurement(*key, at, metric, value))
    return found


def write(task: Task, folder: Path, found: Sequence[Measurement], title: str, device: str) -> str:
    """Write timing.csv, timing.md and timing.png; return the Markdown."""
    tables.write_csv(folder / "timing.csv", found)
    parts = [
        f"# Parameters and time, {task}: {title}",
        f"On {machine(device)}. Published: a GPU with 32 GB, unnamed.",
        NOTE,
    ]
    for metric, digits in zip(METRICS, (0, 3, 0, 2), strict=True):
        if any(one.metric == metric for one in found):
            parts.append(tables.markdown(found, metric, digits=digits, best=None))
    text = "\n\n".join(parts) + "\n"
    (folder / "timing.md").write_text(text, encoding="utf-8")
    plots.dots(folder / "timing.png", found, [(SPEED, READING), (SPEED, INFERENCE)])
    return text


def _figures(task: Task, run: SegmentationRun, row: Row, most: int, rounds: int) -> list[tuple[str, str, float]]:
    """Return place, metric and value of each figure of a scheme."""
    source, fold = run.data.open(), run.training.folds[0]
    network = network_of(run, source).to(run.training.device).eval()
    loading = replace(loading_of(run, source, fold, network.config.names), batch=1, workers=0, has_fields=False)
    rows = rows_of(source, fold)[2][:most].tolist()
    batch = loading.sample(rows[0]).batch
    if isinstance(network, PanopticNetwork):
        as_trained(network, batch)
    count, applied = parameters(network), folded(network)
    seconds: dict[str, list[float]] = {READING: [], INFERENCE: [], "published form, inference": []}
    states = {}
    if isinstance(network, SegmentationNetwork) and run.training.device == "cpu":
        states = published_states(network, run)
    # What else a processor works on is not counted; a GPU's seconds are not of the process.
    clock = time.process_time if run.training.device == "cpu" else time.perf_counter
    for nr in range(rounds + 1):
        for one in rows:
            took, loaded = _timed(clock, loading.sample, one)
            of_round = [took, _timed(clock, predicted, applied, loaded.batch, run)[0]]
            if isinstance(network, SegmentationNetwork) and states:
                of_round.append(_timed(clock, published, network, states, loaded.batch)[0])
            if nr:
                for values, value in zip(seconds.values(), of_round, strict=False):
                    values.append(value)
    at = {name: median(values) for name, values in seconds.items() if values}
    found = [("here", PARAMETERS, float(count)), ("published", PARAMETERS, row.parameters * 1000.0)]
    found += [(name, SPEED, value) for name, value in at.items()]
    found.append(("here", WHOLE, PATCHES * (at[READING] + at[INFERENCE])))
    if row.scheme in PUBLISHED_S[task]:
        found.append(("published", WHOLE, PUBLISHED_S[task][row.scheme]))
    if states:
        found.append((INFERENCE, RATIO, at["published form, inference"] / at[INFERENCE]))
    return found


@torch.inference_mode()
def as_trained(network: PanopticNetwork, batch: Batch) -> None:
    """Make drawn weights find as many fields, of about their size, as PASTIS has: by a bias of sizes, and the confidence that is needed."""
    head = network.head
    assert isinstance(head, PapsHead)
    last = head.size[-1]
    assert isinstance(last, torch.nn.Linear)
    last.bias.add_(FIELD)
    head.config = replace(head.config, min_confidence=1.0)  # no mask yet
    device = next(network.parameters()).device
    said = network({name: one.to(device) for name, one in batch.items()})
    wanted = min(len(said.confidence), max(1, round(FIELDS * said.heatmap[0].numel())))
    head.config = replace(head.config, min_confidence=float(said.confidence.sort(descending=True).values[wanted - 1]))


def published_states(network: SegmentationNetwork, run: SegmentationRun) -> dict[str, dict[str, Tensor]]:
    """Return weights under published names, of a U-TAE for each series of the network."""
    utae = run.model.utae(network.config.utae.classes)
    shape = (utae.encoder, utae.decoder, utae.width, utae.heads, utae.key, utae.head)
    return {name: utae_state(Sizes(n, utae.classes, *shape)) for name, n in network.config.sequences.items()}


@torch.inference_mode()
def published(network: SegmentationNetwork, states: Mapping[str, dict[str, Tensor]], batch: Batch) -> Tensor:
    """Return logits of the network's scheme with U-TAEs in their published form; the head of late fusion is ours."""
    if network.config.scheme == "early":
        first, *others = (batch[name] for name in network.config.names)
        images = torch.cat([first.images, *(interpolated(one, first.day) for one in others)], 2)
        return utae_outputs(states["early"], images, first.day)["logits"]
    series = [(states[name], batch[name].images, batch[name].day) for name in network.config.names]
    if network.config.scheme == "late" and network.head is not None:
        return network.head(torch.cat([utae_features(*one, torch.float32)[0][-1] for one in series], 1))  # type: ignore[no-any-return]
    return torch.stack([utae_outputs(*one)["logits"] for one in series]).mean(0)


def _timed(
    clock: Callable[[], float], work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs
) -> tuple[float, Answer]:
    """Return the seconds that work took, and what it gave; the device has finished when it answers."""
    begun = clock()
    answer = work(*args, **kwargs)
    return clock() - begun, answer
