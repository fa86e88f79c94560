"""The scenes topic as a worker sees it: records from where the database says, and bad ones sent to the dead letters.

Partitions are taken by assignment, or as a member of a group; either way the offsets come from the database. A record
whose scene is in the ledger needs no second reading: the ledger is what a lost worker's successor goes by.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from db import dead_letters as stored
from db import offsets
from db.connect import Engine
from db.dead_letters import WHOLE_MESSAGE, DeadLetter
from ingest.errors import MessageRejected, StreamReplaced
from ingest.scenes.record import CONTENT_TYPE, FoundScene
from ingest.scenes.settings import SceneSettings, scenes_topic
from ingest.stream import dead_letters, record_batches
from ingest.stream.connection import broker_errors, client_options, connecting, group_options
from ingest.stream.membership import Member
from ingest.stream.producer import Sender
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics
from ingest.stream.validation import Message

log = logging.getLogger(__name__)

_AT_ONCE: Final = 10
"""Records taken at once: few, so that others of the group have some too."""
_LONGEST_SCENE_MS: Final = 60 * 60 * 1000
"""A member of a group that is at one scene for longer counts as dead (the whole of a large tile takes a minute)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the topic: where it is, and its scene (None where it describes none and was rejected)."""

    partition: int
    offset: int
    scene: FoundScene | None


class ScenesTopic(Member):
    """A connection to the scenes topic; closed and opened anew after any trouble."""

    def __init__(
        self,
        engine: Engine,
        bootstrap: str,
        settings: IngestSettings,
        scenes: SceneSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Connect and make the topic where it is missing. Raises BrokerUnavailable."""
        super().__init__()
        self._engine, self._bootstrap, self._settings, self._now = engine, bootstrap, settings, now
        self._name = scenes_topic(settings)
        self._topics = Topics(bootstrap)
        self._topics.ensure({self._name: settings.partitions, settings.dead_letter_topic: 1})
        self._topic = self._topics.describe([self._name])[self._name]
        with connecting(bootstrap):
            self._kafka = KafkaConsumer(
                **client_options(bootstrap),
                **group_options(scenes.group_id, settings.member, settings.session_seconds),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_poll_records=_AT_ONCE,
                max_poll_interval_ms=_LONGEST_SCENE_MS,
                fetch_max_wait_ms=25,
                max_partition_fetch_bytes=settings.max_message_bytes,
            )
            record_batches.bound(self._kafka, settings.max_batch_bytes, settings.flush_bytes, settings.accept_gap)
            if scenes.group_id is None:
                partitions = [TopicPartition(self._name, number) for number in range(self._topic.n_partitions)]
                self._kafka.assign(partitions)
                self._seek(partitions)
            else:
                record_batches.keep_fetching(self._kafka)
                self._kafka.subscribe(topics=[self._name], listener=self)

    def poll(self, timeout_s: float) -> list[Record]:
        """Return the next records, none after `timeout_s`. Raises BrokerUnavailable, StreamReplaced."""
        with broker_errors("no scenes"):
            found = self._kafka.poll(timeout_ms=int(timeout_s * 1000))
        if self._failure is not None:
            raise self._failure
        if not found:
            return []
        self.verify()
        return [self._record(one) for of_partition in found.values() for one in of_partition]

    def done(self, record: Record) -> None:
        """Move the offset past a record whose scene the ledger holds."""
        with self._engine.begin() as connection:
            offsets.move(
                connection, self._topic.generation, self._name, record.partition, record.offset + 1, self._now()
            )

    def is_at_end(self) -> bool:
        """Return whether every record of the assigned partitions was polled."""
        with broker_errors("position"):
            ends = record_batches.stable_ends(self._kafka)
            return all(
                partition in ends and self._kafka.position(partition) >= ends[partition]
                for partition in self._kafka.assignment()
            )

    def verify(self) -> None:
        """Raise StreamReplaced if the topic is not the one that was opened."""
        if self._topics.describe([self._name])[self._name] != self._topic:
            raise StreamReplaced(f"topic {self._name} was made anew or got more partitions")

    def _seek(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        if not partitions:
            return {}
        bounds = self._topics.bounds(partitions)
        first = {partition.partition: bounds[partition][0] for partition in partitions}
        with self._engine.begin() as connection:
            begin = offsets.begin(connection, self._topic.generation, self._name, first, self._now())
        # Records that were deleted before they were read: publishers keep their scenes in the ledger.
        starts = {tp: max(begin[tp.partition], first[tp.partition]) for tp in partitions}
        for partition, offset in starts.items():
            self._kafka.seek(partition, offset)
        return starts

    def _record(self, record: ConsumerRecord) -> Record:
        message = record_batches.message_of(record)
        try:
            if message.fault:
                raise MessageRejected("malformed", message.fault)
            return Record(message.partition, message.offset, FoundScene.from_json(message.value))
        except MessageRejected as error:
            self._reject(message, error)
        except Exception as error:  # noqa: BLE001  # bytes from outside hold no worker, whatever they make a reader raise
            self._reject(message, MessageRejected("malformed", f"cannot be read: {type(error).__name__}: {error}"))
        return Record(message.partition, message.offset, None)

    def _reject(self, message: Message, why: MessageRejected) -> None:
        dead_letter = DeadLetter(
            self._topic.generation,
            self._name,
            message.partition,
            message.offset,
            WHOLE_MESSAGE,
            why.code,
            why.reason,
            CONTENT_TYPE,
            message.value,
            message.redriven_from,
        )
        log.warning(
            "%s/%s offset %s: %s; a dead letter", self._name, message.partition, message.offset, dead_letter.reason
        )
        sender = Sender(self._bootstrap, self._settings.producer_bytes)
        try:
            dead_letters.publish(sender, self._settings.dead_letter_topic, [dead_letter], self._settings.producer_bytes)
        finally:
            sender.close()
        with self._engine.begin() as connection:
            stored.add(connection, [dead_letter], self._now())
