"""The routes of the API, a file for each thing that is asked for, and those of the console's pages."""

from typing import Final

from fastapi import APIRouter

from web.console import pages
from web.routes import maps, me

ROUTERS: Final[tuple[APIRouter, ...]] = (me.router, maps.router, *pages.ROUTERS)
