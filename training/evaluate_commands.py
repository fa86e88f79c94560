"""`parcelwatch evaluate`: scores against truth that people recorded."""

import typer

from training.declaration_commands import declarations
from training.event_commands import convert, events

app = typer.Typer(no_args_is_help=True, help="Score what is found against what people recorded.")
app.command()(events)
app.command()(declarations)
app.add_typer(convert, name="convert")
