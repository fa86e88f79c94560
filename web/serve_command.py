"""`parcelwatch serve`: the API and the console, until interrupted."""

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
import uvicorn

from db import access
from db.access import Principal
from db.connect import bounded_engine, engine
from db.migrate import upgrade
from devstack.addresses import resolve_dsn
from devstack.archive import silent
from devstack.errors import StackError
from devstack.folders import demonstration_folder
from devstack.temporary import is_kept, kept_again
from terminal.output import console
from web.app import create_app
from web.principals import make_key
from web.settings import OidcSettings, WebSettings

VISITOR: Final = Principal("demo", "operator")
"""Who looks at a demonstration."""


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on, else that of PARCELWATCH_WEB_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port, else that of PARCELWATCH_WEB_PORT; 0: any free one")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="the season of the last `parcelwatch demo`, with a key to sign in with")
    ] = False,
) -> None:
    """Serve the API and the console. Who may sign in: `parcelwatch access add`."""
    settings, oidc = WebSettings(), OidcSettings()
    if not demo:
        run(settings.dsn.get_secret_value() if settings.dsn else resolve_dsn(), settings, host, port, oidc)
        return
    home = demonstration_folder(os.environ, os.geteuid() == 0)
    if not is_kept(home):
        raise StackError("no demonstration is kept: run `make demo`, or `parcelwatch demo`, first")
    console.print("starting the demonstration's servers")
    with kept_again(home, os.environ, silent) as stack:
        upgrade(stack.dsn)
        serve_to_visitor(stack.dsn, settings, host, port)


def serve_to_visitor(dsn: str, settings: WebSettings, host: str | None = None, port: int | None = None) -> None:
    """Serve a demonstration until interrupted, with a key for a day."""
    key = visitors_key(dsn, "demonstration", timedelta(days=1))
    console.print("Open this address in a browser (Ctrl-C ends it), and sign in with the key:")
    console.print(f"  key      {key}", soft_wrap=True)
    run(dsn, settings, host, port, before="  address  ")


def visitors_key(dsn: str, label: str, lasts: timedelta) -> str:
    """Let the visitor of a demonstration in; return a key."""
    key_id, key, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, VISITOR, "the demonstration", now)
        access.add_key(connection, key_id, VISITOR.name, label, hashed, VISITOR.name, now, now + lasts)
    return key


# More than six: where, by what settings, and what is said.
def run(
    dsn: str,
    settings: WebSettings,
    host: str | None = None,
    port: int | None = None,
    oidc: OidcSettings | None = None,
    before: str = "",
) -> None:
    """Serve a database until interrupted, at the address of the settings unless another is given; it is printed after `before`."""
    pool = bounded_engine(dsn, settings.connections, settings.statement_timeout_s)
    with pool.connect():  # says in one line where there is no database
        pass
    config = uvicorn.Config(
        create_app(pool, settings, oidc),
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,  # streams of events have no end of their own
    )
    server = _Server(config)
    server.before = before
    server.run()
    pool.dispose()


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    before = ""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers if self.started else ():
            host, port = server.sockets[0].getsockname()[:2]
            console.print(f"{self.before}http://{host}:{port}", soft_wrap=True)
