"""Networks of pixels and of fields, trained by two processes: the gradients of one, weights alike, and what is left when one is killed."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.classifier.fitting import Session
from research.experiments.pastis_synthetic import Landscape, write_patches
from training.errors import RunConfigError
from training.patch_images import read
from training.patches import Loading
from training.segmentation_config import SegmentationRun, Task, parse
from training.segmentation_fitting import Fitting
from training.segmentation_run import network_of, run_all

ROOT = Path(__file__).parents[3]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
NARROW = {"encoder": [16, 16], "decoder": [16, 16], "attention": 32, "heads": 4}
EPOCHS = 4
RUN = """
[data]
kind = "pastis"
path = "{patches}"
[model]
modalities = ["s2", "s1a"]
encoder = [16, 16]
decoder = [16, 16]
attention = 32
heads = 4
[training]
folds = [1]
workers = 0
batch = 4
epochs = {epochs}
[run]
folder = "{folder}"
"""

pytestmark = pytest.mark.e2e


def asked(task: Task, folder: Path, **training: Any) -> SegmentationRun:
    plain = {
        "data": {"kind": "pastis", "path": str(folder)},
        "model": {**NARROW, "modalities": ["s2", "s1a"], "temporal_dropout": False},
        "training": {"workers": 0, "batch": 3, **training},
        "run": {"folder": str(folder / "run")},
    }
    return parse(task, plain, "here")


def gradients(task: Task, folder: Path, rank: int = 0, world: int = 1) -> list[dict[str, Tensor]]:
    """Of a batch of three patches and of a last one of one, with batch norms as they are applied: those of a part are its own."""
    run, patches = asked(task, folder), read(folder)
    network = network_of(run, patches)
    torch.manual_seed(5)
    for one in network.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean = torch.rand(one.num_features)
    loading = Loading(
        patches,
        network.config.names,
        patches.statistics((1, 2)),
        3,
        has_fields=task == "panoptic",
        rank=rank,
        world=world,
    )
    fitting = Fitting(network, run, loading, torch.arange(4).numpy())
    network.eval().training = True  # heads of their own, but no dropout
    found = []
    for batch, patches_of in zip(loading.batches(range(4)), (3, 1), strict=True):
        fitting.optimiser.zero_grad()
        fitting._loss(batch, torch.Generator(), has_part=rank < patches_of).backward()  # type: ignore[no-untyped-call]
        found.append({name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    landscape = Landscape(patches=13, side=16, fields=2, dates=(5, 3, 3), classes=(1, 15))
    return write_patches(tmp_path_factory.mktemp("made") / "pastis", landscape)


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes of which one was killed, and gone on with; `killed` holds what they said."""
    out = tmp_path_factory.mktemp("out")
    (out / "run.toml").write_text(RUN.format(patches=folder, folder=out / "run", epochs=EPOCHS))
    line = [*LAUNCHER, __file__, str(out), "models", "train", "segmentation", "--config", str(out / "run.toml")]
    for kill in ("1", ""):
        environment = ENVIRONMENT | {"KILL": kill}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode != 0) == bool(kill), done.stderr[-3000:]
        if kill:
            (out / "killed").write_text(done.stderr)
            assert (out / "run/fold-1/last.pt").exists()
            assert not (out / "run/fold-1/counts.json").exists()
    return out


@pytest.mark.parametrize("task", ["segmentation", "panoptic"])
def test_gradients_of_two_processes_are_those_of_one(task: Task, folder: Path, out: Path) -> None:
    own = gradients(task, folder)
    for rank in range(2):
        shared = torch.load(out / f"{task}-{rank}.pt", weights_only=True)
        for one, other in zip(own, shared, strict=True):
            assert one.keys() == other.keys()
            scale = max(float(each.abs().max()) for each in one.values())
            for name, each in one.items():
                torch.testing.assert_close(other[name], each, rtol=1e-4, atol=1e-6 * scale, msg=name)


def test_a_killed_process_ends_the_other_in_one_line_and_the_run_goes_on(out: Path) -> None:
    said = (out / "killed").read_text()
    assert "parcelwatch: the training was stopped, or another of its processes ended" in said
    # As a run that nothing stopped.
    for name in ("fold-1/metrics.csv", "metrics.json"):
        assert (out / "run" / name).read_text() == (out / "whole" / name).read_text()
    entries = json.loads((out / "run/environment.json").read_text())
    assert [one["processes"] for one in entries] == [2, 2]


def test_two_processes_end_with_one_model(folder: Path, out: Path) -> None:
    one, other = (torch.load(out / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(each, other[name]) for name, each in one.items())
    rows = list(csv.DictReader((out / "run/fold-1/metrics.csv").read_text().splitlines()))
    assert [int(row["number"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    counts = json.loads((out / "run/fold-1/counts.json").read_text())["confusion"]
    # The three patches of fold 1, each counted once, without void.
    labels = [read(folder).read(row, ()).classes for row in (0, 5, 10)]
    assert sum(map(sum, counts)) == sum(int((each != 19).sum()) for each in labels)


def test_a_batch_has_a_patch_for_each_process(folder: Path) -> None:
    session = Session(torch.device("cpu"), 0, 4)
    with pytest.raises(RunConfigError, match="3 patches for 4 processes"):
        run_all(asked("segmentation", folder), read(folder), datetime(2026, 1, 1, tzinfo=UTC), print, session)


def main() -> None:
    """One of two processes: killed in its third epoch; or with gradients, a run that nothing stops, and the other one."""
    import parcelwatch

    out, rank = Path(sys.argv.pop(1)), int(os.environ["RANK"])
    fit, loss = Fitting.fit, Fitting._loss

    def killed(self: Fitting, *given: Any, **named: Any) -> Tensor:
        if os.environ["KILL"] and rank == 1 and self.epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(self, *given, **named)

    def kept(self: Fitting, *given: Any) -> Any:
        Fitting.fit = fit  # type: ignore[method-assign]
        if not os.environ["KILL"]:
            for task in ("segmentation", "panoptic"):
                torch.save(gradients(task, self.run.data.path, rank, 2), out / f"{task}-{rank}.pt")  # type: ignore[attr-defined]
            whole = self.run.model_copy(update={"run": self.run.run.model_copy(update={"folder": out / "whole"})})
            session = Session(self.device, rank, 2)
            run_all(whole, self.loading.patches, datetime.now(UTC), lambda *_: None, session)
        network = fit(self, *given)
        torch.save(network.state_dict(), out / f"weights-{rank}.pt")
        return network

    Fitting.fit, Fitting._loss = kept, killed  # type: ignore[method-assign,assignment]
    parcelwatch.main()


if __name__ == "__main__":
    main()
