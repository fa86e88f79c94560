"""The largest body that a request may have: refused before it is read where its length is said, else as soon as it is longer."""

import re
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.principals import COOKIE
from web.problems import problem
from web.settings import WebSettings

WITH_PHOTO: Final = re.compile(r"/api/alerts/\d+/answer")
"""Paths that take a photo."""
_FORM_BYTES: Final = 1 << 16
"""Of a form beside its photo; and all that is taken of who has shown neither key nor sign-in."""
_LONGEST_NUMBER: Final = 18
"""Digits of a length that is read at all."""


class BodyLimit:
    """Answers 413 to bodies that are too large."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most, read = self._most(scope["path"], headers), 0
        refused = f"a body of more than {most} bytes is not taken here"
        length = headers.get("content-length", "")
        if re.fullmatch("[0-9]+", length) and (len(length) > _LONGEST_NUMBER or int(length) > most):
            await problem(413, refused)(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, refused)
            return message

        await self.app(scope, counted, send)

    def _most(self, path: str, headers: Headers) -> int:
        if "authorization" not in headers and f"{COOKIE}=" not in headers.get("cookie", ""):
            return _FORM_BYTES
        return self.settings.photo_bytes + _FORM_BYTES if WITH_PHOTO.fullmatch(path) else self.settings.body_bytes
