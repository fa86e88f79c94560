"""The store's schema, brought to a revision."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import migrations


def upgrade(dsn: str, revision: str = "head") -> None:
    """Bring the database at `dsn` up to `revision`, in one transaction."""
    _run(dsn, command.upgrade, revision)


def downgrade(dsn: str, revision: str) -> None:
    """Bring the database at `dsn` down to `revision` (`base` removes everything)."""
    _run(dsn, command.downgrade, revision)


def _run(dsn: str, act: object, revision: str) -> None:
    from db.connect import engine  # here, so that reading this module needs no database settings

    assert callable(act)
    with engine(dsn).begin() as connection:
        # Two services starting at once must not migrate twice: the second waits here, then finds nothing to do.
        connection.execute(sa.text("select pg_advisory_xact_lock(hashtext('parcelwatch.migrate'))"))
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        act(config, revision)
