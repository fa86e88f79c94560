"""Where the servers are: the environment first, else the embedded stack that is running."""

import os
from dataclasses import dataclass

from pydantic_settings import BaseSettings, SettingsConfigDict

from db.connect import DatabaseUnavailable
from db.embedded import folders, stack


class ServerSettings(BaseSettings):
    """Addresses from the environment: PARCELWATCH_DSN and PARCELWATCH_BOOTSTRAP."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_", frozen=True, extra="ignore")

    dsn: str | None = None
    """A libpq connection string or URL of a TimescaleDB with PostGIS."""
    bootstrap: str | None = None
    """host:port of a Kafka broker, several separated by commas."""


@dataclass(frozen=True)
class Broker:
    """A broker, and which life of it this is: the embedded one keeps records in memory, so its offsets restart."""

    bootstrap: str
    cluster_id: str | None
    """None where the broker itself says it (a Kafka cluster)."""


def resolve_dsn() -> str:
    """The database to use.

    Raises:
        DatabaseUnavailable: nothing is set and no embedded stack runs.
    """
    dsn = ServerSettings().dsn
    if dsn is not None:
        return dsn
    running = _running()
    if running is None:
        raise DatabaseUnavailable("no database: set PARCELWATCH_DSN, or start one with `parcelwatch stack up`")
    return running.dsn


def resolve_broker() -> Broker:
    """The broker to use.

    Raises:
        DatabaseUnavailable: nothing is set and no embedded stack runs.
    """
    bootstrap = ServerSettings().bootstrap
    running = _running()
    if bootstrap is not None:
        is_ours = running is not None and running.bootstrap == bootstrap
        return Broker(bootstrap, running.cluster_id if is_ours and running is not None else None)
    if running is None:
        raise DatabaseUnavailable("no broker: set PARCELWATCH_BOOTSTRAP, or start one with `parcelwatch stack up`")
    return Broker(running.bootstrap, running.cluster_id)


def _running() -> stack.Stack | None:
    return stack.status(folders.home_folder(os.environ, os.geteuid() == 0)).stack
