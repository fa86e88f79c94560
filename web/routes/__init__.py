"""The routes of the API, a file for each thing that is asked for."""

from typing import Final

from fastapi import APIRouter

from web.routes import me

ROUTERS: Final[tuple[APIRouter, ...]] = (me.router,)
