"""`parcelwatch status`: the state of the whole chain."""

from db import status as store
from db.connect import engine
from devstack.addresses import resolve_dsn
from monitor.inspection.listing import records
from terminal.output import console, plain


def status() -> None:
    """Show the state of the whole chain: which processes live, what is stored, what waits for what."""
    with engine(resolve_dsn()).connect() as connection:
        rows = store.status(connection)
    columns = {name: [plain(row[nr]) for row in rows] for nr, name in enumerate(("part", "what", "value"))}
    console.print(records(columns))
