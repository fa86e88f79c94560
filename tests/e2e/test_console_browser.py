"""The console in a real browser: signing in, finding an alert, looking at its parcel, dismissing it and taking that back."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest

from tests.web_server import key_of, served

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path: the console was tried in no browser")

WATCHED: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser of the machine, as it is used with a mouse or a keyboard."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield opened
        opened.close()


def serious(page: Any) -> list[str]:
    """Return what axe finds that keeps people from using a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']} at {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def test_an_alert_is_found_looked_into_dismissed_and_taken_back(dsn: str, browser: Any) -> None:
    key = key_of(dsn, "anna", "inspector", "north")
    said: list[str] = []
    with served(dsn) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_init_script(WATCHED)
        page = context.new_page()
        page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(address) else said.append(one.url))

        page.goto(address)
        assert serious(page) == []
        page.get_by_label("Your key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="1 to look at").wait_for()
        assert serious(page) == []

        page.get_by_role("link", name="Parcel north-1").click()
        page.get_by_role("heading", name="lost early").wait_for()
        page.locator("#ndvi canvas").wait_for()
        assert serious(page) == []
        page.get_by_role("slider", name="Day looked at").focus()
        for _ in range(2):  # from the curve's last day to the one of the newest posterior
            page.keyboard.press("ArrowLeft")
        assert "2025-05-31" in page.locator("#readout").inner_text()
        assert "corn 75%" in page.locator("#readout").inner_text()
        page.get_by_role("slider", name="What was known").focus()
        for _ in range(4):  # from the last record, of 2 June, back to before the alert
            page.keyboard.press("ArrowLeft")
        page.get_by_text("None: nothing departs").wait_for()
        assert "as_known_at=2025-05-29" in page.url
        page.get_by_role("button", name="Back to now").click()
        page.get_by_role("heading", name="lost early").wait_for()
        page.locator("#figures summary").click()
        page.get_by_role("row", name="2025-05-01 0.60").wait_for()

        page.get_by_role("link", name="Inbox").click()
        page.get_by_role("button", name="Decide on", exact=False).last.click()
        assert serious(page) == []
        page.get_by_role("radio", name="Dismiss no work").check()
        page.get_by_role("textbox", name="Why").fill("maize stands: <b>seen</b>")
        page.get_by_role("button", name="Record").click()
        page.get_by_text("1 alert dismissed").wait_for()
        assert _states(dsn) == {"north-1": "dismissed", "south-1": "open"}
        page.get_by_text("anna wrote: maize stands: <b>seen</b>").wait_for()
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Taken back").wait_for()
        assert _states(dsn) == {"north-1": "open", "south-1": "open"}
        assert page.evaluate("violations") == []

        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        context.close()
    assert said == []


def test_pages_fit_a_telephone_and_can_be_read_in_the_dark(dsn: str, browser: Any) -> None:
    key = key_of(dsn, "otto", "operator")
    with served(dsn) as address:
        context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)
        page = context.new_page()
        page.goto(address)
        page.get_by_label("Your key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="2 to look at").wait_for()
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert serious(page) == []
            page.get_by_role("link", name="Parcel").last.click()
            page.locator("#ndvi canvas").or_(page.get_by_role("heading", name="Parcels")).wait_for()
        for name in ("Season", "Rounds", "Health"):
            page.get_by_role("link", name=name, exact=True).click()
            page.get_by_role("heading", name=name, exact=False, level=1).wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert serious(page) == []
        context.close()


def test_a_blind_review_is_filled_in(dsn: str, browser: Any) -> None:
    with psycopg.connect(dsn) as connection:  # one of which nobody said anything yet
        connection.execute("""
            with drawn as (
                insert into quality_samples (season_key, collection, as_known_at, recorded_at, drawn_by, reason, seed, allocation, minimum,
                                             expected_wrong, confidence, second_share)
                select season_key, 'nl', '2025-06-02', '2025-06-04', 'ann', 'again', '2', 'proportional', 1, '{}', 0.95, 0 from seasons
                returning sample_key),
            strata as (insert into quality_strata select sample_key, 0, 'red', null, 2, 2, 4 from drawn)
            insert into quality_items select sample_key, parcel_key, parcel_key, 0, 'maize', 'red', '{}', null, 1 from drawn, parcels""")
    key = key_of(dsn, "anna", "inspector", "north")
    with served(dsn) as address:
        context = browser.new_context()
        context.add_init_script(WATCHED)
        page = context.new_page()
        page.goto(f"{address}/console/sign-in?next=/console/quality")
        page.get_by_label("Your key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Sample 2").click()
        page.get_by_text("This is the last parcel").wait_for()
        page.locator("#radar canvas").wait_for()
        shown = page.locator("main").inner_text()
        assert "north-1" in shown
        assert not re.search(r"\bred\b|alert|early|75%", shown)
        assert serious(page) == []
        page.get_by_role("radio", name="the crop came up and was lost").check()
        page.get_by_role("textbox", name="Why").fill("bare from May")
        page.get_by_role("button", name="Record").click()
        page.get_by_text("Nothing of this sample is left").wait_for()
        assert page.evaluate("violations") == []
        context.close()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select verdict, reason from quality_verdicts where reviewer = 'anna'").fetchall()
    assert rows == [("lost", "bare from May")]


def _states(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select source_id, state::text from alerts join parcels using (parcel_key)")
        return dict(rows.fetchall())
