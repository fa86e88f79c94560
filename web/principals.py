"""Who asks: keys in a header, sign-ins in a cookie, and how often each may ask.

A key is `pw_ID_SECRET`. The database keeps its hash (Argon2id); one that was verified is remembered for `REMEMBERED_S`, since a
verification takes milliseconds and a page asks many times. A sign-in is a random token in a cookie that no script reads; requests
that change something with it must come from our own pages: by their Origin, and by a token that only those know.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import limits
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from db import access, identities
from db.access import Principal, Role
from db.connect import Connection, Engine
from db.identities import ByGroups, Identity, Refusal
from web.settings import WebSettings

COOKIE: Final = "parcelwatch_session"
PENDING_COOKIE: Final = "parcelwatch_sign_in"
PENDING_PATH: Final = "/console/sign-in"
PENDING_MINUTES: Final = 10.0
"""How long somebody may take to sign in at an issuer: passwords, second factors."""
CSRF_HEADER: Final = "X-CSRF-Token"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
REMEMBERED_S: Final = 30.0
"""How long a revoked key may still be taken by this process."""
A_REQUEST: Final = 10
"""What a request counts towards the limit; a tile of a map counts 1, since a page asks for dozens."""
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's second set of parameters for Argon2id: a secret of 256 bits needs no more."""


class Gate:
    """Knows who asks, and whether they ask too often."""

    def __init__(self, engine: Engine, settings: WebSettings) -> None:
        self.engine, self.settings = engine, settings
        self._verified: dict[str, tuple[float, Principal]] = {}
        self._lock = threading.Lock()
        # One at a time, in one thread, whose 19 MB are taken again: eight requests, whose key was not remembered any more, left 150 MB.
        self._hashing = ThreadPoolExecutor(1, "hashing")
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._per_minute = limits.parse(f"{settings.requests_per_minute * A_REQUEST}/minute")

    def of_key(self, key: str) -> Principal | None:
        """Return whose key it is, None for one that may not be used."""
        if (remembered := self.remembered(key)) is not None:
            return remembered
        parts = key.split("_")
        if len(parts) != 3 or parts[0] != "pw" or not parts[1].isalnum():
            return None
        with self.engine.begin() as connection:
            row = access.usable_key(connection, parts[1])
        if row is None:
            return None
        return self._hashing.submit(self._verify, key, row.secret_hash, Principal(row.name, row.role)).result()

    def _verify(self, key: str, hashed: str, person: Principal) -> Principal | None:
        if (remembered := self.remembered(key)) is not None:  # by the request before
            return remembered
        try:
            HASHER.verify(hashed, key.rsplit("_", 1)[1])
        except VerificationError:
            return None
        with self._lock:
            now = time.monotonic()
            self._verified = {one: value for one, value in self._verified.items() if value[0] > now}
            self._verified[_digest(key)] = now + REMEMBERED_S, person
        return person

    def remembered(self, key: str) -> Principal | None:
        """Return whose key it is that was verified a moment ago."""
        with self._lock:
            known = self._verified.get(_digest(key))
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def of_session(self, token: str) -> Principal | None:
        """Return whose sign-in it is."""
        with self.engine.begin() as connection:
            return access.person_of_session(connection, _hash(token))

    def sign_in(self, response: Response, person: Principal) -> str:
        """Begin a sign-in and set its cookie; return the token."""
        token, now = secrets.token_urlsafe(32), datetime.now(UTC)
        lasts = timedelta(hours=self.settings.session_hours)
        with self.engine.begin() as connection:
            access.begin_session(connection, _hash(token), person.name, now, now + lasts)
        response.set_cookie(
            COOKIE,
            token,
            max_age=int(lasts.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=self.settings.is_https,
        )
        return token

    def sign_out(self, response: Response, token: str) -> None:
        """End a sign-in."""
        with self.engine.begin() as connection:
            access.end_session(connection, _hash(token), datetime.now(UTC))
        response.delete_cookie(COOKIE)

    def begin_elsewhere(self, response: Response, token: str, back: str) -> None:
        """Begin a sign-in at an issuer, in this browser, that leads back to a page."""
        lasts = timedelta(minutes=PENDING_MINUTES)
        with self.engine.begin() as connection:
            identities.begin(connection, _hash(token), back, datetime.now(UTC) + lasts)
        # Lax: the issuer's page leads back to ours.
        response.set_cookie(
            PENDING_COOKIE,
            token,
            max_age=int(lasts.total_seconds()),
            path=PENDING_PATH,
            httponly=True,
            samesite="lax",
            secure=self.settings.is_https,
        )

    def come_back(self, token: str) -> str | None:
        """Return the page that a sign-in leads back to, once; None where it did not begin, or its time is over."""
        with self.engine.begin() as connection:
            return identities.take(connection, _hash(token))

    def of_identity(self, identity: Identity, by_groups: ByGroups | None) -> Principal | Refusal:
        """Return who signs in with an issuer's identity, or why nobody does."""
        with self.engine.begin() as connection:
            return identities.person_of(connection, identity, by_groups, datetime.now(UTC))

    def count(self, who: str, cost: int = A_REQUEST) -> None:
        """Count a request of somebody, by what it costs; raises 429 where there were too many."""
        if not self._limiter.hit(self._per_minute, who, cost=cost):
            reset = self._limiter.get_window_stats(self._per_minute, who).reset_time
            wait = max(1, int(reset - time.time()) + 1)
            raise HTTPException(
                429, f"more than {self.settings.requests_per_minute} requests a minute", {"Retry-After": str(wait)}
            )


def make_key() -> tuple[str, str, str]:
    """Return a new key's id, the whole key, and the hash to store."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    return key_id, f"pw_{key_id}_{secret}", HASHER.hash(secret)


def csrf_token(session: str) -> str:
    """Return what a form of this sign-in must bring: only our own pages know it."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


_KEY: Final = HTTPBearer(auto_error=False, description="a key: `parcelwatch access key`")
"""For OpenAPI; who it is of says `who_asks`."""


def who_asks(request: Request) -> Principal:
    """Return who asks, by key or sign-in. Raises 401, 403 for a change from another site's page, 429."""
    gate: Gate = request.app.state.gate
    cost = 1 if request.url.path.startswith("/api/tiles/") else A_REQUEST
    key, token = _credentials(request)
    if key is not None:
        gate.count(f"key {_digest(key)}", cost)
    elif token is not None:
        gate.count(f"session {token}", cost)
    else:
        gate.count(f"nobody at {request.client.host if request.client else ''}")
    found = who_is(request)
    if found is not None and key is None and token is not None and request.method not in SAFE:
        _require_own_page(request, token)
    if found is None:
        raise HTTPException(
            401, "a key is needed: `Authorization: Bearer pw_...`, or sign in", {"WWW-Authenticate": "Bearer"}
        )
    return found


def who_is(request: Request) -> Principal | None:
    """Return whose key or sign-in a request has; None where it is not valid, or not any more. The request is not counted."""
    gate: Gate = request.app.state.gate
    key, token = _credentials(request)
    if key is not None:
        return gate.of_key(key.strip())
    return None if token is None else gate.of_session(token)


def _credentials(request: Request) -> tuple[str | None, str | None]:
    """Return the key, or else the token of the sign-in."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key, None
    return None, request.cookies.get(COOKIE) or None


def is_own_origin(request: Request) -> bool:
    """Return whether a request comes from a page of this server, or from no page."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _require_own_page(request: Request, token: str) -> None:
    given = request.headers.get(CSRF_HEADER, "")
    if not is_own_origin(request) or not hmac.compare_digest(given.encode(), csrf_token(token).encode()):
        raise HTTPException(403, f"a change with a sign-in needs the header {CSRF_HEADER} of our own page")


async def _who_asks(request: Request, _: Annotated[object, Security(_KEY)] = None) -> Principal:
    """Return what `who_asks` does: at once for a key that is remembered, else from a thread, since the database is asked."""
    key, _token = _credentials(request)
    if key is not None and request.app.state.gate.remembered(key.strip()) is not None:
        return who_asks(request)
    return await run_in_threadpool(who_asks, request)


Who = Annotated[Principal, Depends(_who_asks)]


def asked(request: Request, who: Who) -> Iterator[Connection]:
    """Yield a connection that sees what the one who asks may see, for the time of a request."""
    with access.asking(request.app.state.gate.engine, who) as connection:
        yield connection


Asked = Annotated[Connection, Depends(asked, scope="function")]
"""A transaction of the one who asks; committed before the answer is sent."""


def having(*roles: Role) -> Callable[[Principal], Principal]:
    """Return a dependency that refuses other roles with 403."""

    def check(who: Who) -> Principal:
        if who.role not in roles:
            raise HTTPException(403, f"this is for the role {' or '.join(roles)}; yours is {who.role}")
        return who

    return check


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
