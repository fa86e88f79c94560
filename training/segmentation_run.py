"""A run of `models train segmentation | panoptic`: a model for each test fold, scores pooled over folds, all in one folder.

    config.json            as run, every default written out
    environment.json       versions, device, commit, seed
    fold-K/                metrics.csv (an epoch a row), last.pt (to go on from), weights.pt, model.json and counts.json (when finished)
    metrics.json, metrics.md, curves.png

A file is written beside its place and moved there, so none is ever half a file; counts.json is written last.
Errors: RunConfigError for a folder that holds another run, or modalities that the source has not.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import distributed

from models.classifier.fitting import Session
from models.segmentation.at_rest import to_checkpoint
from models.segmentation.network import PanopticNetwork, SegmentationConfig, SegmentationNetwork, parameters
from models.segmentation.scoring import Counts, PanopticCounts
from training.errors import RunConfigError
from training.patches import Loading, PatchSet, rows_of, training_folds
from training.run_folder import environment, has_learnt, write
from training.season_models import conventions
from training.segmentation_config import SegmentationRun
from training.segmentation_fitting import Epoch, Fitting, Network, Scores, State, scored

OnEpoch = Callable[[str, Epoch], None]


@dataclass(frozen=True)
class Result:
    """What a run found."""

    metrics: dict[str, float]
    """Pooled over the test folds."""
    parameters: int
    """Of inference."""
    folds: dict[int, dict[str, float]]


def network_of(run: SegmentationRun, patches: PatchSet) -> Network:
    """Return the network of a run with new weights, drawn from its seed.

    Raises:
        RunConfigError: the source has not a modality.
    """
    names = run.model.modalities or tuple(one.name for one in patches.modalities)
    known = {one.name: one for one in patches.modalities}
    if missing := [name for name in names if name not in known]:
        raise RunConfigError(f"[model] modalities: {patches.name} has {', '.join(known)}, not {', '.join(missing)}")
    is_panoptic = run.task == "panoptic"
    # Void is a class of fields, and none of pixels: published.
    utae = run.model.utae(len(patches.classes) + is_panoptic)
    config = SegmentationConfig(tuple(known[name] for name in names), utae, run.model.fusion)
    has_heads = run.model.auxiliary and not is_panoptic and config.scheme in ("late", "decision")
    torch.manual_seed(run.training.seed)
    if is_panoptic:
        return PanopticNetwork(config)
    return SegmentationNetwork(replace(config, auxiliary=has_heads))


def loading_of(run: SegmentationRun, patches: PatchSet, fold: int, names: tuple[str, ...]) -> Loading:
    """Return how patches become batches of these modalities where a fold is tested: with the statistics of its training folds."""
    statistics = patches.statistics(training_folds(fold))
    has_fields = run.task == "panoptic"
    return Loading(patches, names, statistics, run.training.batch, run.training.workers, has_fields=has_fields)


def trained(run: SegmentationRun, patches: PatchSet, fold: int) -> tuple[Network, Loading]:
    """Return the network of a test fold as the run has trained it, in evaluation mode on the run's device, and how its batches are made.

    Raises:
        RunConfigError: the run has not trained it.
    """
    path = run.run.folder / f"fold-{fold}" / "weights.pt"
    if not path.exists():
        raise RunConfigError(f"{path}: no such file; this fold has not been trained to its end")
    network = network_of(run, patches)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(run.training.device).eval(), loading_of(run, patches, fold, network.config.names)


def counts_of(run: SegmentationRun, fold: int) -> Scores:
    """Return the counts of a test fold that was trained."""
    return counts_from(json.loads((run.run.folder / f"fold-{fold}" / "counts.json").read_text()))


def run_all(
    run: SegmentationRun, patches: PatchSet, now: datetime, on_epoch: OnEpoch, session: Session | None = None
) -> Result:
    """Train and test on each fold, or go on where a run of this folder was stopped; return the scores.

    Args:
        session: device and processes, of which the first alone reads and writes the folder; None: this process, on `training.device`.

    Raises:
        RunConfigError: the folder holds another run, a fold has no patches, the source has not a modality, or a batch has too few patches.
    """
    session = session or Session(torch.device(run.training.device))
    if session.world > run.training.batch:
        raise RunConfigError(
            f"[training] batch: {run.training.batch} patches for {session.world} processes; one each at least"
        )
    run = run.model_copy(update={"training": run.training.model_copy(update={"device": str(session.device)})})
    for fold in run.training.folds:
        if missing := [nr for nr in range(3) if not len(rows_of(patches, fold)[nr])]:
            what = ("to train on", "to validate on", "to test on")[missing[0]]
            raise RunConfigError(f"[training] folds: {patches.name} has no patch {what} for test fold {fold}")
    size = parameters(network_of(run, patches))
    if session.is_first:
        _claim(run, now)
    found = {fold: _fold(run, patches, fold, on_epoch, session) for fold in run.training.folds}
    total = list(found.values())
    result = Result(sum(total[1:], total[0]).metrics(), size, {fold: one.metrics() for fold, one in found.items()})
    if session.is_first:
        _write(run, patches, result)
    return result


def _claim(run: SegmentationRun, now: datetime) -> None:
    """Make the folder this run's, and note what it was started with."""
    folder, path = run.run.folder, run.run.folder / "config.json"
    if path.exists() and has_learnt(folder):
        if json.loads(path.read_text()) != run.identity:
            raise RunConfigError(f"{folder} holds another run (see {path}): name another folder")
    elif not path.exists() and folder.exists() and any(folder.iterdir()):
        raise RunConfigError(f"{folder} is not empty and holds no run: name another folder")
    else:
        (folder / "environment.json").unlink(missing_ok=True)
        write(path, json.dumps(run.identity, indent=1))
    path = folder / "environment.json"
    known = json.loads(path.read_text()) if path.exists() else []
    write(path, json.dumps([*known, environment(run.training.device, run.training.seed, now)], indent=1))


def _fold(run: SegmentationRun, patches: PatchSet, fold: int, on_epoch: OnEpoch, session: Session) -> Scores:
    """Return the test counts of a fold, trained now or before."""
    folder = run.run.folder / f"fold-{fold}"
    kept: list[Any] = [_kept(folder)] if session.is_first else [None]
    if session.world > 1:  # so that all do the same
        distributed.broadcast_object_list(kept, 0)
    counted, last = kept[0]
    if counted is not None:
        return counts_from(counted)
    network = network_of(run, patches)
    alone = loading_of(run, patches, fold, network.config.names)
    loading = replace(alone, rank=session.rank, world=session.world)
    training, validation, test = rows_of(patches, fold)
    state, done = last["state"], [Epoch(**one) for one in last["epochs"]]

    def keep(epoch: Epoch, of: Callable[[], State]) -> None:
        if not session.is_first:
            return
        done.append(epoch)
        buffer = io.BytesIO()
        torch.save({"epochs": [asdict(one) for one in done], "state": of()}, buffer)
        write(folder / "last.pt", buffer.getvalue())
        write(folder / "metrics.csv", _table(done))
        on_epoch(folder.name, epoch)

    fitting = Fitting(network, run, loading, training, state)
    if not session.is_first:
        return scored(fitting.fit(validation, keep), loading, test, run)
    fitted = fitting.fit(validation, keep)
    counts = scored(fitted, loading, test, run)
    about = {
        "source": patches.name,
        "test_fold": fold,
        "classes": [*patches.classes, *(["Void"] if loading.has_fields else [])],
        "void": patches.void,
        "statistics": {
            name: {"mean": loading.statistics[name].mean.tolist(), "sd": loading.statistics[name].sd.tolist()}
            for name in fitted.config.names
        },
        **conventions(patches.starts_on),
    }
    checkpoint = to_checkpoint(fitted, about)
    write(folder / "weights.pt", checkpoint.weights)
    write(folder / "model.json", checkpoint.description)
    write(folder / "counts.json", json.dumps(counts_to(counts)))
    return counts


def _kept(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the counts of a fold, None unless it is finished, and what to go on from."""
    counted = json.loads((folder / "counts.json").read_text()) if (folder / "counts.json").exists() else None
    last: dict[str, Any] = {"state": None, "epochs": []}
    if counted is None and (folder / "last.pt").exists():
        last = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    return counted, last


def counts_to(scores: Scores) -> dict[str, Any]:
    """Return counts as plain JSON values."""
    if scores.confusion is not None:
        return {"confusion": scores.confusion.tolist()}
    rows = [
        {name: getattr(one, name).tolist() for name in ("hits", "false", "missed", "iou")} | {"void": one.void}
        for one in scores.panoptic
    ]
    return {"panoptic": rows, "objects": asdict(scores.objects), "boundaries": asdict(scores.boundaries)}


def counts_from(plain: Mapping[str, Any]) -> Scores:
    """Return the counts of what `counts_to` gave."""
    if "confusion" in plain:
        return Scores(np.array(plain["confusion"], np.int64))
    rows = []
    for one in plain["panoptic"]:
        hits, false, missed = (np.array(one[name], np.int64) for name in ("hits", "false", "missed"))
        rows.append(PanopticCounts(hits, false, missed, np.array(one["iou"], float), one["void"]))
    return Scores(None, tuple(rows), Counts(**plain["objects"]), Counts(**plain["boundaries"]))


def _table(epochs: Sequence[Epoch]) -> str:
    out = io.StringIO()
    rows = csv.DictWriter(out, [one.name for one in fields(Epoch)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(one) for one in epochs)
    return out.getvalue()


def _write(run: SegmentationRun, patches: PatchSet, result: Result) -> None:
    folder, model = run.run.folder, run.model
    write(folder / "metrics.json", json.dumps(asdict(result), indent=1))
    names = list(result.metrics)
    rows = [*((f"fold {fold}", one) for fold, one in result.folds.items()), ("pooled", result.metrics)]
    widths = "published widths" if model.is_published else f"narrow: encoder {list(model.encoder)}"
    lines = [
        f"# {run.task}: {patches.name}, {', '.join(model.modalities) or 'all modalities'}, {model.fusion} fusion, {widths}",
        "",
        f"{result.parameters:,} parameters. Void pixels are left out.",
        "",
        f"| | {' | '.join(names)} |",
        "| --- |" + " --: |" * len(names),
        *(f"| {name} | {' | '.join(f'{one[key]:.3f}' for key in names)} |" for name, one in rows),
    ]
    write(folder / "metrics.md", "\n".join([*lines, ""]))
    write(folder / "curves.png", _curves(run))


def _curves(run: SegmentationRun) -> bytes:
    """PNG: loss and validation score of each fold against the epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for fold in run.training.folds:
        path = run.run.folder / f"fold-{fold}" / "metrics.csv"
        rows = list(csv.DictReader(path.read_text().splitlines()))
        known = [one for one in rows if one["score"]]
        loss.plot([int(one["number"]) for one in rows], [float(one["loss"]) for one in rows], label=f"fold {fold}")
        score.plot([int(one["number"]) for one in known], [float(one["score"]) for one in known], marker=".")
    loss.set(xlabel="epoch", ylabel="training loss")
    score.set(xlabel="epoch", ylabel=f"validation {'PQ' if run.task == 'panoptic' else 'mIoU'}", ylim=(0, 1.03))
    loss.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
