"""Requests with patience: 429, 5xx, time-outs, half bodies and broken JSON are tried again, and each time is reported.

    wait before try n + 1 = what Retry-After says + uniform(0, base), else uniform(0, min(cap, base * 2^n))

urllib3's Retry, which pystac-client takes, sees neither a body that breaks off nor JSON that does; hence this.

Source: RFC 9110, 10.2.3 (Retry-After); Brooker 2015, "Exponential Backoff and Jitter" (full jitter). Headers and bodies
that are sent hold credentials: no message of this module shows them.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from ingest.errors import IngestError
from ingest.imagery.bounded import parsed_json

log: Final = logging.getLogger(__name__)
T = TypeVar("T")

_TRIED_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Codes below 500 that ask to come again."""


_LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of an answer: a page of 1,000 items with all their assets has some 40 MB."""


class SourceUnavailable(IngestError):
    """The source did not answer as it should after all tries: nothing was moved, ask again later."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """What the source itself asked for, where that was longer than is waited in place."""


class SourceRefused(IngestError):
    """The source says that the request is wrong: a person mends the profile, the area or the credentials."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stopped(IngestError):
    """The program was asked to end while it waited for a source."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a source is asked."""

    tries: int = 6
    """With the waits below a minute on average: a restart passes in that (chosen so); the next poll is for the rest."""
    base_s: float = 2.0
    cap_s: float = 60.0
    longest_wait_s: float = 120.0
    """A Retry-After above this ends the poll; the next one heeds it."""
    connect_s: float = 10.0
    read_s: float = 60.0
    """Silence on an open connection; slow searches of the public catalogues take up to 30 s."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as requests meet it: the present, a wait that says whether the program was asked to end, and jitter."""

    now: Callable[[], datetime]
    wait: Callable[[float], bool]
    uniform: Callable[[float, float], float]


class Bearer(AuthBase):
    """The Authorization header of one request; given as `auth`, so that no .netrc of the machine replaces it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Http:
    """A session with one source.

    Args:
        source: what messages call it.
        report: given a line for each try that failed; the same lines are logged.
    """

    def __init__(
        self, source: str, patience: Patience, clock: Clock, report: Callable[[str], None] = lambda _: None
    ) -> None:
        self.source, self._patience, self._clock, self._report = source, patience, clock, report
        self.secrets: list[str] = []
        """Texts that no message may show, whoever sends them back to us."""
        self._session = requests.Session()

    def pause(self, seconds: float) -> None:
        """Wait between two requests, for the source's sake. Raises Stopped."""
        if seconds and self._clock.wait(seconds):
            raise Stopped(f"{self.source}: asked to end")

    def json(self, method: str, url: str, **request: Any) -> Any:
        """Return the parsed answer; arguments as `text`."""
        return self.text(method, url, parsed_json, **request)

    def text(  # the parts of a request, as requests names them
        self,
        method: str,
        url: str,
        read: Callable[[str], T],
        *,
        auth: AuthBase | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
    ) -> T:
        """Return what `read` makes of the answer; an answer that it finds broken (ValueError) is asked for again.

        Raises SourceUnavailable, SourceRefused, Stopped.
        """
        place, attempt = _place(url), 0
        while True:
            attempt, asked_s = attempt + 1, None
            try:
                with self._session.request(
                    method,
                    url,
                    params=params,
                    headers=headers,
                    json=body,
                    data=form,
                    auth=auth,
                    stream=True,
                    timeout=(self._patience.connect_s, self._patience.read_s),
                ) as answer:
                    if answer.ok:
                        return read(_bounded(answer).decode())
                    reason = self._reason(answer)
                if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR and answer.status_code not in _TRIED_AGAIN:
                    raise SourceRefused(f"{self.source}: {place}: {reason}", answer.status_code)
                failure, asked_s = reason, self._asked(answer)
            except requests.Timeout:
                failure = f"no answer within {self._patience.read_s:g} s"
            except requests.RequestException as error:
                failure = _why(error)
                if (
                    "NameResolution" in failure or "gaierror" in failure
                ):  # no network, or no such host: minutes do not help
                    attempt = max(attempt, self._patience.tries - 1)
            except ValueError as error:
                failure = f"broken answer: {error}"[:200]
            self._wait(place, failure, attempt, asked_s)

    def _wait(self, place: str, failure: str, attempt: int, asked_s: float | None) -> None:
        patience = self._patience
        if attempt >= patience.tries or (asked_s or 0.0) > patience.longest_wait_s:
            ask = f", asks to come again in {asked_s:.0f} s" if asked_s else ""
            line = self._shown(
                f"{self.source}: {place}: {failure}{ask}; given up after {attempt} of {patience.tries} tries"
            )
            raise SourceUnavailable(line, asked_s)
        longest = patience.base_s if asked_s is not None else min(patience.cap_s, patience.base_s * 2**attempt)
        wait_s = (asked_s or 0.0) + self._clock.uniform(0.0, longest)
        line = self._shown(
            f"{self.source}: {place}: {failure}; try {attempt + 1} of {patience.tries} in {wait_s:.1f} s"
        )
        log.warning(line)
        self._report(line)
        if self._clock.wait(wait_s):
            raise Stopped(f"{self.source}: asked to end")

    def _reason(self, answer: requests.Response) -> str:
        """Return the status and what the source says about it, one line."""
        is_json = "json" in answer.headers.get("Content-Type", "")
        stated = self._shown(" ".join(_bounded(answer).decode(errors="replace").split())) if is_json else ""
        return f"{answer.status_code} {answer.reason}{f': {stated[:160]}' if stated else ''}"

    def _shown(self, line: str) -> str:
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line

    def _asked(self, answer: requests.Response) -> float | None:
        """Return seconds of Retry-After, which is a number of seconds or a date."""
        stated = answer.headers.get("Retry-After", "").strip()
        if stated.isdecimal():
            return float(stated)
        try:
            until = parsedate_to_datetime(stated)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max((until - self._clock.now()).total_seconds(), 0.0)


def _bounded(answer: requests.Response) -> bytes:
    """Return the body, unpacked no further than its bound. Raises ValueError beyond it, and requests' errors."""
    body = bytearray()
    for part in answer.iter_content(2**16):
        body += part
        if len(body) > _LARGEST_ANSWER:
            raise ValueError(f"more than {_LARGEST_ANSWER:,} bytes")
    return bytes(body)


def _place(url: str) -> str:
    """Return host and path: what follows may be signed."""
    parts = urlsplit(url)
    return f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _why(error: BaseException) -> str:
    """Return the innermost cause: what the operating system or the protocol says."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}"[:200]
