"""Errors of the monitor's commands, made for people.

NotFound     what was asked for is not stored, or not one thing: the caller shows the line and stops
NothingWorks every parcel of a batch fails: the worker's loop waits, an operator mends
PolicyError  a policy cannot be read or put in force: the caller shows the line and stops
CannotWatch  a model needs a whole season at once: the caller shows the line and stops
"""

from terminal.errors import UserError


class NotFound(UserError):
    """Nothing, or more than one thing, answers to what was asked for."""


class PolicyError(UserError):
    """A policy's file is wrong, or what is asked of a policy cannot be done."""


class CannotWatch(UserError):
    """A model whose states cannot be updated through a season was activated for one."""


class NothingWorks(Exception):
    """Several parcels failed one after the other and none did not: a broken model or server, not a poisoned parcel."""
