"""`parcelwatch serve`: the API and the console, until interrupted."""

from typing import Annotated

import typer
import uvicorn

from db.connect import bounded_engine
from devstack.addresses import resolve_dsn
from terminal.output import console
from web.app import create_app
from web.settings import OidcSettings, WebSettings


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on, else that of PARCELWATCH_WEB_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port, else that of PARCELWATCH_WEB_PORT; 0: any free one")
    ] = None,
) -> None:
    """Serve the API and the console. Who may sign in: `parcelwatch access add`."""
    settings, oidc = WebSettings(), OidcSettings()
    run(settings.dsn.get_secret_value() if settings.dsn else resolve_dsn(), settings, host, port, oidc)


def run(
    dsn: str, settings: WebSettings, host: str | None = None, port: int | None = None, oidc: OidcSettings | None = None
) -> None:
    """Serve a database until interrupted, at the address of the settings unless another is given."""
    engine = bounded_engine(dsn, settings.connections, settings.statement_timeout_s)
    with engine.connect():  # says in one line where there is no database
        pass
    config = uvicorn.Config(
        create_app(engine, settings, oidc),
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,  # streams of events have no end of their own
    )
    server = _Server(config)
    server.run()
    engine.dispose()


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers if self.started else ():
            host, port = server.sockets[0].getsockname()[:2]
            console.print(f"http://{host}:{port}", soft_wrap=True)
