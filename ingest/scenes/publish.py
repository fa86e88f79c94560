"""Publishing: a found scene into the ledger, then onto the topic; each once, whatever dies in between.

A scene that the ledger knows is not published again, so finders may find it twice. One that was entered but that the topic
never confirmed goes out with the next scenes, and a worker finds it in the ledger even so.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from db import scenes as ledger
from db.connect import Engine
from db.scenes import NewScene
from ingest.errors import BrokerUnavailable, DeliveryFailed
from ingest.scenes.record import CONTENT_TYPE, FoundScene, datatake_named, pass_key
from ingest.scenes.settings import scenes_topic
from ingest.stream.producer import Sender
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics

_AT_ONCE: Final = 500
"""Records sent before the broker is waited for: 20 MB of items with all their assets."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of found scenes: entered now, or known before."""

    new: int
    known: int


class ScenePublisher:
    """Enters scenes into the ledger and sends them; connected to the broker on first use.

    Args:
        engine: the database, migrated.
        bootstrap: host:port of the broker, several separated by commas.
        settings: names and sizes of topics.
        now: the time, aware.
    """

    def __init__(self, engine: Engine, bootstrap: str, settings: IngestSettings, now: Callable[[], datetime]) -> None:
        self._engine, self._bootstrap, self._settings, self._now = engine, bootstrap, settings, now
        self._topic = scenes_topic(settings)
        self._sender: Sender | None = None

    def publish(self, found: Iterable[FoundScene], or_mended: bool = False) -> Published:
        """Return when the broker has every new one.

        Args:
            or_mended: those that failed, or whose item was changed at its place, count as new: read as they were found now.

        Raises BrokerUnavailable, DeliveryFailed: they are in the ledger then, and go out with the next call.
        """
        scenes = {scene.scene_id: scene for scene in found}
        new = enter(self._engine, scenes.values(), self._now(), or_mended)
        self._send_unpublished()
        return Published(len(new), len(scenes) - len(new))

    def close(self) -> None:
        """Let go of the broker."""
        sender, self._sender = self._sender, None
        if sender:
            sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send_unpublished(self) -> None:
        """Send what is entered and not confirmed. Raises as `publish`."""
        while records := self._unpublished():
            try:
                self._send(records)
            except (BrokerUnavailable, DeliveryFailed):
                self.close()  # connects anew next time
                raise
            with self._engine.begin() as connection:
                ledger.mark_published(connection, [str(record["scene_id"]) for record in records], self._now())

    def _unpublished(self) -> list[Mapping[str, Any]]:
        with self._engine.begin() as connection:
            return ledger.unpublished(connection, _AT_ONCE)

    def _send(self, records: Sequence[Mapping[str, Any]]) -> None:
        sender = self._connected()
        for record in records:
            value = json.dumps(record, separators=(",", ":")).encode()
            key = pass_key(str(record["scene_id"])).encode()
            sender.send(self._topic, value, [("content-type", CONTENT_TYPE.encode())], key=key)
        sender.flush()

    def _connected(self) -> Sender:
        if self._sender is None:
            topics = Topics(self._bootstrap)
            topics.ensure({self._topic: self._settings.partitions})
            topics.close()
            self._sender = Sender(self._bootstrap, self._settings.producer_bytes)
        return self._sender


def enter(engine: Engine, scenes: Iterable[FoundScene], now: datetime, or_mended: bool = False) -> list[str]:
    """Enter scenes into the ledger; return the ids of those that it did not know (or that failed)."""
    rows = [
        NewScene(
            scene.scene_id, scene.sensor, json.loads(scene.to_json()), datatake_named(scene.scene_id), scene.found_at
        )
        for scene in scenes
    ]
    with engine.begin() as connection:
        return ledger.enter(connection, rows, now, or_mended)
