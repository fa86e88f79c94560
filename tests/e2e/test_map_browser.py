"""The map in a real browser: what it draws, how it is used without a mouse, and areas."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from standardwebhooks import Webhook

from db.connect import engine
from tests.filled_store import fill
from tests.receivers import kept, running
from tests.subscribed import open_alerts
from tests.web_server import key_of, served

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path: the map was tried in no browser")

SOFTWARE: Final = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""WebGL without a graphics card, and without its warnings."""
HOSTILE: Final = "<img src=x onerror=alert(1)>'\""
WATCHED: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
NOT_OURS: Final = ("Autofocus processing", "[DOM] Password forms")
"""What Chromium says of the form to sign in."""


@contextmanager
def _map_of(dsn: str) -> Iterator[tuple[str, str]]:
    """Yield the address of a server whose parcels of the north have a hostile crop, beside one of the south, and a reader's key."""
    fill(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("update declarations set crop_name = %s", [HOSTILE])
        connection.execute(
            "update parcels set geom = ST_Translate(geom, 0.02, 0), source_id = source_id || '<b>' where source_id like 's%'"
        )
        connection.execute(
            """insert into parcels (collection, season_key, source_id, region_key, geom, recorded_at)
               select collection, season_key, 'quiet', region_key, ST_Translate(geom, 0, -0.02), now()
               from parcels where source_id = 'north-1'"""
        )
    with served(dsn) as address:
        yield address, key_of(dsn, "rita", "reader")


@pytest.fixture(scope="module")
def shared_map(shared_dsn: str) -> Iterator[tuple[str, str]]:
    """Address and key of tests that only read."""
    with _map_of(shared_dsn) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser of the machine."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=[*SOFTWARE, *sandbox])
        yield opened
        opened.close()


@pytest.fixture
def said() -> list[str]:
    """What the browser complained of, and what it asked of other machines."""
    return []


@pytest.fixture
def page(browser: Any, shared_map: tuple[str, str], said: list[str]) -> Iterator[Any]:
    """The map, of a reader who signed in."""
    with _signed_in(browser, *shared_map, said) as page:
        yield page


@contextmanager
def _signed_in(browser: Any, address: str, key: str, said: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.add_init_script(WATCHED)
    page = context.new_page()
    page.on("console", lambda one: None if one.text.startswith(NOT_OURS) else said.append(one.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((address, "data:")) else said.append(one.url))
    page.goto(f"{address}/console/map")
    page.locator("input[name=key]").fill(key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/map*")
    _drawn(page)
    yield page
    assert page.evaluate("violations") == []
    context.close()
    assert said == []


def _drawn(page: Any) -> None:
    """Wait until the map shows all it has."""
    playwright.expect(page.locator("#map")).not_to_have_attribute("aria-busy", "true", timeout=60_000)
    page.wait_for_timeout(300)


def _colours(page: Any) -> set[str]:
    """Return the colours of the map that cover more than a hundred pixels, but for its ground's."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(page.locator("#map canvas").screenshot())).convert("RGB")
    found = picture.getcolors(1 << 20) or []
    return {f"#{red:02x}{green:02x}{blue:02x}" for n, (red, green, blue) in found if n > 100} - {"#ffffff"}  # type: ignore[misc]


def test_the_map_draws_parcels_by_light_and_crop(page: Any) -> None:
    """Red and grey parcels on white, at 85 % of their colours; by crop they change, names stay text."""
    by_light = _colours(page)
    assert len(by_light) >= 2
    assert _like(by_light, "#dc7626")  # 0.85 #d55e00 + 0.15 white
    legend = page.locator("#legend button")
    assert legend.all_inner_texts() == ["Red: departs\n2", "Not judged yet\n1"]
    page.select_option("#by", "declared")
    playwright.expect(legend.first).to_have_text(f"{HOSTILE}2")
    _drawn(page)
    assert _like(_colours(page), "#52439a")  # 0.85 #332288 + 0.15 white
    assert page.locator("main img").count() == 0


def _like(colours: set[str], wanted: str) -> bool:
    of = [int(wanted[i : i + 2], 16) for i in (1, 3, 5)]
    return any(all(abs(int(one[i : i + 2], 16) - of[nr]) <= 3 for nr, i in enumerate((1, 3, 5))) for one in colours)


def test_a_day_of_the_past_is_shown(page: Any) -> None:
    """By keyboard: the first week of the season, when nothing was known."""
    page.locator("#day").focus()
    page.keyboard.press("Home")
    playwright.expect(page.locator("#legend button")).to_have_text(["Not judged yet3"], timeout=20_000)
    assert page.locator("#day-said").inner_text() == "at the end of 2025-01-01 (UTC)"
    assert "on=2025-01-01" in page.url
    _drawn(page)
    assert not _like(_colours(page), "#dc7626")


def test_a_parcel_is_found_and_led_to_by_keyboard(page: Any) -> None:
    page.locator("#id-begins").fill("south")
    page.keyboard.press("Enter")
    chosen = page.locator("#chosen")
    playwright.expect(chosen).to_be_focused(timeout=20_000)
    assert chosen.locator("h2").inner_text() == "Parcel south-1<b>"
    assert HOSTILE in chosen.inner_text()
    chosen.locator("a").press("Enter")
    page.wait_for_url("**/console/parcel/*")


def test_an_area_is_drawn_and_lists_what_lies_in_it(page: Any) -> None:
    """Four corners clicked around the two parcels in the west, then a box written around the other."""
    rows = page.locator("#list tr")
    playwright.expect(rows).to_have_count(3)
    _draw_around_the_west(page)
    playwright.expect(rows).to_have_count(2)
    page.locator("#area summary").click()
    drawn = json.loads(page.locator("#area-text").input_value())
    assert (drawn["type"], len(drawn["coordinates"][0])) == ("Polygon", 5)
    page.locator("#area-text").fill("5.02, 52, 5.05, 52.02")
    page.locator("#use-area").press("Enter")
    playwright.expect(rows).to_have_count(1)
    assert "south-1<b>" in rows.first.inner_text()
    page.locator("#area-text").fill("here")
    page.locator("#use-area").click()
    playwright.expect(page.locator("#said")).to_contain_text("neither four numbers nor GeoJSON")
    page.locator("#clear").click()
    playwright.expect(page.locator("#list-title")).to_have_text("Parcels in view")


def _draw_around_the_west(page: Any) -> None:
    """Draw an area around `north-1` and `quiet`: four corners, clicked."""
    page.locator("#draw").click()
    box = page.locator("#map").bounding_box()
    for x, y in ((0.15, 0.02), (0.5, 0.02), (0.5, 0.98), (0.15, 0.98)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.locator("#close-area").click()


# The command by itself, as in the tests of senders that are killed.
SENDER: Final = [sys.executable, "-c", "from monitor.subscriptions.delivery_commands import app; app()", "run"]


def test_a_drawn_area_is_subscribed_to_and_its_alerts_alone_are_delivered(
    dsn: str, browser: Any, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By webhook to a receiver of the loopback, through the sender as it runs; then the subscription is looked at and ended."""
    with _map_of(dsn) as one, _signed_in(browser, *one, said) as page:
        _subscribe_and_receive(dsn, page, said, tmp_path, monkeypatch)


def _subscribe_and_receive(
    dsn: str, page: Any, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = tmp_path / "received"
    with running("http", received) as port:
        for name, value in {
            "PARCELWATCH_DELIVERIES_WEBHOOK_HOSTS": '["127.0.0.1"]',
            "PARCELWATCH_DELIVERIES_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
            "PARCELWATCH_DELIVERIES_INTERVAL_S": "0.1",
            "PARCELWATCH_DSN": dsn,
        }.items():
            monkeypatch.setenv(name, value)
        _draw_around_the_west(page)
        page.get_by_role("button", name="Subscribe to its alerts").click()
        form = page.get_by_role("dialog")
        form.get_by_label("Sent by").select_option("webhook")
        form.get_by_role("button", name="Subscribe").click()
        playwright.expect(page.locator("#problem-name")).to_have_text("Give it a name, by which you know it again.")
        playwright.expect(form.get_by_label("Name of the subscription")).to_be_focused()
        form.get_by_label("Name of the subscription").fill(HOSTILE)
        form.get_by_label("Address").fill("https://elsewhere.example/hook")
        form.get_by_label("another crop than declared").check()
        form.get_by_label("red alone").check()
        form.get_by_role("button", name="Subscribe").click()
        playwright.expect(page.locator("#problem-to")).to_contain_text("elsewhere.example is not allowed")
        playwright.expect(form.get_by_label("Address")).to_be_focused()
        assert _serious(page) == []
        assert [one for one in said if "status of 422" in one] == said  # what the browser says of each refusal
        said.clear()
        form.get_by_label("Address").fill(f"http://127.0.0.1:{port}/hook")
        form.get_by_role("button", name="Subscribe").click()
        page.get_by_role("heading", name="Subscribed").wait_for()
        secret = page.locator("#secret").inner_text()

        sender = subprocess.Popen(SENDER, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
        try:
            with engine(dsn).begin() as connection:
                of: dict[str, int] = dict(
                    map(tuple, connection.exec_driver_sql("select source_id, parcel_key from parcels"))
                )
                now = datetime.now(UTC)
                outside = open_alerts(connection, [of["south-1<b>"]], now, "red")
                open_alerts(connection, [of["quiet"]], now, "yellow")
                open_alerts(connection, [of["quiet"]], now, "red", rule="no_emergence")
                (inside,) = open_alerts(connection, [of["north-1"]], now, "red")
            begun = time.monotonic()
            while not kept(received) and time.monotonic() - begun < 90:
                assert sender.poll() is None, "the sender ended"
                time.sleep(0.1)
            page.get_by_role("link", name="Your subscriptions").click()
            entry = page.get_by_role("article", name=HOSTILE)
            for _ in range(50):
                entry.get_by_text("Messages").click()
                entry.locator(".messages :is(li, p.quiet)").wait_for()
                if "1 event: sent" in entry.inner_text():
                    break
                entry.get_by_text("Messages").click()
                page.wait_for_timeout(200)
        finally:
            sender.terminate()
            sender.wait()
        (message,) = kept(received)
    headers = {name.lower(): value for name, value in message["headers"].items()}
    delivered = Webhook(secret).verify(message["body"], headers)
    assert [one["alert"] for one in delivered["data"]["events"]] == [inside]
    assert outside != [inside]
    for words in ("webhook to http://127.0.0.1", "another crop than declared", "red", "at once", "1 event: sent"):
        assert words in entry.inner_text()

    assert _serious(page) == []
    entry.get_by_role("link", name="show it on the map").click()
    playwright.expect(page.locator("#list tr")).to_have_count(2, timeout=20_000)
    page.go_back()
    page.get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="End it").click()
    playwright.expect(page.locator("#list-title")).to_have_text("You have none")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from subscriptions where ended_at is null").fetchone() == (0,)


def test_a_click_on_a_parcel_shows_it_and_a_light_can_be_seen_alone(page: Any) -> None:
    page.locator("#legend button").first.click()
    playwright.expect(page.locator("#list tr")).to_have_count(2)
    _drawn(page)
    box = page.locator("#map").bounding_box()
    # 0.03 degrees of latitude fill the height but for 30 pixels on each side; the south's parcel is 0.012 and 0.008 off their middle.
    degree = (box["height"] - 60) / 0.03
    page.mouse.click(
        box["x"] + box["width"] / 2 + 0.012 * degree * 0.616, box["y"] + box["height"] / 2 - 0.008 * degree
    )
    assert page.locator("#chosen h2").inner_text() == "Parcel south-1<b>"


def _serious(page: Any) -> list[tuple[str, str]]:
    """Return what axe finds that keeps people from using a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def test_axe_finds_nothing_serious(page: Any) -> None:
    page.locator("#area summary").click()
    page.locator("#list button").first.click()
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        _drawn(page)
        assert _serious(page) == [], (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
