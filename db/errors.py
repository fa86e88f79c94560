"""Errors of the database: what they mean and what the caller does.

DatabaseUnavailable   no connection could be had: the caller waits and tries again, nothing was written
InvalidAddress        the connection string cannot be used: shown, nothing is tried
DATABASE_ERRORS       all that SQLAlchemy and the driver raise; `is_away` says whether waiting may help
REFUSED_VALUES        of values, on their way in, that they cannot be; never that something is away
CONNECTION_ERRORS     the connection broke, or could not be made
"""

from typing import Final

import psycopg
import sqlalchemy as sa

from terminal.errors import UserError


class DatabaseUnavailable(UserError):
    """No connection could be had; the caller waits and tries again, nothing was written."""


class InvalidAddress(UserError, ValueError):
    """The connection string cannot be used; the message repeats nothing of it, since any part may be of the password."""


DATABASE_ERRORS: Final = (sa.exc.DBAPIError, psycopg.Error)
REFUSED_VALUES: Final = (sa.exc.DataError, psycopg.DataError, psycopg.errors.CheckViolation)
CONNECTION_ERRORS: Final = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    DatabaseUnavailable,
)
_AWAY: Final = ("08", "57P", "25006", "53300")
"""SQLSTATEs of a server that cannot be had: connection exceptions, shutting down or starting up (57P01 to 57P05), read-only
(a standby, or the old primary after a failover), no connection left. Not 57014 (a time-out) and not 53100 (a full disk)."""


def is_away(error: BaseException) -> bool:
    """Return whether a database error means that the server cannot be had now, so that waiting and connecting anew may help.

    A time-out, a full disk or a broken statement is not that: the server answered.

    Args:
        error: what SQLAlchemy or psycopg raised.
    """
    if isinstance(error, DatabaseUnavailable):
        return True
    if isinstance(error, sa.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_away(error.orig))
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # raised by the client: the connection broke, or could not be made
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_AWAY)


def is_outrun(error: BaseException) -> bool:
    """Return whether another transaction was faster: nothing was written, and the same again works."""
    return isinstance(_cause(error), psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)


def first_line(error: BaseException) -> str:
    """Return what the driver said in its first line."""
    cause = _cause(error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def explained(error: BaseException) -> str | None:
    """Return what an error of the database means for a person, in one line; None where it is no such error or a defect of ours."""
    cause = _cause(error)
    if isinstance(cause, psycopg.ProgrammingError) and "does not exist" in str(cause):
        return "the database has no schema, or an old one: run `parcelwatch db upgrade`"
    return f"database: {first_line(error)}" if isinstance(error, sa.exc.OperationalError) else None


def _cause(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error
