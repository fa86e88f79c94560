"""Where a training runs: its device, refused before anything is read, its threads, and the processes that share it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from training.errors import ProcessLost, RunConfigError

if TYPE_CHECKING:
    from models.classifier.fitting import Session


def require_device(name: str) -> None:
    """Raise RunConfigError where a device is none of cpu, cuda and cuda:N, or this machine has no such GPU."""
    if not (found := re.fullmatch(r"cpu|cuda(?::(\d+))?", name, re.ASCII)):
        raise RunConfigError(f"device {name!r}: cpu, cuda or cuda:N is needed")
    if name == "cpu":
        return
    from torch import cuda  # it takes seconds

    if not cuda.is_available():
        raise RunConfigError(f"device {name!r}: no GPU is available here; give --device cpu")
    if int(found[1] or 0) >= cuda.device_count():
        raise RunConfigError(f"device {name!r}: there are {cuda.device_count()} GPUs here, counted from 0")


def set_threads() -> None:
    """Let the networks use as many threads as PARCELWATCH_MONITOR_THREADS says; a command that imports them by itself calls it."""
    import torch

    from monitor.settings import MonitorSettings

    torch.set_num_threads(MonitorSettings().threads)


@contextmanager
def session(device: str) -> Iterator[Session]:
    """This process alone, or as one of those that torchrun started, each GPU with its own.

    Raises:
        RunConfigError: no such device.
        ProcessLost: another of the processes ended, on which torchrun sends SIGTERM to this one; or somebody else sent it.
    """
    import torch
    from torch import distributed

    from models.classifier.fitting import Session

    require_device(device)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    own = torch.device(device)
    if world == 1:
        yield Session(own)
        return
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        require_device(str(own))
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        yield Session(own, rank, world)
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise ProcessLost(_LOST) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        distributed.destroy_process_group()


_LOST = (
    "the training was stopped, or another of its processes ended; the same command goes on from the last whole epoch"
)


def _stopped(_signal: int, _frame: FrameType | None) -> None:
    raise ProcessLost(_LOST)
