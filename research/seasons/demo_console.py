"""The demonstration's season in the console: somebody who may sign in, and the server."""

from datetime import UTC, datetime, timedelta

from db import access
from db.access import Principal
from db.connect import engine
from terminal.output import console
from web.principals import make_key
from web.serve_command import run
from web.settings import WebSettings

PERSON = Principal("demo", "operator")


def serve(dsn: str) -> None:
    """Print a key to sign in with, for a day, and serve the console until interrupted."""
    key_id, key, hashed = make_key()
    now = datetime.now(UTC)
    with engine(dsn).begin() as connection:
        access.add_person(connection, PERSON, "the demonstration", now)
        access.add_key(
            connection, key_id, PERSON.name, "demonstration", hashed, PERSON.name, now, now + timedelta(days=1)
        )
    console.print("the console, until Ctrl-C; the key to sign in with:", key, soft_wrap=True)
    run(dsn, WebSettings())
