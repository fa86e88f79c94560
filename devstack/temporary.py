"""Stacks in temporary folders, gone at the end however it comes; what a killed process left is removed by the next."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from devstack import folders
from devstack.archive import Progress
from devstack.errors import StackError
from devstack.stack import Stack, down, up

_PREFIX = "parcelwatch-stack-"


@contextmanager
def temporary_stack(environ: Mapping[str, str], progress: Progress) -> Iterator[Stack]:
    """Yield a fast stack in a temporary folder, gone at the end: also after an error, Ctrl-C, SIGTERM or `sys.exit`."""
    with temporary_home() as home:
        yield up(home, environ, progress, fast=True)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Yield an empty home folder; at the end it goes, with the servers that any process brought up in it.

    What a process killed outright left behind is removed by the next call: each holds a lock on its folder,
    which the kernel drops with it.
    """
    _remove_abandoned()
    home = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    home.chmod(0o711)
    with (home / ".owner").open("w") as lock, _terminated_as_interrupted():
        fcntl.flock(lock, fcntl.LOCK_EX)
        atexit.register(_discard, home)
        try:
            yield home
        finally:
            _discard(home)
            atexit.unregister(_discard)


def _discard(home: Path) -> None:
    """Stop and remove a temporary stack."""
    down(home, delete=True)
    shutil.rmtree(home, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove the temporary stacks of this user whose process is gone.

    Anyone may put anything under such a name: only a folder that this user alone can write to is entered.
    """
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            folders.require_own(home, home)
            with os.fdopen(folders.open_plain(home / ".owner", os.O_RDWR), "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(home)
        except (OSError, StackError):  # in use, another user's, or just removed by someone else
            continue


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that it cleans up as Ctrl-C does; a handler already set stays."""
    is_main = threading.current_thread() is threading.main_thread()
    is_ours = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    if is_ours:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if is_ours and signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
