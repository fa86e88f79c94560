"""Errors of the ingest chain, each with what the caller does about it.

IngestError                 show the message and stop
├── ReadError               the process that reads a parcel file says why it does not, and ends
├── MessageRejected         dead-letter this message or row; the stream goes on
├── DeliveryFailed          the producer's caller sends again: nothing says that the broker has it
├── BrokerUnavailable       wait and begin again from the database's offsets
├── BrokerRefuses           stop: the broker denies a right, or wants other settings; a person mends that
├── FencedOut               begin again from the database's offsets: somebody else consumed these partitions
├── StreamReplaced          begin again: the topics are new ones under old names
├── RecordsLost             stop: the broker deleted records before they were read; a person decides
└── TooManyRejected         stop: so many bad rows mean a broken sender or a broken deployment, not bad luck
"""

from typing import Literal

from terminal.errors import UserError

ReasonCode = Literal[
    # the message as a whole
    "malformed",
    "unknown_content_type",
    "unknown_schema",
    "unsupported_version",
    "oversized",
    # a value
    "missing_value",
    "missing_values",
    "naive_timestamp",
    "not_finite",
    "out_of_range",
    "unknown_choice",
    "bad_text",
    "pixels_shape",
    # what the values say together
    "future_dated",
    "available_before_observed",
    "unknown_season",
    "outside_season",
    "unknown_parcel",
    "conflicts_with_stored",
]
"""Why a message or a row of it is a dead letter; `docs/messages.md` says what to do about each."""


class IngestError(UserError):
    """Ingest cannot do what was asked; one line for a person."""


class ReadError(IngestError):
    """A parcel file is not read; the message says why, without the file's name."""


class MessageRejected(IngestError):
    """The message breaks the contract: its code and a sentence that says what, where and what to do."""

    def __init__(self, code: ReasonCode, reason: str) -> None:
        super().__init__(reason)
        self.code: ReasonCode = code
        self.reason = reason


class DeliveryFailed(IngestError):
    """The broker did not confirm every message that was sent."""


class BrokerUnavailable(IngestError):
    """The broker does not answer; nothing was lost, offsets stay where they are."""


class BrokerRefuses(IngestError):
    """The broker answers and says no: a right or a setting lacks, which no waiting brings."""


class FencedOut(IngestError):
    """Another consumer has moved the offsets that this one started from; its rows are rolled back."""


class StreamReplaced(IngestError):
    """A topic was made anew under the same name (an in-memory broker restarted): its offsets start again."""


class RecordsLost(IngestError):
    """The broker no longer has records that were never consumed."""


class TooManyRejected(IngestError):
    """More than the configured share of the last rows is bad."""
