"""The pages of the console, each with its routes."""

from typing import Final

from fastapi import APIRouter

from web.console import assets, health, inbox, map, parcel, quality, rounds, season, sign_in, subscriptions

ROUTERS: Final[tuple[APIRouter, ...]] = (
    assets.router,
    sign_in.router,
    inbox.router,
    map.router,
    parcel.router,
    parcel.data_router,
    season.router,
    rounds.router,
    quality.router,
    subscriptions.router,
    health.router,
)
