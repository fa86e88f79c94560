"""The routes of the API, a file for each thing that is asked for."""

from typing import Final

from fastapi import APIRouter

from web.routes import features, me, operation, parcels, regions

ROUTERS: Final[tuple[APIRouter, ...]] = (me.router, features.router, parcels.router, regions.router, operation.router)
