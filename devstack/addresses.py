"""Where the servers are: the environment first, else the embedded stack that is running."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from db.connect import check_address
from db.errors import DatabaseUnavailable
from devstack import folders, process, stack


class ServerSettings(BaseSettings):
    """Addresses from the environment: PARCELWATCH_DSN and PARCELWATCH_BOOTSTRAP."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_", frozen=True, extra="ignore")

    dsn: str | None = None
    """A libpq connection string or URL of a TimescaleDB with PostGIS."""
    bootstrap: str | None = None
    """host:port of a Kafka broker, several separated by commas."""


@dataclass(frozen=True)
class Broker:
    """A broker and its generation: the embedded one keeps records in memory, so its offsets restart."""

    bootstrap: str
    cluster_id: str | None
    """None where the broker itself says it (a Kafka cluster)."""


def resolve_dsn() -> str:
    """Return the database to use.

    Raises:
        DatabaseUnavailable: nothing is set and no embedded database runs.
        InvalidAddress: what is set is no connection string.
    """
    dsn = ServerSettings().dsn
    if dsn is not None:
        check_address(dsn)
        return dsn
    running = stack.database_address(_home())  # also where the broker is down: reading needs none
    if running is None:
        raise DatabaseUnavailable("no database: set PARCELWATCH_DSN, or start one with `parcelwatch stack up`")
    return running


def resolve_broker() -> Broker:
    """Return the broker to use.

    Raises:
        DatabaseUnavailable: nothing is set and no embedded broker runs.
    """
    bootstrap = ServerSettings().bootstrap
    server = stack.status(_home()).broker
    running = None if server is None else Broker(f"{process.LOOPBACK}:{server.port}", server.cluster_id)
    if bootstrap is not None:
        return running if running is not None and running.bootstrap == bootstrap else Broker(bootstrap, None)
    if running is None:
        raise DatabaseUnavailable("no broker: set PARCELWATCH_BOOTSTRAP, or start one with `parcelwatch stack up`")
    return running


def _home() -> Path:
    return folders.home_folder(os.environ, os.geteuid() == 0)
