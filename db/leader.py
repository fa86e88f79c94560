"""The lead among many monitors: an advisory lock, held as long as its holder's connection."""

import psycopg
import sqlalchemy as sa

from db.connect import connect
from db.errors import DatabaseUnavailable


class Leadership:
    """One process's claim to lead; whoever holds the lock leads, and loses it with its connection."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def is_held(self) -> bool:
        """Return whether this process leads, trying to take the lead if nobody has it.

        Raises:
            DatabaseUnavailable: the database is away, and the lead with it.
        """
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._dsn, autocommit=True)
            row = self._connection.execute(
                "select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted)"
                " or pg_try_advisory_lock(hashtext('parcelwatch.leader'))"
            ).fetchone()
            return bool(row and row[0])
        except psycopg.OperationalError as error:
            self.release()
            raise DatabaseUnavailable(f"database: {str(error).strip().splitlines()[0]}") from error

    def release(self) -> None:
        """Let go of the lead."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Presence:
    """A process's being there under a name, which others of that name notice; it ends with its connection."""

    def __init__(self, engine: sa.Engine, name: str) -> None:
        """Take a connection of the engine, outside of any transaction, until `release`."""
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        held = self._connection.execute(sa.text("select pg_try_advisory_lock(hashtext(:name))"), {"name": name})
        self.is_first = bool(held.scalar_one())
        """Nobody else was there."""

    def release(self) -> None:
        """Leave; the connection is closed, not pooled: a lock outlives a transaction."""
        self._connection.invalidate()
        self._connection.close()
