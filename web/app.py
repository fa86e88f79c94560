"""The web server's application: who asks, what is refused, and where each route is."""

from threading import BoundedSemaphore

from fastapi import FastAPI

from db.connect import Engine
from web import problems
from web.body_limit import BodyLimit
from web.console import pages
from web.events import Feed
from web.headers import SecurityHeaders
from web.oidc import Issuer
from web.principals import Gate
from web.routes import ROUTERS
from web.settings import OidcSettings, WebSettings


def create_app(engine: Engine, settings: WebSettings, oidc: OidcSettings | None = None) -> FastAPI:
    """Return the application on a database.

    Args:
        engine: of a login that may take on the roles of people (`parcelwatch_web`), or of an administrator.
        settings: limits and times.
        oidc: of sign-in by OpenID Connect; left out, or without an issuer: by key alone.
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
    app.state.issuer = Issuer(oidc) if oidc and oidc.issuer else None
    app.state.feed = Feed(engine, settings)
    app.state.exports = BoundedSemaphore(settings.exports)
    problems.add_handlers(app)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(SecurityHeaders)
    for router in (*ROUTERS, *pages.ROUTERS):
        app.include_router(router)
    return app
