"""Pictures of the console on a season, as a browser of this machine shows it: on a desktop, in the dark, on a telephone."""

import base64
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import uvicorn

from db.connect import bounded_engine
from terminal.errors import UserError
from web.app import create_app
from web.serve_command import visitors_key
from web.settings import WebSettings

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
PAGES: Final = ("inbox", "parcel", "map", "season", "quality", "health")
SCREENS: Final = {"desktop": (1280, 800, "light"), "dark": (1280, 800, "dark"), "telephone": (390, 844, "light")}
"""Width and height in CSS pixels, and the colour scheme. Of the parcel, whose curves stand below, twice the height."""
SOFTWARE: Final = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""The map without a graphics card."""
QUALITY: Final = 80
"""Of WebP; chosen because text stays sharp, at 20 to 90 kB a picture."""
PATIENCE_MS: Final = 20_000


class NoPictures(UserError):
    """No browser of this machine could take them; the message says why, and the caller goes on without."""


@dataclass(frozen=True)
class Picture:
    """A page on a screen."""

    page: str
    screen: str
    webp: bytes

    @property
    def address(self) -> str:
        """The picture as an address that holds all of it."""
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode()}"


def taken(dsn: str, alert: int | None = None) -> list[Picture]:
    """Return pictures of the console's pages, by page, then screen.

    Args:
        dsn: of the database that is served, on a free port of the loopback, meanwhile.
        alert: whose parcel is shown, if the first page of the inbox has it; else the first one there.

    Raises:
        NoPictures: there is no browser, or it does not run.
    """
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise NoPictures("no Chromium is on the path")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoPictures("playwright is not installed") from None
    with _served(dsn) as (address, key):
        try:
            with sync_playwright() as started:
                sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = started.chromium.launch(executable_path=program, args=[*SOFTWARE, *sandbox])
                page = browser.new_context(reduced_motion="reduce").new_page()
                page.set_default_timeout(PATIENCE_MS)
                page.goto(f"{address}/console/inbox")
                page.get_by_label("Your key").fill(key)
                page.keyboard.press("Enter")
                page.get_by_role("heading", name="Inbox").wait_for()
                addresses = {name: f"/console/{name}" for name in PAGES} | {"parcel": _parcel(page, alert)}
                pictures = [one for name in PAGES for one in _of_page(page, name, address + addresses[name])]
                browser.close()
                return pictures
        except Error as error:
            raise NoPictures(f"the browser failed: {str(error).strip().splitlines()[0]}") from error


def _parcel(page: Any, alert: int | None) -> str:
    """Return the address of the parcel that an alert of the inbox is about, else of the search."""
    own = page.locator(f'.line[data-keys="{alert}"] a[href^="/console/parcel/"]')
    found = own.or_(page.locator('.line a[href^="/console/parcel/"]'))
    chosen = own if own.count() else found
    return str(chosen.first.get_attribute("href")) if found.count() else "/console/parcels"


def _of_page(page: Any, name: str, address: str) -> Iterator[Picture]:
    """Yield a page on each screen."""
    browser = page.context.new_cdp_session(page)
    for nr, (screen, (width, height, scheme)) in enumerate(SCREENS.items()):
        page.set_viewport_size({"width": width, "height": height * 2 if name == "parcel" else height})
        page.emulate_media(color_scheme=scheme)
        if nr == 0 or (name, screen) == ("map", "telephone"):  # a map that is opened fits its place
            page.goto(address)
        page.locator("#map[aria-busy], #parcel[aria-busy]").wait_for(state="detached")
        # What a script draws anew when its place changes.
        page.wait_for_timeout(400 if name in ("map", "parcel") else 50)
        said = browser.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        yield Picture(name, screen, base64.b64decode(said["data"]))
    browser.detach()


@contextmanager
def _served(dsn: str) -> Iterator[tuple[str, str]]:
    """Serve the console of a database within the context; yield its address, and a key for an hour."""
    key = visitors_key(dsn, "pictures", timedelta(hours=1))
    made = bounded_engine(dsn, 4, 30.0)
    app = create_app(made, WebSettings(requests_per_minute=10_000))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", key
    finally:
        server.should_exit = True
        thread.join()
        made.dispose()
