"""Consumed offsets: where each partition goes on, stored with the rows that came before.

`stream` is the generation of a topic (its topic id): a topic made anew under the same name starts again at 0, and offsets
of an earlier generation must not be used for it. `advance` runs in the transaction that stores the rows, and only from the
offset that the batch began with: of two consumers with the same batch one commits, the other stores nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Step:
    """A partition's advance from the offset that a batch began with to the one after its last message."""

    stream: str
    topic: str
    partition: int
    start: int
    next: int


def begin(
    connection: sa.Connection, stream: str, topic: str, first: Mapping[int, int], now: datetime
) -> dict[int, int]:
    """Return offsets at which the partitions go on; a partition never consumed begins at its `first` offset."""
    connection.execute(
        sa.text("""insert into consumed_offsets (stream, topic, partition, next_offset, updated_at)
                   values (:stream, :topic, :partition, :first, :now) on conflict do nothing"""),
        [
            {"stream": stream, "topic": topic, "partition": partition, "first": offset, "now": now}
            for partition, offset in sorted(first.items())
        ],
    )
    rows = connection.execute(
        sa.text("""select partition, next_offset from consumed_offsets
                   where stream = :stream and topic = :topic and partition = any(:partitions)"""),
        {"stream": stream, "topic": topic, "partitions": list(first)},
    )
    return {row.partition: row.next_offset for row in rows}


def move(connection: sa.Connection, stream: str, topic: str, partition: int, offset: int, now: datetime) -> None:
    """Move a partition to an offset, over records that nobody will read."""
    connection.execute(
        sa.text("""update consumed_offsets set next_offset = :offset, updated_at = :now
                   where (stream, topic, partition) = (:stream, :topic, :partition)"""),
        {"stream": stream, "topic": topic, "partition": partition, "offset": offset, "now": now},
    )


def advance(connection: sa.Connection, steps: Sequence[Step], now: datetime) -> bool:
    """Move every partition on; False when any was moved by somebody else, and then nothing may be committed."""
    moved = connection.execute(
        sa.text("""update consumed_offsets o set next_offset = s.next, updated_at = :now
                   from unnest(cast(:streams as text[]), cast(:topics as text[]), cast(:partitions as int[]),
                               cast(:starts as bigint[]), cast(:nexts as bigint[]))
                        as s (stream, topic, partition, start, next)
                   where (o.stream, o.topic, o.partition) = (s.stream, s.topic, s.partition)
                     and o.next_offset = s.start"""),
        {
            "streams": [step.stream for step in steps],
            "topics": [step.topic for step in steps],
            "partitions": [step.partition for step in steps],
            "starts": [step.start for step in steps],
            "nexts": [step.next for step in steps],
            "now": now,
        },
    ).rowcount
    return moved == len(steps)
