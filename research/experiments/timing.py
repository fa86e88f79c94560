"""Table 4 of Garnot, Landrieu and Chehata 2022: parameters, seconds of a training epoch and parcels a second of inference.

Ours and the published form (research.experiments.published_form: dense, padded tensors, the whole season at each call) on the same source,
the same device. Inference is whole seasons to logits; ours in its folded form. An epoch of ours sees the dates that cuts and
dropout leave, in the configuration's batches; one of the published form sees all dates of padded seasons, in batches of 128.
Units:  seconds of the wall, parcels a second; medians.
Errors: those of research.experiments.grid.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.classifier.sampling import PackedParcels
from research.experiments import plots, tables
from research.experiments.grid import Grid, Run, n_parameters
from research.experiments.published_form import PublishedForm, SpatialEncoder, TemporalEncoder, decoder
from research.experiments.schemes import Enhancement, Scheme
from research.experiments.tables import Measurement
from training.labelled import LabelledParcels

PARAMETERS, EPOCH, SPEED = METRICS = ("parameters", "seconds an epoch", "parcels a second")
ROUNDS = 3
BATCH = 128
"""Parcels of an inference batch (published)."""
PUBLISHED, OURS = "published form", "ours"
"""The enhancement column says whose form it is."""
Inputs = dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]
"""Pixels (P, T, C, S), mask (P, S), geometry (P, 4), positions (T,) of each modality."""


class PublishedFusion(nn.Module):
    """The published schemes from the published form's parts, on dense tensors."""

    def __init__(self, fusion: str, sizes: dict[str, tuple[int, int]], classes: int) -> None:
        """The network of a scheme ("single" too).

        Args:
            sizes: channels and dates of each modality, the first one's dates being those of early fusion.
        """
        super().__init__()
        self.fusion, dates = fusion, [n for _, n in sizes.values()]
        if fusion == "early":
            self.early = PublishedForm(sum(c for c, _ in sizes.values()), dates[0], classes)
        elif fusion == "mid":
            self.spatial = nn.ModuleDict({name: SpatialEncoder(c) for name, (c, _) in sizes.items()})
            self.temporal, self.head = TemporalEncoder(sum(dates)), decoder(128, classes)
        else:
            self.alone = nn.ModuleDict({name: PublishedForm(c, n, classes) for name, (c, n) in sizes.items()})
            self.head = decoder(128 * len(sizes), classes)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits (P, K)."""
        days = torch.cat([one for *_, one in inputs.values()])
        (first, mask, geometry, at), *others = inputs.values()
        logits: Tensor
        if self.fusion == "early":
            channels = torch.cat([first, *(interpolated(values, of, at) for values, _, _, of in others)], 2)
            logits = self.early(channels, mask, geometry, at)
        elif self.fusion == "mid":
            parts = [self.spatial[name](*one[:3]) for name, one in inputs.items()]
            logits = self.head(self.temporal(torch.cat(parts, 1), days))
        elif self.fusion == "decision":
            logits = torch.stack([self.alone[name](*one) for name, one in inputs.items()]).mean(0)
        else:
            features = [cast(PublishedForm, self.alone[name]).features(*one) for name, one in inputs.items()]
            logits = self.head(torch.cat(features, 1))
        return logits


def interpolated(values: Tensor, of: Tensor, at: Tensor) -> Tensor:
    """Return values (P, T1, C, S) of days `of` (T1,) at days `at` (T,), linear between and held outside: (P, T, C, S)."""
    weight = np.stack([np.interp(at.cpu().numpy(), of.cpu().numpy(), hat) for hat in np.eye(len(of))], 1)
    return torch.einsum("ts,psck->ptck", torch.from_numpy(weight).to(values), values)


def published_inputs(data: LabelledParcels, parcels: int, device: str) -> Inputs:
    """Return random inputs of the shape that padding gives the source: every parcel the most dates that one has."""
    random = torch.Generator().manual_seed(0)
    geometry, found = torch.randn(parcels, 4, generator=random).to(device), {}
    size = max(one.pixels.shape[2] for one in data.observations.values())  # one pixel set for all, as published
    for one in data.modalities:
        known = data.observations[one.name]
        dates = int(np.bincount(known.parcel).max())
        values = torch.randn(parcels, dates, one.inputs, size, generator=random).to(device)
        days = torch.linspace(0, data.scored_on[-1], dates, device=device)
        found[one.name] = (values, torch.ones(parcels, size, device=device), geometry, days)
    return found


def measure(
    grid: Grid, schemes: Sequence[Scheme], enhancement: Enhancement, fold: int, *, rounds: int = ROUNDS
) -> list[Measurement]:
    """Return every scheme in our form and in the published one."""
    found = []
    for nr, scheme in enumerate(schemes):
        grid.report(scheme.name, nr / len(schemes))
        data = grid.data.of(scheme.modalities)
        for form, figures in (
            (OURS, _ours(grid, Run(scheme, enhancement, 0, fold), rounds)),
            (PUBLISHED, _published(grid, scheme, data, fold, rounds)),
        ):
            found += [Measurement(scheme.name, form, 0, 0, 0.0, at, at, value) for at, value in figures.items()]
    return found


def machine(device: str) -> str:
    """Return what it ran on, in words."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(": ", 1)[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        name = (models or [name])[0]
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (host {name})"
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads, {load}torch {torch.__version__}"


def write(folder: Path, measurements: Sequence[Measurement], title: str, device: str) -> str:
    """Write timing.csv, timing.md and timing.png; return the Markdown."""
    tables.write_csv(folder / "timing.csv", measurements)
    parts = [f"# Parameters and time: {title}", f"On {machine(device)}."]
    for metric, digits in ((PARAMETERS, 0), (EPOCH, 3), (SPEED, 0)):
        parts.append(tables.markdown(measurements, metric, digits=digits, best=None))
    text = "\n\n".join(parts)
    (folder / "timing.md").write_text(text, encoding="utf-8")
    plots.dots(folder / "timing.png", measurements, [(EPOCH, ""), (SPEED, "")])
    return text


def _ours(grid: Grid, run: Run, rounds: int) -> dict[str, float]:
    stamps: list[float] = []
    model = grid.fit(run, lambda _epoch, _state: stamps.append(time.perf_counter()), rounds + 1)
    own, some = grid.data.of(run.scheme.modalities), torch.from_numpy(np.flatnonzero(some_parcels(grid.data)))
    batch = PackedParcels.of(model.normaliser, own.observations, own.geometry).take(some).to(grid.device)
    network = model.for_inference(grid.device).network
    with torch.no_grad():
        seconds = _timed(lambda: network(batch).logits, rounds)
    return {
        PARAMETERS: n_parameters(model.network),
        EPOCH: median(np.diff(stamps).tolist()),
        SPEED: len(some) / seconds,
    }


def some_parcels(data: LabelledParcels) -> NDArray[np.bool_]:
    """Return (P,) the parcels of an inference batch: the first labelled ones that were observed."""
    usable = data.is_labelled & data.observed_by(np.inf)
    return usable & (np.cumsum(usable) <= BATCH)


def _published(grid: Grid, scheme: Scheme, data: LabelledParcels, fold: int, rounds: int) -> dict[str, float]:
    n_training = int((data.is_labelled & (data.fold != fold)).sum())
    parcels = int(some_parcels(data).sum())
    inputs = published_inputs(data, parcels, grid.device)
    sizes = {name: (x.shape[2], x.shape[1]) for name, (x, *_) in inputs.items()}
    network = PublishedFusion(scheme.fusion, sizes, len(data.classes)).to(grid.device)
    target = torch.arange(parcels, device=grid.device) % len(data.classes)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss

    step_s = _timed(step, rounds)
    network.eval()
    with torch.no_grad():
        seconds = _timed(lambda: network(inputs), rounds)
    unused = ".decoder." if scheme.fusion == "late" else None
    return {
        PARAMETERS: sum(p.numel() for name, p in network.named_parameters() if not (unused and unused in name)),
        EPOCH: step_s * n_training / parcels,
        SPEED: parcels / seconds,
    }


def _timed(work: Callable[[], Tensor], rounds: int) -> float:
    """Return median seconds after one round to warm up; the device has finished when it answers."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work().sum().item()
        seconds.append(time.perf_counter() - begun)
    return median(seconds[1:])
