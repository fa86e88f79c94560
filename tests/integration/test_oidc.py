"""Sign-in by OpenID Connect at a real provider: who gets in, and whatever does not."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import requests
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from typer.testing import CliRunner

from db import access, identities
from db.access import Principal
from db.connect import engine
from tests.identity_provider import CLIENT, SECRET, Provider, provider
from tests.web_server import serving
from web.access_commands import app as access_app
from web.oidc import Issuer
from web.principals import COOKIE, PENDING_COOKIE
from web.settings import OfGroup, OidcSettings, WebSettings

GROUPS = {
    "field north": OfGroup(role="inspector", regions=("north",)),
    "field south": OfGroup(role="inspector", regions=("south", "nowhere")),
    "staff": OfGroup(role="reader"),
}


@pytest.fixture
def issuer() -> Iterator[Provider]:
    """A provider."""
    with provider() as made:
        yield made


def settings(issuer: Provider, **given: Any) -> OidcSettings:
    """Return settings for a provider."""
    return OidcSettings(issuer=issuer.url, client_id=CLIENT, client_secret=SecretStr(SECRET), name="<b>", **given)


@pytest.fixture
def client(dsn: str, issuer: Provider) -> Iterator[TestClient]:
    """A browser on the console of a server with its own login."""
    with psycopg.connect(dsn) as connection:
        connection.execute("insert into regions (code) values ('north'), ('south')")
    with (
        serving(dsn, WebSettings(), settings(issuer, groups=GROUPS)) as app,
        TestClient(
            app, base_url="http://127.0.0.1:80", raise_server_exceptions=False, follow_redirects=False
        ) as opened,
    ):
        yield opened


def there_and(client: TestClient, back: str = "/console/map") -> str:
    """Begin a sign-in; return the address at which the provider leads back."""
    begun = client.get("/console/sign-in/oidc", params={"next": back})
    assert begun.status_code == 303
    return requests.get(begun.headers["location"], allow_redirects=False, timeout=10).headers["location"]


def sign_in(client: TestClient) -> Any:
    """Go there and back; return the answer."""
    return client.get(there_and(client))


def me(client: TestClient) -> Any:
    """Return who is signed in."""
    return client.get("/api/me").json()


def link(dsn: str, name: str, role: access.Role, identity: identities.Identity) -> None:
    """Add a person who signs in by an identity."""
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, Principal(name, role), "ann", now)
        assert identities.link(connection, name, identity, "ann", now) == name


def test_who_was_linked_signs_in_and_out_as_with_a_key(dsn: str, client: TestClient, issuer: Provider) -> None:
    link(dsn, "anna", "operator", identities.Identity(issuer.url, "248289761001", None))
    page = client.get("/console/sign-in", params={"next": "/console/season?a=b&c"})
    assert 'href="/console/sign-in/oidc?next=/console/season%3Fa%3Db%26c"' in page.text
    assert "Sign in with &lt;b&gt;" in page.text
    answer = client.get(there_and(client, "/console/season?a=b&c"))
    assert answer.status_code == 200
    assert 'content="0; url=/console/season?a=b&amp;c"' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert any(
        one.startswith(f"{COOKIE}=") and "HttpOnly" in one and "samesite=strict" in one.lower() for one in cookies
    )
    assert any(one.startswith(f'{PENDING_COOKIE}=""') for one in cookies)
    assert me(client) == {"name": "anna", "role": "operator", "regions": ["north", "south"]}
    csrf = client.get("/console/parcels").text.partition('name="csrf-token" content="')[2].partition('"')[0]
    assert client.post("/console/sign-out", data={"csrf": csrf}).headers["location"] == "/console/sign-in"
    assert client.get("/api/me").status_code == 401
    asked = issuer.asked[0]
    assert asked["redirect_uri"] == "http://127.0.0.1:80/console/sign-in/callback".replace(":80", "")
    assert {"openid", "email"} == set(asked["scope"].split())
    for back in ("https://elsewhere/", "//elsewhere", "/console/\\elsewhere", "javascript:alert(1)"):
        assert "url=/console/inbox" in client.get(there_and(client, back)).text
    drawn = [one[name] for one in issuer.asked for name in ("state", "nonce", "code_challenge")]
    assert len(set(drawn)) == len(drawn) == 15


def test_an_email_counts_once_and_verified(dsn: str, client: TestClient, issuer: Provider) -> None:
    """The first who has it is the person; who is given the same address later is not."""
    link(dsn, "anna", "reader", identities.Identity(issuer.url, "", "anna@example.org"))
    issuer.person = {"sub": "1", "email": "Anna@Example.org"}
    for forged in ({}, {"email_verified": False}, {"email_verified": 1.5}):
        issuer.forged = forged
        assert sign_in(client).status_code == 403
    issuer.forged, issuer.userinfo = {}, {"email_verified": True, "email": "anna@elsewhere.example"}
    assert sign_in(client).status_code == 403  # which is said of another address
    issuer.forged = {"email": None}
    issuer.userinfo = {"sub": "2", "email_verified": True}  # of somebody else
    assert sign_in(client).status_code == 401
    issuer.userinfo = {"email_verified": True}
    assert sign_in(client).status_code == 200
    assert me(client)["name"] == "anna"
    issuer.forged = {"sub": "2", "email_verified": True}
    refused = sign_in(client)
    assert (refused.status_code, "anna@example.org (subject 2) has no access here" in refused.text) == (403, True)
    issuer.forged = {"email": "changed@example.org"}
    assert sign_in(client).status_code == 200
    with engine(dsn).begin() as connection:
        access.end_person(connection, "anna", datetime.now(UTC))
    assert "any more" in sign_in(client).text


def test_groups_give_a_role_and_regions_and_take_them(dsn: str, client: TestClient, issuer: Provider) -> None:
    issuer.person = {"sub": "1", "email": "bea@example.org", "email_verified": True, "groups": ["other"]}
    assert sign_in(client).status_code == 403
    for groups, role, regions in (
        (["field south", "field north"], "inspector", ["north", "south"]),
        ("field north", "inspector", ["north"]),
        (["staff", 7], "reader", ["north", "south"]),
        (["staff", "field south"], "inspector", ["south"]),
    ):
        issuer.person["groups"] = groups
        assert sign_in(client).status_code == 200, groups
        assert me(client) == {"name": "bea@example.org", "role": role, "regions": regions}
    issuer.person["groups"] = []
    with engine(dsn).begin() as connection:
        now = datetime.now(UTC)
        assert access.add_key(connection, "k", "bea@example.org", "t", "h", "ann", now, now + timedelta(days=1))
    assert sign_in(client).status_code == 403
    assert client.get("/api/me").status_code == 401  # what had begun has ended, too
    with engine(dsn).begin() as connection:
        (bea,) = access.people(connection)
        assert (bea.regions, bea.keys, bea.ended_at is None) == ([], [], False)
    issuer.person["groups"] = ["staff"]
    assert sign_in(client).status_code == 200
    with engine(dsn).begin() as connection:  # as `access remove`: groups do not bring her back
        access.end_person(connection, "bea@example.org", datetime.now(UTC))
        identities.keep_out(connection, "bea@example.org")
    assert sign_in(client).status_code == 403
    # A name that is somebody's already, or that of a login of the database, is nobody else's.
    issuer.forged = {"sub": "2"}
    assert "somebody else&#39;s" in sign_in(client).text
    issuer.forged = {"sub": "parcelwatch_admin", "email": None}
    issuer.person["email_verified"] = None
    assert "somebody else&#39;s" in sign_in(client).text


def _by_hand(header: dict[str, Any], claims: dict[str, Any], key: bytes = b"") -> str:
    """Return an ID token as no library makes it: unsigned, or signed with what the client knows too."""
    signed = ".".join(_base64(json.dumps(one).encode()) for one in (header, claims))
    return f"{signed}.{_base64(hmac.digest(key, signed.encode(), 'sha256')) if key else ''}"


def _base64(given: bytes) -> str:
    return urlsafe_b64encode(given).decode().rstrip("=")


def test_what_is_forged_signs_nobody_in(
    dsn: str, client: TestClient, issuer: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    link(dsn, "anna", "admin", identities.Identity(issuer.url, "248289761001", None))
    now = int(time.time())
    for claims in (
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"azp": "another"},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"exp": now - 61},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": now + 300},
        {"iat": None},
        {"nbf": now + 300},
        {"sub": None},
        {"sub": ["248289761001"]},
        {"sub": "x" * 256},
        {"sub": "2\x00"},
        {"at_hash": "another"},
    ):
        issuer.forged = claims
        refused = sign_in(client)
        assert (refused.status_code, "is refused" in refused.text) == (401, True), claims
        assert COOKIE not in client.cookies
    issuer.forged = {}
    other, same_name = RSAKey.generate_key(2048, {"kid": "2"}), RSAKey.generate_key(2048, {"kid": "1"})
    for sign in (
        lambda one: _by_hand({"alg": "none"}, one),
        lambda one: _by_hand({"alg": "none", "kid": "1"}, one) + issuer.signed(one).rpartition(".")[2],
        lambda one: _by_hand({"alg": "HS256", "kid": "1"}, one, SECRET.encode()),
        lambda one: _by_hand({"alg": "HS256", "kid": "1"}, one, issuer.key.as_pem(private=False)),
        lambda one: jwt.encode({"alg": "RS256", "kid": "2"}, one, other),
        lambda one: jwt.encode({"alg": "RS256"}, one, other),
        lambda one: jwt.encode({"alg": "RS256", "kid": "1"}, one, same_name),
        lambda one: jwt.encode({"alg": "RS256", "kid": "2", "jku": "http://localhost:1"}, one, other),
        lambda one: issuer.signed(one)[:-8],
        lambda _: "",
        lambda _: "a.b.c",
    ):
        issuer.sign = sign
        refused = sign_in(client)
        assert (refused.status_code, "not to be believed" in refused.text) == (401, True)
    assert COOKIE not in client.cookies
    assert SECRET not in caplog.text
    # A new key of the issuer's is fetched; aud may be a list with us alone.
    issuer.key, issuer.sign, issuer.forged = (
        other,
        lambda one: jwt.encode({"alg": "RS256", "kid": "2"}, one, other),
        {"aud": [CLIENT]},
    )
    assert sign_in(client).status_code == 200


def test_a_way_back_is_taken_once_by_the_browser_that_began(dsn: str, client: TestClient, issuer: Provider) -> None:
    link(dsn, "anna", "admin", identities.Identity(issuer.url, "248289761001", None))

    def refused(address: str, status: int) -> None:
        answer = client.get(address)
        assert (answer.status_code, COOKIE in client.cookies) == (status, False), answer.text
        assert "Sign in" in answer.text

    back = there_and(client)
    mine = client.cookies[PENDING_COOKIE]
    client.cookies.clear()
    refused(back, 400)  # in another browser
    there_and(client)
    refused(back, 400)  # in one that has begun its own
    client.cookies.clear()
    client.cookies.set(PENDING_COOKIE, mine)
    refused(back.replace("state=", "state=0"), 400)
    refused("/console/sign-in/callback", 400)
    assert client.get(back).status_code == 200
    client.cookies.clear()
    client.cookies.set(PENDING_COOKIE, mine)
    refused(back, 400)  # the state again
    client.cookies.clear()
    # The code again, with a state of one's own, and one of another sign-in: the verifier is not its own.
    used = parse_qs(urlsplit(back).query)["code"][0]
    for code in (used, parse_qs(urlsplit(there_and(client)).query)["code"][0], "made-up"):
        fresh = parse_qs(urlsplit(there_and(client)).query)["state"][0]
        refused(f"/console/sign-in/callback?code={code}&state={fresh}", 401)
    # What the issuer says instead of a code; its name where it gives another.
    for query in ("error=access_denied%3Cb%3E", "code=1&iss=https%3A%2F%2Felsewhere.example", ""):
        fresh = parse_qs(urlsplit(there_and(client)).query)["state"][0]
        refused(f"/console/sign-in/callback?state={fresh}&{query}", 401)
    # Too late.
    back = there_and(client)
    with psycopg.connect(dsn) as connection:
        connection.execute("update parcelwatch_access.pending_sign_ins set expires_at = now()")
    refused(back, 400)


def test_an_issuer_that_cannot_be_asked_is_named(
    client: TestClient, issuer: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(said: str) -> None:
        answer = client.get("/console/sign-in/oidc")
        assert (answer.status_code, said in answer.text) == (503, True), answer.text
        assert "Your key" in answer.text  # which still lets in
        assert caplog.records[-1].getMessage().startswith(f"sign-in: {issuer.url} cannot be asked: ")

    for metadata, said in (
        ({"issuer": issuer.url + "/"}, "PARCELWATCH_OIDC_ISSUER must be the same"),
        ({"token_endpoint": "http://elsewhere.example/token"}, "publishes no token_endpoint with https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "publishes no authorization_endpoint with https"),
        ({"jwks_uri": None}, "publishes no jwks_uri with https"),
        ({"jwks_uri": issuer.url + "/nowhere"}, "answers 404"),
        ({"jwks_uri": issuer.url + "/userinfo"}, "answers 404"),
        ({"jwks_uri": issuer.url + "/.well-known/openid-configuration"}, "its keys cannot be read"),
    ):
        issuer.metadata = metadata
        refused(said)
    gone = OidcSettings(issuer="http://127.0.0.1:1", client_id="a", client_secret=SecretStr("b"))
    issuer.url = "http://127.0.0.1:1"
    client.app.state.issuer = Issuer(gone)  # type: ignore[attr-defined]
    refused("there is no connection")
    # Beyond this machine the way back is one of https; without configuration there is neither button nor address.
    assert client.get("/console/sign-in/oidc", headers={"Host": "elsewhere.example"}).status_code == 503
    client.app.state.issuer = None  # type: ignore[attr-defined]
    assert "Sign in with" not in client.get("/console/sign-in").text
    for path in ("oidc", "callback?state=1&code=2"):
        assert client.get(f"/console/sign-in/{path}").status_code == 404


def test_people_are_linked_by_command(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)

    def run(*arguments: str) -> tuple[int, str]:
        found = CliRunner().invoke(access_app, list(arguments), env={"COLUMNS": "200"})
        return found.exit_code, f"{found.output} {found.exception or ''}"

    run("add", "anna", "--role", "reader")
    run("add", "bob", "--role", "reader")
    assert "PARCELWATCH_OIDC_ISSUER" in run("link", "anna", "--subject", "1")[1]
    for name, value in (("ISSUER", "https://issuer.example"), ("CLIENT_ID", "a"), ("CLIENT_SECRET", "b")):
        monkeypatch.setenv(f"PARCELWATCH_OIDC_{name}", value)
    assert run("link", "anna", "--email", "Anna@example.org")[0] == 0
    assert "one of --email and --subject" in run("link", "anna")[1]
    assert "is no e-mail" in run("link", "anna", "--email", "anna@\N{KELVIN SIGN}.example")[1]
    assert "'anna'" in run("link", "bob", "--email", "anna@example.org")[1]
    run("grant", "eve", "--region", "north")  # a login of the database, no person
    assert "nobody called 'eve'" in run("link", "eve", "--subject", "1")[1]
    assert "anna@example.org" in run("list")[1]
    assert run("link", "bob", "--subject", "1")[0] == run("unlink", "anna")[0] == 0
    assert "'anna' is linked to no account" in run("unlink", "anna")[1]


def test_ended_sign_ins_are_removed_the_oldest_first(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("insert into parcelwatch_access.people values ('anna', 'reader', 'ann', now())")
        connection.execute("""insert into parcelwatch_access.sessions (token_hash, person, begun_at, expires_at, ended_at)
                              select name::bytea, 'anna', now(), now() + expires, now() + ended from (values
                                  ('open', interval '1 day', null), ('just over', '-29 days', null), ('ran out', '-31 days', null),
                                  ('older', '-32 days', null), ('signed out', '1 day', interval '-40 days')) v (name, expires, ended)""")
        connection.execute("""insert into parcelwatch_access.pending_sign_ins
                              select name::bytea, '/', now() + expires from (values ('waits', interval '1 minute'), ('late', '-1 s')) v
                                  (name, expires)""")

    def left() -> set[str]:
        with psycopg.connect(dsn) as connection:
            return {
                bytes(name).decode()
                for table in ("sessions", "pending_sign_ins")
                for (name,) in connection.execute(f"select token_hash from parcelwatch_access.{table}".encode())
            }

    with engine(dsn).begin() as ours:
        assert identities.remove_ended(ours, timedelta(days=30), 2) == 3
    assert left() == {"open", "just over", "ran out", "waits"}
    with engine(dsn).begin() as ours:
        assert identities.remove_ended(ours, timedelta(days=30), 2) == 1
    assert left() == {"open", "just over", "waits"}
