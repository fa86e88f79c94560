"""An end to an attempt: a receiver that sends a byte now and then outlasts the time-out of every single read."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def limited(seconds: float, opened: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Break the socket that `opened` returns after so many seconds: whoever waits for it wakes.

    Raises:
        TimeoutError: the time was over, whatever the break led to.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        if (found := opened()) is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if is_over.is_set():
            raise TimeoutError(f"no complete answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
