"""Sign-in by OpenID Connect: where the issuer is asked, the way there and back, and what it says of who comes back.

The code flow with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9207). All that a sign-in needs is one random token, in a cookie of the
browser that begins it: state, nonce and code verifier follow from it, and none tells another. The database lets each be taken once.
"""

import hashlib
import hmac
import itertools
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from db.identities import ByGroups, Identity
from web.settings import OidcSettings, is_protected

log = logging.getLogger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Of signatures: those made with a key that the issuer alone has. Neither none, nor those made with what we know, too."""
LEEWAY_S: Final = 60
"""How far the issuer's clock may be from ours."""
KEPT_S: Final = 3600.0
"""How long addresses and keys are kept; keys are asked for again when one is not among them."""
TIMEOUT_S: Final = 10.0
AT_ONCE: Final = 16
"""Sign-ins that wait for the issuer at once: one that hangs holds less than half of the server's 40 threads."""
LARGEST: Final = 1 << 20
"""Bytes of an answer of the issuer."""
_CHUNK: Final = 1 << 16
_NEEDED: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class NotSignedIn(Exception):
    """Nobody is signed in; the text says why, for the sign-in page, and `status` is the answer's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Issuer:
    """An issuer of OpenID Connect; what it publishes is fetched when it is needed first."""

    def __init__(self, settings: OidcSettings) -> None:
        assert settings.issuer is not None
        assert settings.client_id is not None
        assert settings.client_secret is not None
        self.settings, self.url = settings, settings.issuer
        self._client_id, self._secret = settings.client_id, settings.client_secret
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)
        self._until, self._metadata, self._keys = 0.0, dict[str, Any](), KeySet([])

    def way_there(self, token: str, redirect_uri: str) -> str:
        """Return the address at which a person signs in. Raises NotSignedIn where the issuer cannot be asked."""
        with self._turn():
            client, metadata = self._client(redirect_uri), self._published()[0]
        address, _ = client.create_authorization_url(
            metadata["authorization_endpoint"],
            state=state_of(token),
            code_verifier=_derived(token, "verifier"),
            nonce=_derived(token, "nonce"),
        )
        return str(address)

    def who_came_back(self, token: str, redirect_uri: str, code: str) -> tuple[Identity, ByGroups | None]:
        """Return who came back with a code, and what their groups give. Raises NotSignedIn."""
        with self._turn():
            claims = self._all_claims(token, redirect_uri, code)
        return self._identity(claims), self._by_groups(claims)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise NotSignedIn(503, "Many people sign in at this moment. Try again in a minute.")
        try:
            yield
        finally:
            self._turns.release()

    def _all_claims(self, token: str, redirect_uri: str, code: str) -> dict[str, Any]:
        """Return what the issuer says for a code: in the ID token, and in its userinfo where something is not in that."""
        metadata, _ = self._published()
        try:
            given = self._client(redirect_uri).fetch_token(
                metadata["token_endpoint"],
                code=code,
                code_verifier=_derived(token, "verifier"),
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._unreachable(_kind(error)) from error
        except (AuthlibBaseError, ValueError) as error:
            raise self._refused(f"it does not take its code back: {str(error)[:200]}") from error
        claims = self._claims(given, _derived(token, "nonce"))
        if (address := metadata.get("userinfo_endpoint")) and given.get("access_token"):
            asked = self.settings.groups and not groups_of(claims, self.settings.groups_claim)
            if asked or "email" not in claims:
                more = self._fetched(address, {"Authorization": f"Bearer {given['access_token']}"})
                if more.get("sub") != claims["sub"]:
                    raise self._refused("its answer about the person is of another one")
                of = claims if "email" in claims else more  # what one says is verified is not what the other says
                claims = more | claims | {name: of.get(name) for name in ("email", "email_verified")}
        return claims

    def _client(self, redirect_uri: str) -> OAuth2Session:
        takes = self._published()[0].get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return OAuth2Session(
            self._client_id,
            self._secret.get_secret_value(),
            token_endpoint_auth_method=(
                "client_secret_basic" if "client_secret_basic" in takes else "client_secret_post"
            ),
            scope=self.settings.scope,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )

    def _claims(self, given: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """Return what a signed ID token says that is for us, of this sign-in, and still holds."""
        text = str(given.get("id_token") or "")
        try:
            try:
                decoded = jwt.decode(text, self._published()[1], algorithms=ALGORITHMS)
            except InvalidKeyIdError:  # a key may be newer than those we know
                decoded = jwt.decode(text, self._published(anew=True)[1], algorithms=ALGORITHMS)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self.url},
                    "aud": {"essential": True, "value": self._client_id},
                    "sub": {"essential": True},
                },
                {"nonce": nonce, "client_id": self._client_id, "access_token": given.get("access_token")},
            )
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise self._refused(f"its token is not to be believed: {str(error).rstrip(': ')}") from error
        return dict(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject, email = claims["sub"], claims.get("email")
        if not (isinstance(subject, str) and 0 < len(subject) <= 255 and subject.isascii() and subject.isprintable()):
            raise self._refused("its subject is no name")
        # ASCII: other letters may become one of these in lower case. Verified as some issuers write it, too.
        if claims.get("email_verified") not in (True, "true") or not isinstance(email, str) or len(email) > 200:
            return Identity(self.url, subject, None)
        return Identity(
            self.url, subject, email.lower() if email.isascii() and email.isprintable() and "@" in email else None
        )

    def _by_groups(self, claims: Mapping[str, Any]) -> ByGroups | None:
        mine = set(groups_of(claims, self.settings.groups_claim))
        given = [one for group, one in self.settings.groups.items() if group in mine]
        if not given:
            return None
        return ByGroups(
            given[0].role, sorted({region for one in given if one.role == given[0].role for region in one.regions})
        )

    def _published(self, anew: bool = False) -> tuple[dict[str, Any], KeySet]:
        """Return the issuer's addresses, and its keys."""
        with self._lock:
            if not anew and time.monotonic() < self._until:
                return self._metadata, self._keys
        metadata = self._fetched(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self.url:
            raise self._unreachable(
                f"it calls itself {metadata.get('issuer')!r}: PARCELWATCH_OIDC_ISSUER must be the same"
            )
        for name in _NEEDED:
            if not isinstance(metadata.get(name), str) or not is_protected(metadata[name]):
                raise self._unreachable(f"it publishes no {name} with https")
        if not is_protected(str(metadata.get("userinfo_endpoint"))):
            metadata.pop("userinfo_endpoint", None)
        try:
            keys = KeySet.import_key_set(self._fetched(metadata["jwks_uri"]))  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._unreachable("its keys cannot be read") from error
        with self._lock:
            self._until, self._metadata, self._keys = time.monotonic() + KEPT_S, metadata, keys
        return metadata, keys

    def _fetched(self, address: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return a JSON object of the issuer's."""
        try:
            with requests.get(
                address, headers=headers, timeout=TIMEOUT_S, allow_redirects=False, stream=True
            ) as answer:
                body = b"".join(itertools.islice(answer.iter_content(_CHUNK), LARGEST // _CHUNK + 1))
        except (requests.RequestException, ValueError) as error:
            raise self._unreachable(_kind(error)) from error
        if answer.status_code != 200:
            raise self._unreachable(f"{address} answers {answer.status_code}")
        try:
            found = json.loads(body) if len(body) <= LARGEST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._unreachable(f"{address} does not answer with JSON")
        return found

    def _unreachable(self, why: str) -> NotSignedIn:
        log.warning("sign-in: %s cannot be asked: %s", self.url, why)
        return NotSignedIn(503, f"{self.url} cannot be asked now: {why}. Try again, or sign in with a key.")

    def _refused(self, why: str) -> NotSignedIn:
        log.warning("sign-in by %s refused: %s", self.url, why)
        return NotSignedIn(401, f"What {self.url} answers is refused: {why}. Sign in again.")


def state_of(token: str) -> str:
    """Return what the issuer sends back to the browser that began: it shows that this is the one."""
    return _derived(token, "state")


def groups_of(claims: Mapping[str, Any], claim: str) -> list[str]:
    """Return the groups that a claim holds: a text or a list of texts, under its name or, by the name's dots, within others."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]


def _derived(token: str, use: str) -> str:
    return hmac.new(token.encode(), f"oidc {use}".encode(), hashlib.sha256).hexdigest()


def _kind(error: Exception) -> str:
    """Return what went wrong on the way, without the inner workings of a library."""
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    return "it takes too long" if isinstance(error, requests.Timeout) else "there is no connection"
