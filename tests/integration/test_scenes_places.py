"""What an item may name: no file, server or format that nobody in charge allowed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ingest.scenes.adding import scenes_at
from tests.made_scenes import World, optical, s2_item, world

BOXES = {"a": (2.2, 2.2, 20.2, 20.2)}


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; /to/ADDRESS leads elsewhere. Ranges are not kept to: GDAL then reads the whole."""

    asked: list[str]
    redirects: dict[str, str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if target := self.server.redirects.get(self.path):  # type: ignore[attr-defined]
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    asked: list[str]
    redirects: dict[str, str]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    made = []
    for _ in range(2):
        server = Server(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
        server.asked, server.redirects = [], {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
    yield made[0], made[1]
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def chain(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    with world(dsn, bootstrap, topic_prefix, tmp_path / "scenes") as made:
        made.store_parcels(BOXES)
        made.folders = ()
        yield made


def named(item: Path, href: str) -> Path:
    parsed = json.loads(item.read_text())
    parsed["assets"]["B04"]["href"] = href
    item.write_text(json.dumps(parsed))
    return item


def cut(chain: World, item: Path) -> tuple[str, str | None, str]:
    chain.add(item)
    worker = chain.worker()
    worker.run(threading.Event(), until_idle=True)
    worker.close()
    row = chain.the_scene()
    return row.state, row.cause, str(row.told)


@pytest.mark.parametrize(
    "href",
    [
        "/etc/hostname",
        "{outside}/B04.tif",
        "../../../outside/B04.tif",
        "./link.tif",
        "file:///etc/hostname",
        "/vsicurl/http://{host}/B04.tif",
        "/vsizip//vsicurl/http://{host}/a.zip/B04.tif",
        "/vsimem/x",
        "/vsistdin/",
        "zip+http://{host}/a.zip!B04.tif",
        "s3://bucket/B04.tif",
        "http://{host}/outside/B04.tif",
        "GTIFF_DIR:1:{outside}/B04.tif",
        "<VRTDataset/>",
        "http://{host}:99999/x",
        "HTTP://{host}/x",
        "http://allowed@{host}/outside/B04.tif",
    ],
)
def test_an_item_names_no_file_or_server_that_is_not_allowed(
    chain: World, tmp_path: Path, servers: tuple[Server, Server], href: str
) -> None:
    internal, _ = servers
    item = s2_item(tmp_path / "scenes", optical(1))
    outside = tmp_path / "outside"
    outside.mkdir()
    (item.parent / "B04.tif").rename(outside / "B04.tif")
    (item.parent / "link.tif").symlink_to(outside / "B04.tif")
    state, cause, told = cut(chain, named(item, href.format(outside=outside, host=internal.host)))
    assert (state, cause) in (("failed", "not_allowed"), ("failed", "unreadable")), told
    assert cause == "not_allowed" or "cannot be read" in told
    assert internal.asked == []


def test_allowed_hosts_are_asked_and_redirects_are_checked_before(
    chain: World, tmp_path: Path, servers: tuple[Server, Server]
) -> None:
    allowed, internal = servers
    chain.hosts = [allowed.host]
    item = s2_item(tmp_path / "scenes", optical(1))
    place = f"/scenes/{item.parent.name}/B04.tif"
    allowed.redirects["/B04.tif"] = f"http://{internal.host}{place}"
    state, cause, told = cut(chain, named(item, f"http://{allowed.host}/B04.tif"))
    assert (state, cause) == ("failed", "not_allowed"), told
    assert allowed.asked
    assert internal.asked == []
    allowed.redirects["/B04.tif"] = place
    assert cut(chain, named(item, f"http://{allowed.host}/B04.tif"))[0] == "cut"


def test_a_safe_outside_of_the_allowed_folders_is_not_opened(chain: World, tmp_path: Path) -> None:
    name = "S2A_MSIL2A_20230501T105621_N0509_R094_T31UFU_20230501T170300"
    (tmp_path / "elsewhere" / f"{name}.SAFE").mkdir(parents=True)
    place = str(tmp_path / "elsewhere" / f"{name}.SAFE")
    chain.publisher.publish(scenes_at(place, None, lambda _: None, chain.now()))
    worker = chain.worker()
    worker.run(threading.Event(), until_idle=True)
    worker.close()
    assert chain.the_scene().cause == "not_allowed"
