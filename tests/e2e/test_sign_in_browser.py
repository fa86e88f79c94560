"""Sign-in by OpenID Connect in a real browser, which decides which cookies go with what the issuer's page leads to."""

import os
import shutil
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from pydantic import SecretStr

from db import identities
from db.connect import engine
from tests.e2e.test_console_browser import WATCHED, serious
from tests.identity_provider import CLIENT, SECRET, provider
from tests.web_server import key_of, listening, serving
from web.settings import OidcSettings

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path: sign-in was tried in no browser")


def test_one_goes_to_the_issuer_and_comes_back_to_the_page_that_was_asked_for(filled_dsn: str) -> None:
    """The issuer is at localhost, the console at 127.0.0.1: two sites, as far as cookies go."""
    key_of(filled_dsn, "anna", "operator")
    said: list[str] = []
    with provider() as issuer:
        issuer.has_page = True  # it is its page that leads back: a redirect alone would count as ours
        with engine(filled_dsn).begin() as connection:
            anna = identities.Identity(issuer.url, issuer.person["sub"], None)
            assert identities.link(connection, "anna", anna, "ann", datetime.now(UTC)) == "anna"
        oidc = OidcSettings(issuer=issuer.url, client_id=CLIENT, client_secret=SecretStr(SECRET), name="the agency")
        with serving(filled_dsn, oidc=oidc) as app, listening(app) as address, playwright.sync_playwright() as started:
            sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
            context = browser.new_context()
            context.add_init_script(WATCHED)
            page: Any = context.new_page()
            page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
            page.goto(f"{address}/console/season")
            assert serious(page) == []
            page.get_by_role("link", name="Sign in with the agency").click()
            page.get_by_role("link", name="Continue").click()
            page.wait_for_url(f"{address}/console/season")
            assert page.locator(".who b").inner_text() == "anna"
            page.get_by_role("button", name="Sign out").click()
            page.wait_for_url(f"{address}/console/sign-in")
            page.goto(f"{address}/console/season")
            assert "sign-in?next=" in page.url
            issuer.forged = {"aud": "another"}
            page.get_by_role("link", name="Sign in with the agency").focus()
            page.keyboard.press("Enter")
            page.get_by_role("link", name="Continue").click()
            page.locator(".problem").wait_for()
            assert "is refused" in page.locator(".problem").inner_text()
            assert serious(page) == []
            assert page.evaluate("violations") == []
            browser.close()
    assert [one for one in said if "401" not in one] == []
