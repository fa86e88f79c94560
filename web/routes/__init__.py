"""The routes of the API, a file for each thing that is asked for."""

from typing import Final

from fastapi import APIRouter

from web.routes import (
    alerts,
    chips,
    decisions,
    events,
    exports,
    features,
    maps,
    me,
    operation,
    parcels,
    quality,
    regions,
    subscriptions,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    me.router,
    maps.router,
    features.router,
    parcels.router,
    regions.router,
    operation.router,
    alerts.router,
    decisions.router,
    chips.router,
    quality.router,
    subscriptions.router,
    events.router,
    exports.router,
)
"""In this order: of two routes that fit a path, the first answers."""
