"""One hand-written SQL script, run as it is."""

from pathlib import Path

import psycopg
from alembic import op

SQL_FOLDER = Path(__file__).parent / "sql"


def run(name: str) -> None:
    """Runs `sql/NAME.sql` on the migration's connection, past SQLAlchemy: the script may hold `%` and `:`."""
    _connection().execute((SQL_FOLDER / f"{name}.sql").read_bytes())


def has_community_licence() -> bool:
    """Says whether columnstore and policies may be used (TimescaleDB community edition)."""
    row = _connection().execute("select current_setting('timescaledb.license', true)").fetchone()
    return row is not None and row[0] == "timescale"


def _connection() -> psycopg.Connection[tuple[object, ...]]:
    connection = op.get_bind().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection
