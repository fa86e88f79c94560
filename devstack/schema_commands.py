"""`parcelwatch db`: the schema of the store."""

from typing import Annotated

import typer

from db import migrate
from devstack.addresses import resolve_dsn

app = typer.Typer(no_args_is_help=True, help="The store's schema.")


@app.command()
def upgrade(revision: Annotated[str, typer.Argument(help="revision to go up to")] = "head") -> None:
    """Bring the schema up to date."""
    migrate.upgrade(resolve_dsn(), revision)
    typer.echo(f"the schema is at {revision}")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="revision to go down to; `base` removes everything")],
) -> None:
    """Bring the schema down to an older revision; what it does not have is deleted."""
    migrate.downgrade(resolve_dsn(), revision)
    typer.echo(f"the schema is at {revision}")
