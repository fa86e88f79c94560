"""Errors of deliveries.

InvalidSubscription   what was asked for cannot be sent: the command shows the line and stops
NotDelivered          this attempt failed: the sender tries again later, or gives up after many
    Unsendable        no attempt will do better: the delivery is dead until somebody retries it
    RefusedForGood    the receiver wants nothing more at this address: the subscription is suspended
"""

from datetime import timedelta

from terminal.errors import UserError


class InvalidSubscription(UserError):
    """An address, an area or a time that cannot be used."""

    def __init__(self, why: str, field: str | None = None) -> None:
        super().__init__(why)
        self.field = field
        """Which of what was asked for, where it is one thing alone."""


class NotDelivered(Exception):
    """A message did not arrive; the message says why, in one line without secrets."""

    def __init__(self, why: str, wait: timedelta | None = None) -> None:
        super().__init__(why)
        self.wait = wait
        """How long the receiver asked to be left alone."""


class Unsendable(NotDelivered):
    """The receiver refuses this message, not its address."""


class RefusedForGood(NotDelivered):
    """The receiver says that nothing is to be sent to this address again."""
