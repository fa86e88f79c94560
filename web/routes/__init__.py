"""The routes of the API, a file for each thing that is asked for."""

from typing import Final

from fastapi import APIRouter

from web.routes import maps, me

ROUTERS: Final[tuple[APIRouter, ...]] = (me.router, maps.router)
