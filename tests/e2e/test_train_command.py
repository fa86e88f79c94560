"""`models train classifier --config`: a run that is killed goes on, and two processes train one model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

COMMAND = "import torch, typer; torch.set_num_threads(1); from training.classifier_command import classifier; typer.run(classifier)"
RUN = """
[data]
kind = "simulator"
parcels = 40
pixels = 1
min_parcels = 4

[model]
modalities = ["s2", "s1a"]
pixel_widths = [8]
decoder = [16]

[training]
epochs = {epochs}
batch = 16
validate_every = 2
folds = [1]
validation = "fold"
refit = false

[run]
folder = "{folder}"
"""
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

pytestmark = pytest.mark.e2e


def configured(tmp_path: Path, name: str, epochs: int) -> Path:
    """A configuration whose run goes to tmp_path / name."""
    path = tmp_path / f"{name}.toml"
    path.write_text(RUN.format(epochs=epochs, folder=tmp_path / name))
    return path


def trained(config: Path, *launcher: str, before: str = "") -> None:
    line = [*launcher, sys.executable, "-c", before + COMMAND, "--config", str(config)]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_killed_by_the_system_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, killed = configured(tmp_path, "whole", 8), configured(tmp_path, "killed", 8)
    trained(whole)
    process = subprocess.Popen([sys.executable, "-c", COMMAND, "--config", str(killed)], cwd=ROOT, env=ENVIRONMENT)
    last, deadline = tmp_path / "killed" / "fold-1" / "last.pt", time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()
    assert not (last.parent / "model.json").exists()
    begun = last.read_bytes()
    assert 1 <= torch.load(last, weights_only=True)["state"]["fitting"]["epoch"] < 8
    trained(killed)
    assert last.read_bytes() != begun
    assert (last.parent / "model.json").read_text() == (tmp_path / "whole" / "fold-1" / "model.json").read_text()


def test_two_processes_train_one_model_and_the_first_alone_writes(tmp_path: Path) -> None:
    config, kept = configured(tmp_path, "two", 3), tmp_path / "ranks"
    kept.mkdir()
    spy = (
        "import os, torch; from training import cross_validation as crossval; train = crossval.train_fold\n"
        "def kept(*given):\n"
        "    model = train(*given)\n"
        f"    torch.save(model.network.state_dict(), '{kept}/' + os.environ['RANK'])\n"
        "    return model\n"
        "crossval.train_fold = kept\n"
        "write = crossval.RunFolder.part.__globals__['write']\n"
        "def first(*given):\n"
        "    assert os.environ['RANK'] == '0', given\n"
        "    write(*given)\n"
        "crossval.RunFolder.part.__globals__['write'] = first\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    trained(config, *launcher, before=spy)
    one, other = (torch.load(kept / rank, weights_only=True) for rank in "01")
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
    assert (tmp_path / "two" / "metrics.json").exists()
    stored = torch.load(tmp_path / "two" / "fold-1" / "weights.pt", weights_only=True)
    assert all(tensor.equal(stored[name]) for name, tensor in one.items())
