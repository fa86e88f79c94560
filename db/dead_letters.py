"""Dead letters: messages and rows that broke the contract, with why, kept until a person has dealt with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

WHOLE_MESSAGE = -1
"""`row_in_message` of a letter that is not one row of a batch."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message, or one row of a batch, that was rejected."""

    stream: str
    topic: str
    partition: int
    message_offset: int
    row_in_message: int
    reason_code: str
    reason: str
    content_type: str | None
    payload: bytes
    """What can be sent again: the whole message, or a batch of the one row."""


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A letter as stored."""

    dead_letter_key: int
    letter: Letter
    recorded_at: datetime
    redriven_at: datetime | None


def add(connection: sa.Connection, letters: Sequence[Letter], recorded_at: datetime) -> None:
    """Stores letters; one that is there already (its batch is being repeated) stays as it is."""
    if letters:
        connection.execute(
            sa.text("""
                insert into dead_letters (stream, topic, partition, message_offset, row_in_message, reason_code, reason,
                                          content_type, payload, recorded_at)
                values (:stream, :topic, :partition, :message_offset, :row_in_message, :reason_code, :reason,
                        :content_type, :payload, :recorded_at)
                on conflict do nothing"""),
            [
                {name: getattr(letter, name) for name in letter.__slots__} | {"recorded_at": recorded_at}
                for letter in letters
            ],
        )


def newest(connection: sa.Connection, limit: int, reason_code: str | None = None) -> list[StoredLetter]:
    """The last letters, newest first."""
    rows = connection.execute(
        sa.text(
            _SELECT
            + " where cast(:code as text) is null or reason_code = :code order by dead_letter_key desc limit :limit"
        ),
        {"code": reason_code, "limit": limit},
    )
    return [_stored(row) for row in rows]


def count_by_reason(connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """Letters that wait and letters sent again, by reason code."""
    rows = connection.execute(
        sa.text("""select reason_code, count(*) filter (where redriven_at is null), count(redriven_at)
                   from dead_letters group by 1 order by 2 desc, 1""")
    )
    return {code: (waiting, redriven) for code, waiting, redriven in rows}


def lock_waiting(connection: sa.Connection, limit: int, reason_code: str | None, after: int) -> list[StoredLetter]:
    """Letters not sent again yet, oldest first after the key `after`, locked against others who would send them."""
    rows = connection.execute(
        sa.text(
            _SELECT
            + """ where redriven_at is null and dead_letter_key > :after
                          and (cast(:code as text) is null or reason_code = :code)
                          order by dead_letter_key limit :limit for update skip locked"""
        ),
        {"code": reason_code, "limit": limit, "after": after},
    )
    return [_stored(row) for row in rows]


def mark_redriven(connection: sa.Connection, keys: Sequence[int], now: datetime) -> None:
    """Says that letters were put back on their topics."""
    connection.execute(
        sa.text("update dead_letters set redriven_at = :now where dead_letter_key = any(:keys)"),
        {"keys": list(keys), "now": now},
    )


_SELECT = """select dead_letter_key, recorded_at, redriven_at, stream, topic, partition, message_offset, row_in_message,
                    reason_code, reason, content_type, payload from dead_letters"""


def _stored(row: sa.Row[Any]) -> StoredLetter:
    fields = row._asdict()
    about = {name: fields.pop(name) for name in ("dead_letter_key", "recorded_at", "redriven_at")}
    return StoredLetter(letter=Letter(**fields), **about)


@dataclass(frozen=True, slots=True)
class Example:
    """Letters with one reason in the same words; where and when the newest of them came."""

    reason_code: str
    reason: str
    waiting: int
    redriven: int
    dead_letter_key: int
    recorded_at: datetime
    topic: str
    partition: int
    message_offset: int
    row_in_message: int


EXAMPLES_OF_A_REASON = 3
"""Different wordings that are shown of each reason; chosen because a fourth rarely says more."""


def examples(connection: sa.Connection, limit: int, reason_code: str | None = None) -> list[Example]:
    """Return letters that say the same as one, the most frequent reasons first, a few wordings of each."""
    rows = connection.execute(
        sa.text("""
            select reason_code, e.reason, waiting, redriven, dead_letter_key, recorded_at, topic, partition, message_offset,
                   row_in_message
            from (select reason_code, reason, count(*) filter (where redriven_at is null) as waiting, count(redriven_at) as redriven,
                         max(dead_letter_key) as dead_letter_key, sum(count(*)) over (partition by reason_code) as of_code,
                         row_number() over (partition by reason_code order by max(dead_letter_key) desc) as nr
                  from dead_letters where cast(:code as text) is null or reason_code = :code group by 1, 2) e
            join dead_letters using (dead_letter_key, reason_code)
            where nr <= :each order by of_code desc, reason_code, nr limit :limit"""),
        {"code": reason_code, "limit": limit, "each": EXAMPLES_OF_A_REASON},
    )
    return [Example(**row._mapping) for row in rows]
