"""`parcelwatch stack`: the embedded servers from the command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from db.connect import address_parts
from db.errors import DatabaseUnavailable
from devstack import archive, broker, folders, kafka, postgres, stack
from devstack.errors import StackError
from devstack.provision import provision
from terminal.output import error_console, plain

app = typer.Typer(no_args_is_help=True, help="A database server and a broker of your own, without Docker or root.")

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="PARCELWATCH_HOME",
        file_okay=False,
        help="Folder of the stack.  [default: parcelwatch in your data folder; /var/lib/parcelwatch for root]",
    ),
]

_KINDS: Final[dict[stack.Kind, str]] = {"memory": "in memory", "kafka": "Apache Kafka"}


@app.command()
def up(
    home: Home = None,
    fast: Annotated[bool, typer.Option("--fast", help="Force nothing to disk: for data nobody will miss.")] = False,
    kind: Annotated[
        stack.Kind | None,
        typer.Option("--broker", help="kafka keeps its records, memory forgets them.  [default: as before]"),
    ] = None,
) -> None:
    """Start the servers; the first time, fetch their programs and make the database."""
    with _plain_errors(), _shown_progress() as progress:
        started = stack.up(_home(home), os.environ, progress, fast, kind)
    _print_addresses(started)
    typer.echo("`parcelwatch stack down` stops them, `parcelwatch stack psql` opens the database.")


@app.command()
def fetch() -> None:
    """Fetch the servers' programs, so that the first `up` needs no network."""
    with _plain_errors(), _shown_progress() as progress:
        programs = provision(folders.cache_folder(os.environ, os.geteuid() == 0), os.environ, progress)
    typer.echo(f"The programs are in {programs.server.parent}.")


@app.command()
def status(
    home: Home = None,
    env: Annotated[bool, typer.Option("--env", help="Print the addresses, with the password, as exports.")] = False,
    dsn: Annotated[bool, typer.Option("--dsn", help="Print the database's address alone, with the password.")] = False,
) -> None:
    """Say what runs and where; the exit code is 1 unless both servers run."""
    with _plain_errors():
        found = stack.status(_home(home))
    if dsn and found.stack:
        typer.echo(found.stack.dsn)
    elif env and found.stack:
        typer.echo(f"export PARCELWATCH_DSN={shlex.quote(found.stack.dsn)}")
        typer.echo(f"export PARCELWATCH_BOOTSTRAP={shlex.quote(found.stack.bootstrap)}")
    elif found.stack:
        _print_addresses(found.stack, _process(found.database), f" {_KINDS[found.kind]}{_process(found.broker)}")
    else:
        typer.echo(f"database  {'runs' if found.database else 'stopped'}{_process(found.database)}", err=env or dsn)
        typer.echo(
            f"broker    {'runs' if found.broker else 'stopped'}, {_KINDS[found.kind]}{_process(found.broker)}",
            err=env or dsn,
        )
        typer.echo(f"home      {found.home}; `parcelwatch stack up` starts what is stopped", err=env or dsn)
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, home: Home = None) -> None:
    """Open the database in psql; what follows `--` goes to psql (`psql -- -c 'select 1'`)."""
    with _plain_errors():
        found = stack.status(_home(home)).stack
        if found is None:
            raise StackError("the stack is not up: start it with `parcelwatch stack up`")
        programs = provision(folders.cache_folder(os.environ, os.geteuid() == 0), os.environ, archive.silent)
        address = address_parts(found.dsn)
        names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
        environment = {**os.environ, **{name: address[key] for name, key in names.items()}}
        os.execve(programs.program("psql"), ["psql", *context.args], environment)


@app.command()
def down(
    home: Home = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the database and everything in it, too.")] = False,
) -> None:
    """Stop the servers; the database stays on disk, Apache Kafka's records too, those of a broker in memory are gone."""
    with _plain_errors():
        was_there = stack.down(_home(home), delete)
    if not was_there:
        typer.echo("Nothing was running.")
    else:
        typer.echo("Stopped and deleted." if delete else "Stopped. The database is kept; `--delete` removes it.")


def _home(chosen: Path | None) -> Path:
    """Return the home folder asked for, else the default one."""
    return chosen.expanduser().resolve() if chosen else folders.home_folder(os.environ, os.geteuid() == 0)


def _print_addresses(found: stack.Stack, database_note: str = "", broker_note: str = "") -> None:
    """Print where the servers are; the password stays in its file."""
    address = address_parts(found.dsn)
    typer.echo(f"database  {address['host']}:{address['port']}/{address['dbname']} as {address['user']}{database_note}")
    typer.echo(f"broker    {found.bootstrap}{broker_note}")
    typer.echo(f"home      {found.home}")


def _process(server: postgres.Server | broker.Server | kafka.Server | None) -> str:
    """Return a server's process, in parentheses; nothing if it does not run."""
    return f" (process {server.pid})" if server else ""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """End the command with one line and exit code 1 where the stack or the system says no."""
    try:
        yield
    except (StackError, DatabaseUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"error: {error.filename or 'the stack'}: {error.strerror or error}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _shown_progress() -> Iterator[archive.Progress]:
    """A progress report for people, on standard error: a bar per step, or a line per step in a log."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    shown = Progress(*columns, console=error_console)
    steps: dict[str, TaskID] = {}

    def finish() -> None:
        for step in steps.values():
            shown.update(step, total=1.0, completed=1.0)

    def report(what: str, done: float | None) -> None:
        if what not in steps:
            finish()
            steps[what] = shown.add_task(what, total=None)
            if error_console.file.isatty():
                shown.start()
            else:
                error_console.print(plain(what))
        shown.update(steps[what], total=None if done is None else 1.0, completed=done or 0.0)

    try:
        yield report
        finish()
    finally:
        if shown.live.is_started:
            shown.stop()
