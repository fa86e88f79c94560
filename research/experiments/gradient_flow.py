"""Where the gradient goes, epoch by epoch, with and without auxiliary supervision (Eq. 9, Fig. 6 of the paper).

    g_m(e) = | dL/d theta_m | at the weights after epoch e        share_m = g_m / sum over modalities of g

theta_m are the parameters that read modality m alone: its pixel-set encoder and, where the scheme gives it one, its
attention. L is the loss that is trained (fused cross entropy, plus 0.5 of each modality's with auxiliary supervision), on the
training parcels of the fold, drawn as in training and cut into batches; g is the mean of the batches' norms.

Not verified: the text of Garnot, Landrieu and Chehata 2022 was not at hand, so that Eq. 9 itself may differ from the above in
what it takes the norm of (parameters, or embeddings) and in how it is averaged. What is computed is exactly the above.
Units:  norms of the loss's gradient; shares 0..1.
Errors: ExperimentError for a scheme whose modalities share every parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier.fitting import Epoch, class_weight, loss_of
from models.classifier.network import PseLtae
from models.classifier.sampling import sample
from models.classifier.training import Inputs, standardised
from research.experiments import plots, tables
from research.experiments.grid import Grid, Run
from research.experiments.schemes import ENHANCEMENTS, ExperimentError, Scheme
from research.experiments.tables import Measurement
from training.cross_validation import chosen, network_config, training_config

SHARE, NORM = "share of the gradient", "norm of the gradient"
BINS = 10
"""Points of a curve; chosen because one epoch's norm scatters by a fifth."""
COMPARED = tuple(one for one in ENHANCEMENTS if one.has_temporal_dropout)
"""Temporal dropout, without and with auxiliary supervision."""


def measure(grid: Grid, schemes: Sequence[Scheme], seeds: Sequence[int], folds: Sequence[int]) -> list[Measurement]:
    """Return each modality's share and norm after every epoch; folds count as draws.

    Raises:
        ExperimentError: a scheme whose modalities share every parameter (early fusion, one modality).
    """
    found = []
    for scheme in schemes:
        if len(scheme.modalities) < 2 or scheme.fusion == "early":
            raise ExperimentError(f"{scheme.name}: its modalities share every parameter, so the gradient has no parts")
        asked = COMPARED if scheme.fusion != "mid" else COMPARED[:1]
        runs = [Run(scheme, one, seed, fold) for one in asked for seed in seeds for fold in folds]
        for nr, run in enumerate(runs):
            grid.report(run.key, nr / len(runs))
            for epoch, norms in enumerate(grid.kept(f"flow-{run.key}", partial(_flow, grid, run)), start=1):
                for name, norm in zip(scheme.modalities, norms.tolist(), strict=True):
                    row = f"{scheme.name}: {name}", run.enhancement.name, run.seed, run.fold, float(epoch), f"{epoch}"
                    found += [Measurement(*row, NORM, norm), Measurement(*row, SHARE, norm / norms.sum())]
    return found


def write(folder: Path, measurements: Sequence[Measurement], title: str) -> list[Measurement]:
    """Write gradient-flow.csv (every epoch), .md and .png (means of some epochs); return the measurements of these means."""
    tables.write_csv(folder / "gradient-flow.csv", measurements)
    last = max(one.x for one in measurements)
    n = max(1, round(last / BINS))
    ends = [min(last, n * np.ceil(one.x / n)) for one in measurements]
    binned = [one._replace(x=end, at=f"to {end:.0f}") for one, end in zip(measurements, ends, strict=True)]
    parts = [f"# Where the gradient goes: {title}", f"Means of {n} epochs. {tables.UNMARKED}"]
    parts += [tables.markdown(binned, metric, best=None) for metric in (SHARE, NORM)]
    (folder / "gradient-flow.md").write_text("\n\n".join(parts), encoding="utf-8")
    plots.lines(folder / "gradient-flow.png", binned, (SHARE, NORM), x_label=f"epoch (means of {n})")
    return binned


def _flow(grid: Grid, run: Run) -> NDArray[np.float64]:
    """Return the norm (E, M) of each modality after each epoch of one training."""
    model, section = grid.configured(run)
    data = chosen(grid.data, model)
    config, training = network_config(data, model), training_config(data, model, section)
    usable = grid.masks(run)[0]
    _, parcels = standardised(config, Inputs(data.observations, data.geometry, data.labels), usable)
    members, labels = torch.from_numpy(np.flatnonzero(usable)), torch.from_numpy(data.labels)
    weight = class_weight(labels[members], len(config.classes), training.balance)
    found: list[list[float]] = []

    def on_epoch(epoch: Epoch, state: Callable[[], dict[str, Any]]) -> None:
        network = PseLtae(config)
        network.load_state_dict(state()["fitting"]["network"])
        random = torch.Generator().manual_seed(epoch.number)
        norms = []
        with torch.random.fork_rng():
            torch.manual_seed(epoch.number)
            order = members[torch.randperm(len(members), generator=random)]
            for some in order.tensor_split(-(-len(members) // training.batch)):
                batch = sample(parcels, some, config.modalities, training.thinning, random)
                loss = loss_of(network.train()(batch), labels[some], weight, training.auxiliary_weight)
                norms.append(modality_norms(network, loss))
        found.append(np.mean(norms, axis=0).tolist())

    grid.fit(run, on_epoch)
    return np.array(found)


def modality_norms(network: PseLtae, loss: Tensor) -> list[float]:
    """Return the norm (M,) of a loss's gradient by the parameters that read each modality alone."""
    network.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    found = []
    for one in network.config.modalities:
        own = [
            network.pixel_encoders[one.name],
            *([network.sequences[one.name]] if one.name in network.sequences else []),
        ]
        gradients = [p.grad for part in own for p in part.parameters() if p.grad is not None]
        found.append(float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt()) if gradients else 0.0)
    return found
