"""The web server's application: who asks, what is refused, and where each route is."""

from fastapi import FastAPI

from db.connect import Engine
from web import problems
from web.body_limit import BodyLimit
from web.console import pages
from web.events import Feed
from web.headers import SecurityHeaders
from web.principals import Gate
from web.routes import ROUTERS
from web.settings import WebSettings


def create_app(engine: Engine, settings: WebSettings) -> FastAPI:
    """Return the application on a database.

    Args:
        engine: of a login that may take on the roles of people (`parcelwatch_web`), or of an administrator.
        settings: limits and times.
    """
    app = FastAPI(
        title="Parcelwatch",
        version="1.0",
        description="Parcels, what was observed of them, what is believed and what departs; each sees the regions granted.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=problems.RESPONSES,
    )
    app.state.gate = Gate(engine, settings)
    app.state.settings = settings
    app.state.feed = Feed(engine, settings)
    problems.add_handlers(app)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(SecurityHeaders)
    for router in (*ROUTERS, *pages.ROUTERS):
        app.include_router(router)
    return app
