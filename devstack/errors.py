"""Errors of the embedded stack, each with what the caller does about it.

StackError              show the message and stop: it says what is wrong and what to do
├── ProvisionError      the server's programs cannot be had on this machine: use other servers
├── ServerError         a server did not start or stop: the message names its log
└── FolderUnavailable   another process has the folder, or it cannot be written: use another
"""

from __future__ import annotations

from terminal.errors import UserError


class StackError(UserError, RuntimeError):
    """The embedded stack cannot do what was asked; one line for a person."""


class ProvisionError(StackError):
    """The server's programs could not be fetched or unpacked."""


class ServerError(StackError):
    """A server did not start, answer or stop."""


class FolderUnavailable(StackError):
    """A folder is in use, or not ours to write."""
