"""The lead among many monitors: an advisory lock that lives as long as its holder's connection."""

import psycopg

from db.connect import DatabaseUnavailable, connect


class Leadership:
    """One process's claim to lead; whoever holds the lock leads, and loses it with its connection."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def is_held(self) -> bool:
        """Says whether this process leads, trying to take the lead if nobody has it.

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
        """Lets go of the lead."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
