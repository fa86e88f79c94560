"""A small OpenID Connect provider on the loopback: discovery, authorization, token, keys and claims of a person; tests make it lie."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "parcelwatch", "the client's secret"


class Provider:
    """A provider that signs everybody in as one person, at once; what it says of them can be changed."""

    def __init__(self, port: int) -> None:
        self.url = f"http://localhost:{port}"
        self.person: dict[str, Any] = {"sub": "248289761001"}
        self.userinfo: dict[str, Any] = {}
        """What is said of the person where claims are asked for, beyond the true ones."""
        self.key = RSAKey.generate_key(2048, {"kid": "1"})
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.forged: dict[str, Any] = {}
        """Claims of ID tokens that are said instead of true ones."""
        self.has_page = False
        """Whether a person has to go on by a link of the provider's page, as after a password."""
        self.metadata: dict[str, Any] = {}
        """What discovery says instead."""
        self.asked: list[dict[str, str]] = []
        """Parameters of each authorization."""
        self.subject: Any = None
        """Of the newest ID token."""
        self._codes: dict[str, dict[str, str]] = {}

    def signed(self, claims: dict[str, Any]) -> str:
        """Return an ID token signed with the published key."""
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)

    def discovery(self) -> dict[str, Any]:
        """Return the provider's metadata."""
        ends = {
            "authorization_endpoint": "/authorize",
            "token_endpoint": "/token",
            "jwks_uri": "/jwks",
            "userinfo_endpoint": "/userinfo",
        }
        return {"issuer": self.url} | {name: self.url + path for name, path in ends.items()} | self.metadata

    def authorize(self, given: dict[str, str]) -> str:
        """Sign the person in; return where the browser is sent."""
        assert given["client_id"] == CLIENT
        assert given["response_type"] == "code"
        assert given["code_challenge_method"] == "S256"
        self.asked.append(given)
        code = secrets.token_urlsafe(16)
        self._codes[code] = given
        return f"{given['redirect_uri']}?{urlencode({'code': code, 'state': given['state'], 'iss': self.url})}"

    def token(self, given: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Return the tokens of a code, which is taken once, by the client that has its verifier."""
        if base64.b64decode(authorization.removeprefix("Basic ")).decode() != f"{CLIENT}:{SECRET}":
            return 401, {"error": "invalid_client"}
        begun = self._codes.pop(given["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(given["code_verifier"].encode()).digest()).rstrip(b"=")
        if (
            begun is None
            or begun["redirect_uri"] != given["redirect_uri"]
            or begun["code_challenge"] != challenge.decode()
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        true = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        self.subject = (self.person | self.forged)["sub"]
        claims = {name: value for name, value in (true | self.person | self.forged).items() if value is not None}
        return 200, {"access_token": "access", "token_type": "Bearer", "expires_in": 300, "id_token": self.sign(claims)}


class _Handler(BaseHTTPRequestHandler):
    provider: Provider

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path == "/authorize":
            back = self.provider.authorize({key: one for key, (one,) in parse_qs(query).items()})
            self.send_response(200 if self.provider.has_page else 302)
            self.send_header("Location", back)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(
                f'<!doctype html><title>Provider</title><link rel="icon" href="data:,"><a href="{escape(back)}">Continue</a>'.encode()
            )
        elif path == "/userinfo" and self.headers["Authorization"] == "Bearer access":
            self._answer(200, self.provider.person | {"sub": self.provider.subject} | self.provider.userinfo)
        elif path == "/jwks":
            self._answer(200, {"keys": [self.provider.key.as_dict(private=False)]})
        elif path == "/.well-known/openid-configuration":
            self._answer(200, self.provider.discovery())
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        given = {key: one for key, (one,) in parse_qs(body).items()}
        self._answer(*self.provider.token(given, self.headers["Authorization"]))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing: what is asked is in `Provider.asked`."""


@contextmanager
def provider() -> Iterator[Provider]:
    """Yield a provider that answers until the end."""
    server = ThreadingHTTPServer(("localhost", 0), type("Handler", (_Handler,), {}))
    made = Provider(server.server_address[1])
    server.RequestHandlerClass.provider = made  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
