"""Stacks of one run: in temporary folders, gone at the end however it comes; or kept, stopped, for another run to look at."""

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
from devstack.errors import FolderUnavailable, StackError
from devstack.stack import Stack, down, up

_PREFIX = "parcelwatch-stack-"
_COMPLETE = "complete"
"""A file in the home of a kept stack whose run came to its end."""


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


@contextmanager
def kept_stack(home: Path, environ: Mapping[str, str], progress: Progress) -> Iterator[Stack]:
    """Yield a fast stack with an empty database in a folder; at the end it stays there, stopped. After an error it goes.

    Raises:
        FolderUnavailable: another process has the folder.
    """
    with _owned(home):
        (home / _COMPLETE).unlink(missing_ok=True)
        down(home, delete=True)  # what was kept before, or a killed process left
        home.mkdir(exist_ok=True)
        try:
            yield up(home, environ, progress, fast=True)
        except BaseException:
            down(home, delete=True)
            raise
        down(home)
        (home / _COMPLETE).touch()


def is_kept(home: Path) -> bool:
    """Return whether a folder has a stack whose run came to its end."""
    return (home / _COMPLETE).exists()


@contextmanager
def kept_again(home: Path, environ: Mapping[str, str], progress: Progress) -> Iterator[Stack]:
    """Yield the stack that was kept in a folder; it is stopped at the end.

    Raises:
        StackError: none is kept there; FolderUnavailable: another process has the folder.
    """
    if not is_kept(home):
        raise StackError(f"nothing is kept in {home}")
    with _owned(home):
        try:
            yield up(home, environ, progress, fast=True)
        finally:
            down(home)


@contextmanager
def _owned(home: Path) -> Iterator[None]:
    """Hold a folder, made if missing; the kernel lets go of it if this process dies."""
    try:
        for path in (home.parent, home):
            if not path.exists():
                path.mkdir(parents=True)
                path.chmod(0o711)  # the servers' account passes through and lists nothing
        folders.require_own(home, home)
        handle = folders.open_plain(home / ".owner", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise FolderUnavailable(f"{home} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderUnavailable(f"{home} is in use by another process") from None
        with _terminated_as_interrupted():
            yield


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
