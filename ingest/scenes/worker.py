"""The worker: takes scenes from the topic and the ledger, cuts them, sends their observations, and keeps the outcome in the ledger.

    topic ──► entered ──► claimed ──► begun ──► cut ──► sent, confirmed ──► ended ──► offset
                             ▲                                                │
                             └── ledger: due again, left by a dead worker ◄───┘ failed, and it may pass

Any number of workers share the work: a scene is one worker's for as long as it renews its lease. Whatever dies in between,
the next attempt sends the same observations under the same keys, and the store keeps each once.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from db import chips, scenes
from db.chips import NewChip
from db.connect import Engine
from db.errors import CONNECTION_ERRORS
from db.keys import Scene as StoredScene
from db.scenes import Claim
from ingest.errors import BrokerRefuses, BrokerUnavailable, DeliveryFailed, IngestError, StreamReplaced
from ingest.imagery.errors import SceneError
from ingest.imagery.scene import Scene
from ingest.imagery.settings import ImagerySettings
from ingest.scenes import chip_cutting, cutting
from ingest.scenes.access import unsigned
from ingest.scenes.begin import Begun, InTheWay, Superseded, begin
from ingest.scenes.cutting import CutScene, StoreBehind
from ingest.scenes.opening import Opener
from ingest.scenes.publish import enter
from ingest.scenes.record import FoundScene
from ingest.scenes.settings import SceneSettings
from ingest.scenes.topic import ScenesTopic
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings

log = logging.getLogger(__name__)

End = Literal["cut", "empty", "superseded", "failed", "put_back", "lost"]
Ends = Counter[End]

_POLL_S: Final = 0.25
_SOON: Final = timedelta(seconds=2)
"""Before a scene that another one stands in the way of is tried again (chosen as a few percent of a scene's time)."""
_LONGEST_WAIT_S: Final = 30.0
_ALERTS_AT_ONCE: Final = 50
"""Alerts that are given pictures from before them between two scenes (chosen: some seconds of work)."""
_CATCH_UP_EVERY: Final = timedelta(seconds=30)
_PRUNED_EVERY: Final = timedelta(days=1)
_ROWS_AT_ONCE: Final = 10_000
"""Observations sent before the broker is waited for: 14 MB with their pixel sets, less than the client queues."""


class LeaseLost(IngestError):
    """Another worker has the scene by now: leave it alone."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a worker."""

    ingest: IngestSettings
    scenes: SceneSettings
    imagery: ImagerySettings
    index_folder: Path | None


class Worker:
    """Cuts scenes; one thread's.

    Args:
        engine: the database, migrated.
        bootstrap: host:port of the broker, several separated by commas.
        settings: how.
        opener: opens scenes.
        name: what the ledger calls this worker; no two may share it.
        now: the time, aware.
    """

    def __init__(
        self, engine: Engine, bootstrap: str, settings: Settings, opener: Opener, name: str, now: Callable[[], datetime]
    ) -> None:
        self._engine, self._bootstrap, self._settings, self._opener = engine, bootstrap, settings, opener
        self._name, self._now = name, now
        self._topic: ScenesTopic | None = None
        self._producer: ObservationProducer | None = None
        self._prune_at = self._catch_up_at = now()
        self.ends: Ends = Counter()

    def run(self, stop: threading.Event, until_idle: bool = False) -> Ends:
        """Work until `stop`, or until nothing is left that could be tried now; wait for a broker or database that
        goes away. Raises BrokerUnavailable or DatabaseUnavailable when one is away at the start."""
        self._connected()
        wait_s = 1.0
        while not stop.is_set():
            try:
                if not self._step(stop) and until_idle and self._is_idle():
                    break
                wait_s = 1.0
            except StreamReplaced as error:
                log.warning("%s; beginning with the new topic", str(error))
                self.close()
            except (BrokerUnavailable, DeliveryFailed, *CONNECTION_ERRORS) as error:
                log.warning("waiting %.0f s, the scene in hand comes again: %s", wait_s, str(error).splitlines()[0])
                self.close()
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        return self.ends

    def close(self) -> None:
        """Let go of the broker."""
        topic, self._topic, producer, self._producer = self._topic, None, self._producer, None
        if topic:
            topic.close()
        if producer:
            producer.close()

    def _connected(self) -> tuple[ScenesTopic, ObservationProducer]:
        if self._topic is None:
            ingest, scenes_ = self._settings.ingest, self._settings.scenes
            self._topic = ScenesTopic(self._engine, self._bootstrap, ingest, scenes_, self._now)
        if self._producer is None:
            self._producer = ObservationProducer(self._bootstrap, self._settings.ingest)
        return self._topic, self._producer

    def _step(self, stop: threading.Event) -> bool:
        """Work on what the topic brings, else on what is due in the ledger; False when neither has anything."""
        topic, _ = self._connected()
        records = topic.poll(0.0) or topic.poll(_POLL_S)
        for record in records:
            if stop.is_set():
                return True
            if record.scene is not None:
                enter(self._engine, [record.scene], self._now())
                self._work(record.scene.scene_id)
            topic.done(record)
        return bool(records) or self._work(None) or self._catch_up()

    def _catch_up(self) -> bool:
        """Between scenes, now and then: cut the pictures that alerts lack, remove old ones. Return whether more may be lacking."""
        settings, now = self._settings.imagery, self._now()
        if now >= self._prune_at:
            self._prune_at = now + _PRUNED_EVERY
            with self._engine.begin() as connection:
                chips.prune(connection, now - timedelta(days=settings.chip_days), now)
        if not settings.chips or now < self._catch_up_at:
            return False
        tried = chip_cutting.catch_up(
            self._engine, self._opener, settings, self._settings.scenes.wait, now, _ALERTS_AT_ONCE
        )
        self._catch_up_at = now + (_CATCH_UP_EVERY if tried < _ALERTS_AT_ONCE else timedelta())
        return tried == _ALERTS_AT_ONCE

    def _is_idle(self) -> bool:
        """Return whether nothing is left but what others are at, or what waits for a later attempt or a person."""
        topic, _ = self._connected()
        with self._engine.begin() as connection:
            return topic.is_at_end() and not scenes.is_any_due(connection, self._now() + _SOON)

    def _work(self, scene_id: str | None) -> bool:
        """Take one scene that is due and end it somehow; False when there is none."""
        now = self._now()
        with self._engine.begin() as connection:
            held = scenes.claim(connection, self._name, now + self._settings.scenes.lease, now, scene_id)
        if held is None:
            return False
        try:
            with self._lease(held) as check:
                end = self._cut(held, check)
        except LeaseLost as error:
            log.warning("%s", error)
            end = "lost"
        except StoreBehind as error:
            end = self._put_back(held, str(error), self._now() + 5 * _SOON)
        except SceneError as error:
            end = self._failed(held, error.cause, str(error), error.may_pass)
        except (BrokerRefuses, BrokerUnavailable, DeliveryFailed):
            self._put_back(held, None, self._now())
            raise
        except CONNECTION_ERRORS:
            raise  # the lease ends by itself
        except Exception as error:  # the outermost loop: one scene's surprise must not stop the others
            log.exception("scene %s: a surprise", held.scene_id)
            message = f"scene {held.scene_id}: unexpected {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            end = self._failed(held, "unexpected", message, False)
        self.ends[end] += 1
        return True

    def _cut(self, held: Claim, check: Callable[[], None]) -> End:
        """Open, begin, cut, send and end a scene. Raises SceneError and what stops an attempt."""
        if held.attempt > self._settings.scenes.tries:
            raise SceneError(
                held.scene_id,
                "unreadable",
                f"{held.attempt - 1} workers vanished while they cut it; check their memory and logs, then retry",
            )
        found = FoundScene.from_record(held.record)
        with self._opener.reading(found):
            opened = self._opener.opened(found)
            begun = begin(self._engine, self._opener, held, opened, self._now)
            if isinstance(begun, InTheWay):
                return self._put_back(held, f"waits for {begun.scene_id}", self._now() + _SOON)
            if isinstance(begun, Superseded):
                return "superseded"
            result = cutting.cut(
                self._engine,
                opened,
                begun,
                self._settings.imagery,
                self._settings.index_folder,
                self._settings.ingest.season_margin_days,
            )
            pictures = chip_cutting.of_cut_scene(self._engine, opened, result, self._settings.imagery)
        check()
        self._keep(held, result)
        self._send(result)
        return self._end(held, opened.scene, begun, result, pictures)

    def _keep(self, held: Claim, result: CutScene) -> None:
        """Keep what is about to be sent, so that a later attempt knows it. Raises LeaseLost."""
        if result.table is None or result.sent is None:
            return
        highest = max(result.table["revision"].to_pylist(), default=0)
        with self._engine.begin() as connection:
            if not scenes.sends(connection, held, result.sent, highest):
                raise LeaseLost(f"scene {held.scene_id}: another worker has it by now")

    def _send(self, result: CutScene) -> None:
        """Return when the broker has every observation."""
        if result.table is None:
            return
        _, producer = self._connected()
        for start in range(0, result.table.num_rows, _ROWS_AT_ONCE):
            producer.send(result.table.slice(start, _ROWS_AT_ONCE))
            producer.flush()

    def _end(self, held: Claim, scene: Scene, begun: Begun, result: CutScene, pictures: Sequence[NewChip]) -> End:
        at = begun.place.observed_at
        stored = StoredScene(
            held.scene_id, scene.sensor, scene.platform, scene.relative_orbit, at, max(scene.available_at, at)
        )
        state: Literal["cut", "empty"] = "empty" if result.is_empty else "cut"
        with self._engine.begin() as connection:
            is_ours = scenes.end(
                connection,
                held,
                state,
                stored,
                result.counts,
                begun.place.precedence.replaces,
                result.note,
                self._now(),
            )
            if is_ours:
                chips.store(connection, stored, pictures, self._now())
        if not is_ours:
            raise LeaseLost(f"scene {held.scene_id}: another worker has it by now")
        counts = result.counts
        log.info("scene %s: %s, %d of %d parcels emitted", held.scene_id, state, counts.emitted, counts.expected)
        return state

    def _failed(self, held: Claim, cause: str, message: str, may_pass: bool) -> End:
        wait = self._settings.scenes.wait(held.attempt) if may_pass else None
        now = self._now()
        line = unsigned(message)
        log.warning("%s%s", line, f" (again in {wait})" if wait else "")
        with self._engine.begin() as connection:
            is_ours = scenes.fail(connection, held, cause, line, now + wait if wait else None, now)
        return "failed" if is_ours else "lost"

    def _put_back(self, held: Claim, why: str | None, next_try_at: datetime) -> End:
        with self._engine.begin() as connection:
            scenes.put_back(connection, held, why and unsigned(why), next_try_at)
        return "put_back"

    @contextmanager
    def _lease(self, held: Claim) -> Iterator[Callable[[], None]]:
        """Renew the lease meanwhile; give a check that raises LeaseLost where it ended."""
        over = threading.Event()

        def renew() -> bool:
            with self._engine.begin() as connection:
                return scenes.renew(connection, held, self._now() + self._settings.scenes.lease)

        def keep() -> None:
            while not over.wait(self._settings.scenes.lease_s / 3):
                try:
                    if not renew():
                        return
                except CONNECTION_ERRORS as error:  # it may come back before the lease ends
                    log.warning("lease of %s: %s", held.scene_id, str(error).splitlines()[0])

        def check() -> None:
            if not renew():
                raise LeaseLost(f"scene {held.scene_id}: another worker has it by now")

        keeper = threading.Thread(target=keep, name=f"lease of {held.scene_id}", daemon=True)
        keeper.start()
        try:
            yield check
        finally:
            over.set()
            keeper.join()
