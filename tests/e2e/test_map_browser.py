"""The map in a real browser: what it draws, how it is used without a mouse, and areas."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
import uvicorn

from db import access
from db.access import Principal
from db.connect import bounded_engine, engine
from tests.filled_store import fill
from web.app import create_app
from web.principals import make_key
from web.settings import WebSettings

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


@pytest.fixture(scope="module")
def address(shared_dsn: str) -> Iterator[str]:
    """Address of a server whose parcels of the north have a hostile crop, beside one of the south."""
    fill(shared_dsn)
    with psycopg.connect(shared_dsn) as connection:
        connection.execute("update declarations set crop_name = %s", [HOSTILE])
        connection.execute(
            "update parcels set geom = ST_Translate(geom, 0.02, 0), source_id = source_id || '<b>' where source_id like 's%'"
        )
        connection.execute(
            """insert into parcels (collection, season_key, source_id, region_key, geom, recorded_at)
               select collection, season_key, 'quiet', region_key, ST_Translate(geom, 0, -0.02), now()
               from parcels where source_id = 'north-1'"""
        )
    made = bounded_engine(shared_dsn, 4, 30.0)
    app = create_app(made, WebSettings(requests_per_minute=100_000))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    made.dispose()


@pytest.fixture(scope="module")
def key(shared_dsn: str, address: str) -> str:  # noqa: ARG001, the store is filled first
    """The key of a reader."""
    key_id, whole, hashed = make_key()
    now = datetime.now(UTC)
    with engine(shared_dsn).begin() as connection:
        access.add_person(connection, Principal("rita", "reader"), "ann", now)
        access.add_key(connection, key_id, "rita", "test", hashed, "ann", now, now + timedelta(days=1))
    return whole


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
def page(browser: Any, address: str, key: str, said: list[str]) -> Iterator[Any]:
    """The map, of a reader who signed in."""
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
    page.locator("#draw").click()
    box = page.locator("#map").bounding_box()
    for x, y in ((0.15, 0.02), (0.5, 0.02), (0.5, 0.98), (0.15, 0.98)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.locator("#close-area").click()
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


def test_axe_finds_nothing_serious(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.locator("#area summary").click()
    page.locator("#list button").first.click()
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        _drawn(page)
        found = Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
