"""Dead letters: messages and rows that broke the contract, with why, kept until a person has dealt with them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

WHOLE_MESSAGE = -1
"""`row_in_message` of a dead letter that is not one row of a batch."""

_LONGEST: Final = {"reason": 500, "content_type": 200}
"""Characters that are kept of texts from outside: dead letters fit the broker's limit, lists stay readable (chosen)."""
_NOT_STORABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def storable(text: str, longest: int) -> str:
    """Return text of any origin as it can be stored, sent and shown: control characters and halves of pairs as escapes, cut."""
    plain = _NOT_STORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text[: longest + 1])
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message, or one row of a batch, that was rejected; its texts are made storable, whoever wrote them."""

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
    repeats: int | None = None
    """The key of the dead letter that was sent again and is rejected again, the first of them; None for a first one."""

    def __post_init__(self) -> None:
        for name, longest in _LONGEST.items():
            text = getattr(self, name)
            object.__setattr__(self, name, text and storable(text, longest))


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as stored."""

    dead_letter_key: int
    dead_letter: DeadLetter
    recorded_at: datetime
    redriven_at: datetime | None


def add(connection: sa.Connection, rejected: Sequence[DeadLetter], recorded_at: datetime) -> None:
    """Store dead letters; one that is there already (its batch is being repeated) stays as it is.

    What a dead letter repeats is named by a header, which anybody can write: a key that none has is not kept.
    """
    if rejected:
        connection.execute(
            sa.text("""
                insert into dead_letters (stream, topic, partition, message_offset, row_in_message, reason_code, reason,
                                          content_type, payload, recorded_at, repeats)
                values (:stream, :topic, :partition, :message_offset, :row_in_message, :reason_code, :reason,
                        :content_type, :payload, :recorded_at,
                        (select coalesce(repeats, dead_letter_key) from dead_letters where dead_letter_key = :repeats))
                on conflict do nothing"""),
            [
                {name: getattr(dead_letter, name) for name in dead_letter.__slots__} | {"recorded_at": recorded_at}
                for dead_letter in rejected
            ],
        )


def newest(connection: sa.Connection, limit: int, reason_code: str | None = None) -> list[StoredDeadLetter]:
    """Return the last dead letters, newest first."""
    rows = connection.execute(
        sa.text(
            _SELECT
            + " where cast(:code as text) is null or reason_code = :code order by dead_letter_key desc limit :limit"
        ),
        {"code": reason_code, "limit": limit},
    )
    return [_stored(row) for row in rows]


def count_by_reason(connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """Return how many dead letters wait and were sent again, by reason code."""
    rows = connection.execute(
        sa.text("""select reason_code, count(*) filter (where redriven_at is null), count(redriven_at)
                   from dead_letters group by 1 order by 2 desc, 1""")
    )
    return {code: (waiting, redriven) for code, waiting, redriven in rows}


def newest_key(connection: sa.Connection) -> int:
    """Return the key of the last dead letter; 0 where there is none."""
    return int(connection.execute(sa.text("select coalesce(max(dead_letter_key), 0) from dead_letters")).scalar_one())


def lock_waiting(
    connection: sa.Connection, limit: int, reason_code: str | None, after: int, up_to: int
) -> list[StoredDeadLetter]:
    """Return dead letters not sent again yet, oldest first, of keys above `after` up to `up_to`, locked against others' sending."""
    rows = connection.execute(
        sa.text(
            _SELECT
            + """ where redriven_at is null and dead_letter_key > :after and dead_letter_key <= :up_to
                          and (cast(:code as text) is null or reason_code = :code)
                          order by dead_letter_key limit :limit for update skip locked"""
        ),
        {"code": reason_code, "limit": limit, "after": after, "up_to": up_to},
    )
    return [_stored(row) for row in rows]


def mark_redriven(connection: sa.Connection, keys: Sequence[int], now: datetime) -> None:
    """Mark dead letters as put back on their topics."""
    connection.execute(
        sa.text("update dead_letters set redriven_at = :now where dead_letter_key = any(:keys)"),
        {"keys": list(keys), "now": now},
    )


_SELECT = """select dead_letter_key, recorded_at, redriven_at, stream, topic, partition, message_offset, row_in_message,
                    reason_code, reason, content_type, payload, repeats from dead_letters"""


def _stored(row: sa.Row[Any]) -> StoredDeadLetter:
    fields = row._asdict()
    about = {name: fields.pop(name) for name in ("dead_letter_key", "recorded_at", "redriven_at")}
    return StoredDeadLetter(dead_letter=DeadLetter(**fields), **about)


@dataclass(frozen=True, slots=True)
class Example:
    """Dead letters with one reason, worded the same; where and when the newest of them came."""

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
    """Return dead letters that say the same as one, the most frequent reasons first, a few wordings of each."""
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
