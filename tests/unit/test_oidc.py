"""Settings of sign-in by OpenID Connect, and the groups that a claim holds."""

from typing import Any

import pytest
from pydantic import ValidationError

from web.oidc import groups_of
from web.settings import OidcSettings, is_protected

WHOLE = {"issuer": "https://issuer.example/realms/a", "client_id": "a", "client_secret": "s3cret"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"client_id": None, "client_secret": None},
            "needs PARCELWATCH_OIDC_CLIENT_ID and PARCELWATCH_OIDC_CLIENT_SECRET",
        ),
        ({"issuer": None}, "needs PARCELWATCH_OIDC_ISSUER"),
        ({"issuer": "http://issuer.example"}, "with https"),
        ({"issuer": "https://issuer.example?a=b"}, "without ?"),
        ({"scope": "email"}, "PARCELWATCH_OIDC_SCOPE has no openid"),
        ({"groups": {"a": {"role": "inspector"}}}, "inspectors need regions"),
        ({"groups": {"a": {"role": "admin", "regions": ["north"]}}}, "take none"),
        ({"groups": {"a": {"role": "owner"}}}, "Input should be 'reader'"),
        ({"groups": {"a": {"role": "reader", "region": "north"}}}, "Extra inputs"),
    ],
)
def test_what_is_incomplete_or_unsafe_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        OidcSettings.model_validate(WHOLE | changed)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_without_an_issuer_nothing_is_asked_for() -> None:
    assert OidcSettings().issuer is None
    with pytest.raises(ValidationError, match="needs PARCELWATCH_OIDC_ISSUER"):
        OidcSettings.model_validate({"groups": {"a": {"role": "reader"}}})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://issuer.example", True),
        ("http://localhost:8080/a", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:1", True),
        ("http://issuer.example", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("http://127.0.0.1@issuer.example", False),
        ("https://a:b@issuer.example", False),
        ("https://", False),
        ("https://[::1", False),
        ("ftp://localhost", False),
        ("javascript:alert(1)", False),
        ("", False),
    ],
)
def test_only_https_leaves_this_machine(url: str, expected: bool) -> None:
    assert is_protected(url) is expected


def test_groups_lie_where_issuers_put_them() -> None:
    claims = {"groups": ["a", 7, "b"], "one": "a", "realm_access": {"roles": ["c"]}, "https://x.example/groups": ["d"]}
    for claim, groups in (
        ("groups", ["a", "b"]),
        ("one", ["a"]),
        ("realm_access.roles", ["c"]),
        ("https://x.example/groups", ["d"]),
        ("realm_access", []),
        ("realm_access.roles.of", []),
        ("none", []),
    ):
        assert groups_of(claims, claim) == groups
