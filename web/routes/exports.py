"""Exports: the parcels of a season as a file, of the regions that who asks may see."""

import itertools
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from db import access, exports
from db.access import Principal
from db.exports import Selection
from monitor.exports.files import CHUNKS, KINDS, Kind, write_geopackage
from monitor.exports.table import Export, export
from web.parameters import AsKnownAt, Text
from web.principals import Who

router = APIRouter(prefix="/api/exports", tags=["exports"])
BLOCK = 1 << 20
"""Bytes of a file that are sent at once."""


@router.get(
    "/{collection}/{season}.{kind}",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "the file",
            "content": {
                media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for media_type in KINDS.values()
            },
        }
    },
)
def export_parcels(  # what is asked, of which parcels, and who asks
    request: Request,
    who: Who,
    collection: Text,
    season: Text,
    kind: Kind,
    region: Annotated[Text | None, Query(description="only this region; else all that you see")] = None,
    as_known_at: AsKnownAt = None,
) -> StreamingResponse:
    """Return parcels with outline, declared crop, lights, likeliest crop and open alerts, all of one moment.

    An answer that breaks off is not complete: ask again.
    """
    selection = Selection(collection, season, region, as_known_at)
    blocks = _geopackage(request, who, selection) if kind == "gpkg" else _made(request, who, selection, kind)
    first = next(blocks)  # what is wrong is found here, while it can still be said
    name = quote(f"{collection}-{season}.{kind}", safe="")
    return _Export(
        first, blocks, media_type=KINDS[kind], headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    )


class _Export(StreamingResponse):
    """An answer that ends its reading of the database however it ends itself: a client may have gone."""

    def __init__(self, first: bytes, blocks: Generator[bytes, None, None], **more: Any) -> None:
        super().__init__(itertools.chain([first], blocks), **more)
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._blocks.close)


def _made(request: Request, who: Principal, selection: Selection, kind: Kind) -> Generator[bytes, None, None]:
    with _reading(request, who, selection) as table:
        yield from CHUNKS[kind](table)


def _geopackage(request: Request, who: Principal, selection: Selection) -> Generator[bytes, None, None]:
    """Yield a file that has no name any more, so that nothing stays wherever this ends."""
    with _written(request, who, selection) as file:
        while block := file.read(BLOCK):
            yield block


def _written(request: Request, who: Principal, selection: Selection) -> IO[bytes]:
    with tempfile.TemporaryDirectory() as folder, _reading(request, who, selection) as table:
        path = Path(folder) / "parcels.gpkg"
        write_geopackage(table, path)
        return path.open("rb")


@contextmanager
def _reading(request: Request, who: Principal, selection: Selection) -> Iterator[Export]:
    slots: BoundedSemaphore = request.app.state.exports
    if not slots.acquire(blocking=False):
        raise HTTPException(503, "as many exports as this server makes at once are being made", {"Retry-After": "30"})
    try:
        engine = request.app.state.gate.engine
        with access.asking(engine, who) as connection:
            exports.settle(connection, selection.as_known_at)
        with access.asking(exports.unchanging(engine), who) as connection:
            yield export(connection, selection)
    finally:
        slots.release()
