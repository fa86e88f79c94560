"""Settings of the workers that cut scenes, from the environment (PARCELWATCH_SCENES_...), built once at the command line."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingest.stream.settings import IngestSettings


class SceneSettings(BaseSettings):
    """How scenes are claimed, tried again and cut."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_SCENES_", frozen=True, extra="ignore")

    group_id: str | None = None
    """The consumer group on a Kafka cluster; None takes every partition by assignment (the ledger still shares the work)."""
    lease_s: Annotated[float, Field(gt=0)] = 120.0
    """How long a scene stays with a worker that says nothing; renewed every third of it while the scene is cut."""
    tries: Annotated[int, Field(ge=1)] = 5
    """Attempts before a scene, or an alert's pictures from before and after, wait for a person."""
    first_wait_s: Annotated[float, Field(ge=0)] = 60.0
    """Before the second attempt; five times as long before each later one: 1, 5, 25, 125 min, so that five attempts
    outlast a half-written upload, a restart and an evening's maintenance."""
    index_folder: Path | None = None
    """Where indexes of parcels are kept; None: `index` in the folder that PARCELWATCH_CACHE names."""

    folders: tuple[Path, ...] = ()
    """Folders whose files items may name, beside those given to `scenes add` and `scenes watch`."""
    hosts: tuple[str, ...] = ()
    """Hosts whose files items may name (host, host:port, *.domain, s3://bucket), beside those of the profiles."""

    @property
    def lease(self) -> timedelta:
        """How long a scene stays with a worker that says nothing."""
        return timedelta(seconds=self.lease_s)

    def wait(self, attempts: int) -> timedelta | None:
        """Return the wait before the next attempt after so many; None: no more by itself."""
        return None if attempts >= self.tries else timedelta(seconds=self.first_wait_s * 5 ** (attempts - 1))


def scenes_topic(settings: IngestSettings) -> str:
    """Return the topic of found scenes."""
    return f"{settings.topic_prefix}.scenes"
