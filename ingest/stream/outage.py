"""Waiting for a database or broker that is away, and going on when it is back."""

import logging
import threading
from typing import Final

log = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 30.0


class Outage:
    """Waits that grow while something is away, logged once when it goes and once when it is back."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._what, self._wait_s = stop, "", 1.0

    def wait(self, what: str, error: Exception) -> bool:
        """Wait before the next try; True if this is the first one of this outage."""
        is_new = self._what != what
        if is_new:
            log.warning("waiting for the %s, offsets stay where they are: %s", what, str(error))  # not its frames
            self._what, self._wait_s = what, 1.0
        self._stop.wait(self._wait_s)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        return is_new

    def over(self) -> None:
        """Log that all is well again."""
        if self._what:
            log.warning("the %s is back", self._what)
            self._what = ""
