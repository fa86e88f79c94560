"""The routes of the API, a file for each thing that is asked for."""

from typing import Final

from fastapi import APIRouter

from web.routes import alerts, chips, decisions, events, maps, me, quality, subscriptions

ROUTERS: Final[tuple[APIRouter, ...]] = (
    me.router,
    maps.router,
    alerts.router,
    decisions.router,
    chips.router,
    quality.router,
    subscriptions.router,
    events.router,
)
