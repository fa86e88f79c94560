"""The folder of a run: all that it was, and all that it needs to go on after it was killed at any time.

    config.toml            as run, every default written out
    environment.json       versions, device, commit, seed
    fold-K/                metrics.csv (an epoch a row), last.pt (to go on from), weights.pt and model.json (when finished)
    final/                 the same for the model of all folds
    predictions.npz        parcel, fold, truth (P,), days (D,), logits and probabilities (D, P, K), is_observed (D, P)
    metrics.json, metrics.md, confusion.csv, curves.png, reliability.png

A file is written beside its place and moved there, so none is ever half a file; model.json is written last.
Errors: RunConfigError for a folder that holds a run of another configuration.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from models.classifier.fitting import Epoch, State
from training.config import RunConfig, read, to_toml
from training.errors import RunConfigError

OnEpoch = Callable[[Epoch, Callable[[], State]], None]
LIBRARIES = ("torch", "numpy", "scikit-learn", "pydantic", "pyarrow", "geopandas")
"""What a training's figures can depend on."""


@dataclass(frozen=True)
class Part:
    """One model of a run, in a folder of its own."""

    folder: Path

    @property
    def is_finished(self) -> bool:
        """Say whether its model is there."""
        return (self.folder / "model.json").exists()

    def model(self) -> CropModel:
        """Return the trained model."""
        weights, description = (self.folder / "weights.pt").read_bytes(), (self.folder / "model.json").read_text()
        return CropModel.from_checkpoint(Checkpoint(weights, description))

    def state(self) -> State | None:
        """Return what to go on from; None if it never finished an epoch."""
        return self._last()["state"] if (self.folder / "last.pt").exists() else None

    def epochs(self) -> list[Epoch]:
        """Return the epochs that are done."""
        return [Epoch(**one) for one in self._last()["epochs"]] if (self.folder / "last.pt").exists() else []

    def keeping(self, on_epoch: OnEpoch | None) -> OnEpoch:
        """Keep the state after each epoch, then calls `on_epoch` too."""
        done = self.epochs()

        def keep(epoch: Epoch, state: Callable[[], State]) -> None:
            done.append(epoch)
            buffer, table = io.BytesIO(), io.StringIO()
            torch.save({"epochs": [asdict(one) for one in done], "state": state()}, buffer)
            write(self.folder / "last.pt", buffer.getvalue())
            rows = csv.DictWriter(table, [one.name for one in fields(Epoch)], lineterminator="\n")
            rows.writeheader()
            rows.writerows(asdict(one) for one in done)
            write(self.folder / "metrics.csv", table.getvalue())
            if on_epoch is not None:
                on_epoch(epoch, state)

        return keep

    def finish(self, model: CropModel) -> None:
        """Write the model."""
        checkpoint = model.to_checkpoint()
        write(self.folder / "weights.pt", checkpoint.weights)
        write(self.folder / "model.json", checkpoint.description)

    def _last(self) -> dict[str, Any]:
        return torch.load(self.folder / "last.pt", map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RunFolder:
    """A run's folder."""

    path: Path

    @classmethod
    def open(cls, config: RunConfig) -> RunFolder:
        """Return the folder of a run, new or to go on with.

        Raises:
            RunConfigError: it holds a run of another configuration, or something else.
        """
        folder, path = config.run.folder, config.run.folder / "config.toml"
        if path.exists() and has_learnt(folder):
            known, asked = read(path).identity, config.identity
            other = [
                f"[{table}] {key}"
                for table in asked
                for key in {**known[table], **asked[table]}
                if known[table].get(key) != asked[table].get(key)
            ]
            if other:
                raise RunConfigError(f"{folder} holds another run ({', '.join(other)} differ): name another folder")
        elif not path.exists() and folder.exists() and any(folder.iterdir()):
            raise RunConfigError(f"{folder} is not empty and holds no run: name another folder")
        else:  # new, or claimed by a run that failed before its first epoch ended
            (folder / "environment.json").unlink(missing_ok=True)
            write(path, to_toml(config))
        return cls(folder)

    def part(self, name: str) -> Part:
        """Return one of its models: "fold-1" to "fold-5", "final"."""
        return Part(self.path / name)

    def write_environment(self, config: RunConfig, now: datetime) -> None:
        """Append what the run was started with: a run that goes on elsewhere has two entries."""
        path = self.path / "environment.json"
        known = json.loads(path.read_text()) if path.exists() else []
        write(path, json.dumps([*known, environment(config.training.device, config.training.seed, now)], indent=1))


def environment(on: str, seed: int, now: datetime) -> dict[str, Any]:
    """Return what the figures of a run may depend on."""
    versions = {one.metadata["Name"].lower(): one.version for one in distributions() if one.metadata["Name"]}
    device = torch.device(on)
    return {
        "started_at": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        # The distribution's version leaves out the build (2.13.0 of 2.13.0+cu130), on which figures may depend.
        "packages": {name: versions.get(name) for name in LIBRARIES} | {"torch": torch.__version__},
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seed": seed,
    }


def has_learnt(folder: Path) -> bool:
    """Return whether any run in a folder, or below it, has finished an epoch; until then the folder is free."""
    return any(any(folder.rglob(name)) for name in ("last.pt", "model.json", "answer.npz"))


def write(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)


def _commit() -> str | None:
    """Return the commit of the checkout that this code is in, with "+" if it was changed; None outside of one."""
    ask = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return said.stdout.strip() or None
