"""Where a training runs: its device, refused before anything is read, and its threads."""

import re

from training.errors import RunConfigError


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
