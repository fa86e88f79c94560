"""Styles and scripts of the pages, our own and those of installed packages: served from here alone, and kept by browsers for a year.

The address holds a hash of all contents, so that another content is another address; scripts import their neighbours by relative path.
"""

import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Response

STATIC: Final = Path(__file__).parent / "static"
OF_PACKAGES: Final = {
    "maplibre.js": ("maplibre", "srcjs/maplibre-gl.js"),
    "maplibre.css": ("maplibre", "srcjs/maplibre-gl.css"),
    "uplot.js": ("youplot", "vendor/uplot.iife.min.js"),
    "uplot.css": ("youplot", "vendor/uplot.min.css"),
}
"""Files of packages that are not imported: their name here, the package, the path in it."""
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
KEEP: Final = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@cache
def contents() -> dict[str, bytes]:
    """Return every asset by its name."""
    own = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}
    packaged = {name: _of_package(*place).read_bytes() for name, place in OF_PACKAGES.items()}
    return own | packaged | {"maplibre-worker.js": worker_of(packaged["maplibre.js"].decode()).encode()}


def worker_of(script: str) -> str:
    """Return the part of MapLibre's script that runs in a worker, as a script of its own.

    It would make one of itself as a blob, which the content security policy refuses. The script is in modules, each a call of `define`
    that begins a line; raises ValueError where it is made otherwise.
    """
    modules = [
        part for part in re.split(r"(?m)^(?=define\()", script) if re.match(r"define\(['\"](shared|worker)['\"]", part)
    ]
    if len(modules) != 2:
        raise ValueError(
            "this version of MapLibre has no modules `shared` and `worker`: its worker cannot be taken out"
        )
    licence = script[: script.index("*/") + 2]
    return "\n".join((licence, "const made = {}; function define(_, needs, make) { make(made); }", *modules))


@cache
def version() -> str:
    """Return the hash of all contents."""
    digest = hashlib.sha256()
    for name, content in sorted(contents().items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def url(name: str) -> str:
    """Return the address of an asset. Raises KeyError where there is none."""
    contents()[name]
    return f"/console/assets/{version()}/{name}"


@router.get("/console/assets/{of_version}/{name}")
def asset(of_version: str, name: str) -> Response:
    """Return an asset."""
    content = contents().get(name)
    if content is None or of_version != version():
        raise HTTPException(404, "no such file: reload the page")
    return Response(content, media_type=MEDIA_TYPES[Path(name).suffix], headers={"Cache-Control": KEEP})


def _of_package(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / path
