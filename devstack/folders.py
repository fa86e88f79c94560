"""Where the embedded stack keeps its programs and its data, and who runs its servers.

Programs are shared by all stacks of a user (the cache); each stack has a home of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError


@dataclass(frozen=True)
class Account:
    """The user that servers run as; `uid` None: whoever runs this process."""

    uid: int | None = None
    gid: int | None = None


def home_folder(environ: Mapping[str, str], is_root: bool) -> Path:
    """Return the stack's home: `PARCELWATCH_HOME`, else /var/lib for root, else the user's data folder (XDG)."""
    if chosen := environ.get("PARCELWATCH_HOME"):
        return Path(chosen).expanduser().resolve()
    if is_root:
        return Path("/var/lib/parcelwatch")
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "parcelwatch"


def demonstration_folder(environ: Mapping[str, str], is_root: bool) -> Path:
    """Return where the last demonstration keeps its servers' data: beside those of the stack."""
    return home_folder(environ, is_root) / "demonstration"


def cache_folder(environ: Mapping[str, str], is_root: bool) -> Path:
    """Return the programs' folder: `PARCELWATCH_CACHE`, else /var/cache for root, else the user's cache folder (XDG).

    Root's own home is not used: its servers run as another user, who could not read it.
    """
    if chosen := environ.get("PARCELWATCH_CACHE"):
        return Path(chosen).expanduser().resolve()
    if is_root:
        return Path("/var/cache/parcelwatch")
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parcelwatch"


def server_account(is_root: bool) -> Account:
    """Return the account of the servers: PostgreSQL refuses to run as root, so root's run as `postgres` or `nobody`."""
    if not is_root:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StackError("servers do not run as root, and this machine has no user `postgres` or `nobody` to run them")


def owner(path: Path) -> Account:
    """Return the account that owns an existing folder, None if it is this process's own."""
    found = path.stat()
    return Account() if found.st_uid == os.geteuid() else Account(found.st_uid, found.st_gid)


def require_own(home: Path, folder: Path) -> None:
    """Check that nobody else can put anything into `folder`, the stack's in `home`: links there would be followed.

    Errors: StackError where either belongs to another user (root may own the home), or others may write to it.
    """
    elsewhere = "set PARCELWATCH_HOME to a folder of your own"
    for path, owners in ((home, (0, os.geteuid())), (folder, (os.geteuid(),))):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StackError(f"{path} is no folder of its own: {elsewhere}")
        if found.st_uid not in owners:
            raise StackError(f"{path} belongs to user id {found.st_uid}: {elsewhere}, or be that user")
        is_sticky = path is home and found.st_mode & stat.S_ISVTX  # such as /tmp: nobody replaces another's folder
        if found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if path is folder else 0)) and not is_sticky:
            raise StackError(f"{path} may be written by others: {elsewhere}, or take that right away (chmod go-w)")


def open_plain(path: Path, flags: int) -> int:
    """Return a descriptor of a plain file; with O_CREAT it is made, readable by all and writable by its owner.

    Links are not followed and pipes not waited for. Errors: StackError where it is anything else; OSError.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StackError(f"{path} is no plain file: remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StackError(f"{path} is no plain file: remove it")
    return handle


def make_for(account: Account, folder: Path) -> None:
    """Make a folder that belongs to the servers' account."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account.uid is not None and account.gid is not None:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def write_for(account: Account, path: Path, text: str) -> None:
    """Write a file that the servers' account alone can read, anew: in its folder, it could have put a link there."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as handle:
        handle.write(text)
        if account.uid is not None and account.gid is not None:
            os.fchown(handle.fileno(), account.uid, account.gid)


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One process at a time in a folder, made if missing; the kernel drops the lock if its holder dies.

    `on_wait` is called if another process holds it. Errors: StackError where the lock file is a link.
    """
    path = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_plain(path, os.O_RDWR | os.O_CREAT), "r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The last holder may have deleted the folder, and with it the file that this lock is on.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle.fileno())):
                yield
                return
