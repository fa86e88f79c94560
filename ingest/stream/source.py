"""The stream as the consumer sees it: messages from where the database says, and proof that they belong together.

Partitions are taken by assignment, or as a member of a group; either way the offsets come from the database.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from ingest.errors import RecordsLost, StreamReplaced
from ingest.stream import record_batches
from ingest.stream.connection import broker_errors, client_options, connecting, group_options
from ingest.stream.membership import Member
from ingest.stream.settings import IngestSettings
from ingest.stream.topics import Topics
from ingest.stream.validation import Message

Position = Callable[["Source", Sequence[TopicPartition]], Mapping[TopicPartition, int]]
"""Where partitions just assigned go on, from the database."""

AFTER_A_LOSS: Final = "send them again, then run once with --accept-gap to go on behind the gap"

_LONG_POLL_MS: Final = (
    25  # the embedded broker wakes no waiting fetch: a longer wait is added to each catch-up (0.2 s at 500)
)
_MAX_POLL_RECORDS: Final = 10_000  # chosen because the loop's own cost vanishes among as many single records


class Source(Member):
    """A connection to the broker's observation topics; closed and opened anew after any trouble."""

    def __init__(self, bootstrap: str, settings: IngestSettings, position: Position) -> None:
        """Connect, make missing topics and, without a group, take every partition.

        Raises BrokerUnavailable, and whatever `position` raises.
        """
        super().__init__()
        self._topics, self._names, self._position = Topics(bootstrap), settings.observation_topics, position
        self._topics.ensure({**dict.fromkeys(self._names, settings.partitions), settings.dead_letter_topic: 1})
        self.topics = self._topics.describe(self._names)
        with connecting(bootstrap):
            self._kafka = KafkaConsumer(
                **client_options(bootstrap),
                **group_options(settings.group_id, settings.member, settings.session_seconds),
                isolation_level="read_committed",
                # Offsets are the database's, committed with the rows: a second copy at the broker could run ahead of them, and a
                # reset to either end would skip or repeat records that nobody asked about.
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_poll_records=_MAX_POLL_RECORDS,
                fetch_max_wait_ms=_LONG_POLL_MS,
                fetch_max_bytes=settings.flush_bytes,  # a poll then overshoots a batch by one batch at most
                max_partition_fetch_bytes=settings.max_message_bytes,
            )
            record_batches.bound(self._kafka, settings.max_batch_bytes, settings.flush_bytes, settings.accept_gap)
            if settings.group_id is None:
                partitions = [
                    TopicPartition(name, number)
                    for name, topic in self.topics.items()
                    for number in range(topic.n_partitions)
                ]
                self._kafka.assign(partitions)
                self._moves.put(dict(self._seek(partitions)))
            else:
                record_batches.keep_fetching(self._kafka)
                self._kafka.subscribe(topics=list(self._names), listener=self)

    def poll(self, timeout_s: float) -> list[Message]:
        """Return the next messages, none after `timeout_s`; raises BrokerUnavailable, StreamReplaced, RecordsLost."""
        with broker_errors("no messages"):
            try:
                found = self._kafka.poll(timeout_ms=int(timeout_s * 1000))
            except OffsetOutOfRangeError as error:
                self.verify()
                raise RecordsLost(missing(self.positions(), self.bounds()) or f"{error}; {AFTER_A_LOSS}") from error
        if self._failure is not None:
            raise self._failure
        return [record_batches.message_of(record) for of_partition in found.values() for record in of_partition]

    def verify(self) -> None:
        """Raise StreamReplaced if a topic is not the one this source was opened on.

        Read after a poll and equal to what was read before the seek, the identity proves that every message in between
        came from one generation of the topic.
        """
        if self._topics.describe(self._names) != self.topics:
            raise StreamReplaced("a topic was made anew or got more partitions")

    def bounds(self, partitions: Sequence[TopicPartition] | None = None) -> dict[TopicPartition, tuple[int, int]]:
        """Return the first offset and the last stable one (see Topics.bounds), of some partitions or of all that are assigned."""
        return self._topics.bounds(list(self._kafka.assignment() if partitions is None else partitions))

    def knows_ends(self) -> bool:
        """Return whether a fetch of every assigned partition was answered, with or without records."""
        return all(self._kafka.highwater(partition) is not None for partition in self._kafka.assignment())

    def ends(self) -> dict[TopicPartition, int]:
        """Return the last stable offset of each assigned partition, right once `knows_ends`: what may be read lies before it.

        Asked for its last offset, the embedded broker reports the one after the first record of its last batch; what it
        answers to a fetch is right. A position beyond the reported end therefore still has the rest of a batch to poll.
        """
        fetched = record_batches.stable_ends(self._kafka)
        return {tp: max(reported, fetched.get(tp, 0)) for tp, (_, reported) in self.bounds().items()}

    def seen_ends(self) -> dict[TopicPartition, int]:
        """Return the last stable offsets that fetches brought so far; asks nothing of the broker."""
        return record_batches.stable_ends(self._kafka)

    def positions(self) -> dict[TopicPartition, int]:
        """Return the offset that the next poll begins with, of every assigned partition."""
        with broker_errors("position"):
            return {partition: self._kafka.position(partition) for partition in self._kafka.assignment()}

    def _seek(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        starts = self._position(self, partitions)
        for partition, offset in starts.items():
            self._kafka.seek(partition, offset)
        return starts


def missing(positions: Mapping[TopicPartition, int], bounds: Mapping[TopicPartition, tuple[int, int]]) -> str | None:
    """Return which records are gone, per partition, and what to do; None where none is."""
    found = []
    for tp, offset in sorted(positions.items()):
        first, end = bounds.get(tp, (offset, offset))
        if offset < first:
            found.append(
                f"{tp.topic}/{tp.partition}: {first - offset} records were deleted unread "
                f"(offset {offset} comes next and the broker has {first} and later)"
            )
        elif offset > end:
            found.append(
                f"{tp.topic}/{tp.partition}: the broker lost {offset - end} records that were stored from it "
                f"(it ends at {end}, offset {offset} comes next), and perhaps others behind them"
            )
    return f"{'; '.join(found)}; {AFTER_A_LOSS}" if found else None
