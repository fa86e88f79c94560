"""The consumer: poll, decode and validate, store; each batch once, whatever dies in between.

    Source.poll ── messages ──► validate ── rows and rejections ──► Store.write ── one transaction ──► database
        ▲                                                            │
        └──────────── offsets, from the database ◄───────────────────┘

The offsets that a batch begins with are checked in its transaction, so a consumer that lost its partitions unnoticed cannot
store a batch a second time; after any trouble the consumer begins again from what is committed.

One batch is stored on a second thread while the next is polled, decoded and validated. Between `_hand_over` and `_settle` that
thread alone touches the offsets, the counts and the sender; all else, the broker's clients above all, is the caller's.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import pyarrow as pa
from kafka import TopicPartition

from db import offsets
from db.connect import Connection, Engine
from db.dead_letters import DeadLetter
from db.errors import REFUSED_VALUES, DatabaseUnavailable, is_away
from db.leader import Presence
from db.offsets import Step
from ingest.errors import BrokerRefuses, BrokerUnavailable, DeliveryFailed, FencedOut, RecordsLost, StreamReplaced
from ingest.stream import dead_letters
from ingest.stream.metrics import Counts, summary
from ingest.stream.outage import LONGEST_WAIT_S, Outage
from ingest.stream.producer import Sender
from ingest.stream.settings import IngestSettings
from ingest.stream.source import Source, missing
from ingest.stream.store import Store
from ingest.stream.validation import Message, Validated, apart, validate_in_parts

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_REFUSED: Final = (*REFUSED_VALUES, pa.ArrowException, ArithmeticError, ValueError)
"""Errors of values on their way into the database; none of them means that something is away."""

_POLL_S: Final = 0.25
"""Longest wait for messages, and so for a stop or for the age of a batch to be noticed."""
_IDLE_CHECK_S: Final = 5.0
"""How often a silent broker is asked whether it is there: kafka-python keeps silent about one that is away."""
_REPORT_S: Final = 60.0


def should_flush(n_messages: int, n_bytes: int, age_s: float, settings: IngestSettings) -> bool:
    """Return whether a batch is due: full by messages or bytes, or old enough."""
    if not n_messages:
        return False
    return n_messages >= settings.flush_messages or n_bytes >= settings.flush_bytes or age_s >= settings.flush_seconds


class Consumer:
    """Stores what the observation topics bring; used by one thread, opened on first use, closed by `close`."""

    def __init__(self, engine: Engine, bootstrap: str, settings: IngestSettings, now: Clock) -> None:
        """Connect to nothing yet.

        Args:
            engine: the database, migrated.
            bootstrap: host:port of the broker, several separated by commas.
            settings: how to batch and validate.
            now: the time, aware; rows are recorded at it and "future" is measured by it.
        """
        self._engine, self._bootstrap, self._settings, self._now = engine, bootstrap, settings, now
        self._store = Store(settings, self._publish)
        self._source: Source | None = None
        self._sender: Sender | None = None
        self._starts: dict[TopicPartition, int] = {}
        """Committed offsets: where the batch in hand begins, once the one before is stored."""
        self._writer = ThreadPoolExecutor(1)
        self._storing: Future[None] | None = None
        """The part of a batch that is being stored; what it raised is raised by `_settle`."""
        self._presence: Presence | None = None
        self._seen: dict[tuple[str, TopicPartition], int] = {}
        """The farthest end that each partition of each generation of a topic was seen to have."""
        self._batch: list[Message] = []
        self._batch_bytes, self._begun = 0, 0.0
        self.counts: Counts = Counter()

    def run(self, stop: threading.Event) -> Counts:
        """Consume until `stop`, then commit the batch in hand; wait for a database or broker that is away.

        Raises what no waiting mends: BrokerRefuses, RecordsLost and TooManyRejected.
        """
        outage = Outage(stop)
        while not stop.is_set():
            try:
                self._consume(stop, outage)
            except FencedOut as error:
                self.counts["fenced"] += 1
                log.warning("%s; beginning again from the database's offsets", str(error))
                stop.wait(1.0)
            except StreamReplaced as error:
                log.warning("%s; beginning with the new topic", str(error))
            except DatabaseUnavailable as error:
                self.counts["database_waits"] += outage.wait("database", error)
            except (BrokerUnavailable, DeliveryFailed) as error:
                self.counts["broker_waits"] += outage.wait("broker", error)
        return self.counts

    def catch_up(self) -> Counts:
        """Consume what the topics hold now, up to their ends at this moment, and return what that was.

        Raises what `run` waits for; the next call begins again from what is committed.
        """
        before = self.counts.copy()
        try:
            source = self._opened()
            patience = time.monotonic() + LONGEST_WAIT_S
            while not source.knows_ends() and time.monotonic() < patience:
                self._take_and_flush(source, _POLL_S)
            ends = source.ends()  # the last stable offsets: behind them are transactions that are open
            while any(position < ends[partition] for partition, position in source.positions().items()):
                self._take_and_flush(source, _POLL_S)
            while self._take_and_flush(source, 0.0):  # the rest of a batch that was fetched
                pass
            self._flush(source)
        except BaseException:
            self.close()
            raise
        return self.counts - before

    def close(self) -> None:
        """Let go of the broker; a batch in hand is left to whoever consumes next."""
        self._let_go()
        presence, self._presence = self._presence, None
        if presence:
            presence.release()

    def _let_go(self) -> None:
        """Let go of the broker, to begin again from what is committed; what is being stored is first stored or undone."""
        self._writer.shutdown()  # what it raised comes again with its messages
        self._writer, self._storing = ThreadPoolExecutor(1), None
        source, self._source, sender, self._sender = self._source, None, self._sender, None
        self._batch, self._batch_bytes, self._starts = [], 0, {}
        if source:
            source.close()
        if sender:
            sender.close()

    def _consume(self, stop: threading.Event, outage: Outage) -> None:
        """Consume until `stop`; whatever is raised, the source is closed and nothing is in hand."""
        checked = reported = time.monotonic()
        counted_before = self.counts.copy()
        try:
            source = self._opened()
            self._warn_of_others()
            committed = self.counts["transactions"]
            while not stop.is_set():
                try:
                    self._take_and_flush(source, _POLL_S)
                except (BrokerRefuses, RecordsLost):
                    self._flush(source)  # what came before it
                    raise
                now = time.monotonic()
                if not self._batch and not self._storing and now - checked >= _IDLE_CHECK_S:
                    source.verify()
                    checked = now
                if checked == now or self.counts["transactions"] > committed:
                    committed, checked = self.counts["transactions"], now
                    outage.over()
                if now - reported >= _REPORT_S:
                    self._settle()
                    log.info("last minute: %s", summary(self.counts - counted_before))
                    counted_before, reported = self.counts.copy(), now
            self._flush(source)
        except BaseException:
            self._let_go()
            raise

    def _take_and_flush(self, source: Source, timeout_s: float) -> bool:
        """Poll once and begin to store the batch if it is due; False when no message came."""
        messages = source.poll(timeout_s)
        moves = source.moves()
        if moves or (self._storing and self._storing.done()):
            self._settle()
        for move in moves:
            self._apply(move)
        for tp, end in source.seen_ends().items():
            key = source.topics[tp.topic].generation, tp
            self._seen[key] = max(end, self._seen.get(key, 0))
        self._take(messages)
        if self._is_due():
            self._hand_over(source)
        return bool(messages)

    def _apply(self, move: Mapping[TopicPartition, int | None]) -> None:
        """Take over where partitions go on; what is in hand of them is dropped and comes again to their owner."""
        self._batch = [m for m in self._batch if TopicPartition(m.topic, m.partition) not in move]
        self._batch_bytes = sum(len(message.value) for message in self._batch)
        for tp, start in move.items():
            if start is None:
                self._starts.pop(tp, None)
            else:
                self._starts[tp] = start

    def _take(self, messages: Sequence[Message]) -> None:
        if messages and not self._batch:
            self._begun = time.monotonic()
        self._batch += messages
        self._batch_bytes += sum(len(message.value) for message in messages)

    def _is_due(self) -> bool:
        return should_flush(len(self._batch), self._batch_bytes, time.monotonic() - self._begun, self._settings)

    def _flush(self, source: Source) -> None:
        """Store the batch in hand."""
        self._hand_over(source)
        self._settle()

    def _hand_over(self, source: Source) -> None:
        """Validate the batch in hand and begin to store it, in several transactions where it is large once decoded."""
        now = self._now()
        if self._batch:
            source.verify()  # the topics are still those of the last seek: offsets and records are of one generation
        for validated in validate_in_parts(self._batch, self._settings, now):
            self._settle()
            self._storing = self._writer.submit(self._store_part, source, validated, now)
            del validated  # else the last part is held while the next is decoded
        self._batch, self._batch_bytes = [], 0

    def _settle(self) -> None:
        """Wait until what is being stored is stored; raises what that raised, each time: nothing behind it may be stored."""
        if self._storing:
            self._storing.result()
            self._storing = None

    def _store_part(self, source: Source, validated: Validated, now: datetime) -> None:
        """Store a part, without a message whose values the database refuses although they were valid."""
        try:
            self._commit(source, validated, now)
        except _REFUSED as error:
            for part in apart(validated, error, self._settings, now):
                self._store_part(source, part, now)

    def _commit(self, source: Source, validated: Validated, now: datetime) -> None:
        after = {TopicPartition(message.topic, message.partition): message.offset + 1 for message in validated.messages}
        streams = {name: topic.generation for name, topic in source.topics.items()}
        steps = [
            Step(streams[tp.topic], tp.topic, tp.partition, self._starts[tp], end) for tp, end in sorted(after.items())
        ]
        # The batch's first offsets are compared in the transaction: a batch that another consumer stored is rolled back.
        with self._database_errors():
            self.counts += self._store.write(self._engine, validated, streams, steps, now)
        self.counts["messages"] += len(validated.messages)
        self._starts |= after

    def _opened(self) -> Source:
        if self._source is None:
            self._source = Source(self._bootstrap, self._settings, self._position)
            log.info("consuming %s", ", ".join(self._settings.observation_topics))
        return self._source

    def _warn_of_others(self) -> None:
        """Warn where another consumer, without a group as this one, take the same partitions."""
        if self._settings.group_id is not None or self._presence is not None:
            return
        with self._database_errors():
            self._presence = Presence(self._engine, f"parcelwatch.consumer {self._settings.topic_prefix}")
        if not self._presence.is_first:
            log.warning(
                "another consumer takes these partitions, and without a group each of you takes all: every row is stored "
                "once, but each fences the other out; stop one of them, or give all the same --group"
            )

    def _position(self, source: Source, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return where partitions go on, from the database; called on the group's thread, so it changes no state of ours."""
        bounds = source.bounds(partitions)
        with self._database_errors(), self._engine.begin() as connection:
            now, starts = self._now(), dict[TopicPartition, int]()
            for topic in {partition.topic for partition in partitions}:
                first = {tp.partition: bounds[tp][0] for tp in partitions if tp.topic == topic}
                found = offsets.begin(connection, source.topics[topic].generation, topic, first, now)
                starts |= {TopicPartition(topic, number): offset for number, offset in found.items()}
            if not self._settings.accept_gap and any(start < bounds[tp][0] for tp, start in starts.items()):
                raise RecordsLost(missing(starts, bounds))
            for tp, start in starts.items():
                # A start beyond the reported end is no proof of a loss (see Source.ends); poll raises if it is one.
                nearest = min(max(start, bounds[tp][0]), bounds[tp][1]) if self._settings.accept_gap else start
                if nearest != start:
                    starts[tp] = nearest
                    offsets.move(connection, source.topics[tp.topic].generation, tp.topic, tp.partition, nearest, now)
            self._report_gone(connection, source, now)
        return starts

    def _report_gone(self, connection: Connection, source: Source, now: datetime) -> None:
        """Log the records of an earlier generation of a topic that the broker had and nobody stored."""
        gone = [key for key in self._seen if key[0] != source.topics[key[1].topic].generation]
        for stream, tp in gone:
            end = self._seen.pop((stream, tp))
            stored = offsets.begin(connection, stream, tp.topic, {tp.partition: end}, now)[tp.partition]
            if stored < end:
                log.error(
                    "%s/%d: at least %d records that the broker had acknowledged are gone with the earlier topic of that name "
                    "(offsets %d to %d); have their producers send them again",
                    tp.topic,
                    tp.partition,
                    end - stored,
                    stored,
                    end - 1,
                )

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Raise DatabaseUnavailable, in one line, for every error that means that the database cannot be had."""
        try:
            yield
        except Exception as error:
            if not is_away(error):
                raise
            self._engine.dispose()  # after a failover the pool's connections still lead to the old, read-only server
            raise DatabaseUnavailable(str(getattr(error, "orig", None) or error).strip().splitlines()[0]) from error

    def _publish(self, rejected: Sequence[DeadLetter]) -> None:
        if rejected:
            if self._sender is None:
                self._sender = Sender(self._bootstrap, self._settings.producer_bytes)
            dead_letters.publish(
                self._sender, self._settings.dead_letter_topic, rejected, self._settings.producer_bytes
            )
