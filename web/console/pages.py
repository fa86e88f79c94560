"""The pages of the console, each with its routes."""

from typing import Final

from fastapi import APIRouter

from web.console import assets, inbox, map, parcel, quality, sign_in

ROUTERS: Final[tuple[APIRouter, ...]] = (
    assets.router,
    sign_in.router,
    inbox.router,
    map.router,
    parcel.router,
    parcel.data_router,
    quality.router,
)
