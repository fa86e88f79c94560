"""Output of the commands: consoles that never cut a table in a file, text from outside made harmless, progress."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.protocol import is_renderable
from rich.table import Table
from rich.text import Text

PRINTED_WIDTH: Final = 10_000
"""Columns of output that is not a terminal: wider than any table, so that no cell is cut or wrapped."""

LINE_EVERY_S: Final = 10.0
"""Seconds between two lines of progress where output is not a terminal."""

_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS: titles, clipboard
    r"|\x1b[ -/]*[0-~]"  # the rest
)


_FORMULA: Final = re.compile(r"((?:^|;)\s*)(?=[=+\-@＝＋－＠])")
"""Where a spreadsheet may find the beginning of a formula; the wide forms are those of East Asian keyboards."""


class WideConsole(Console):
    """A console as wide as the terminal, or as wide as the text needs where output goes to a file or a pipe.

    COLUMNS and FORCE_COLOR do not count: they describe a terminal, and a file has none.
    """

    @property  # type: ignore[misc]  # nothing sets it
    def size(self) -> ConsoleDimensions:
        """Return columns and lines that output may fill."""
        size = super().size
        return size if self.file.isatty() else ConsoleDimensions(PRINTED_WIDTH, size.height)


console: Final = WideConsole(emoji=False)
"""Standard output."""

error_console: Final = WideConsole(emoji=False, stderr=True)
"""Standard error: progress and remarks of commands whose output is read by programs."""


def printable(text: object) -> str:
    """Return a text without escape sequences and control characters, for lines printed as they are; None is empty."""
    bare = _SEQUENCE.sub("", "" if text is None else str(text))
    return "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in bare
    )


def inert(text: str | None) -> str | None:
    """Return a text for a cell of a CSV file: printable, and with an apostrophe before what a spreadsheet would run as a formula.

    Also after a semicolon, where many countries' spreadsheets begin a new cell.
    """
    return None if text is None else _FORMULA.sub(r"\1'", printable(text))


def plain(text: object) -> str:
    """Return a text from outside as rich shows it literally: printable, its brackets no markup; None is empty.

    For text among markup. A backslash at the end of the line is shown twice: `Text(printable(text))` is exact.
    """
    return escape(printable(text))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, right: Sequence[str] = ()
) -> Table:
    """Return a table of plain texts in which a narrow terminal folds what it would cut.

    Headers named in `right` are aligned to the right. Cells that rich renders (Text, Table) stay as they are.
    Raises ValueError where a row has another number of cells than there are headers.
    """
    made = Table(title=None if title is None else Text(printable(title), "table.title"))
    for header in headers:
        made.add_column(plain(header), overflow="fold", justify="right" if header in right else "left")
    for row in rows:
        made.add_row(*(_cell(cell) for _, cell in zip(headers, row, strict=True)))
    return made


def _cell(value: object) -> RenderableType:
    return value if is_renderable(value) and not isinstance(value, str) else Text(printable(value))  # type: ignore[return-value]


@dataclass
class Steps:
    """Progress of one long step: a bar on a terminal, elsewhere a line now and then with done, total and time left."""

    name: str
    printer: Console = console
    clock: Callable[[], float] = time.monotonic
    _bar: tuple[Progress, TaskID] | None = None
    _begun: float = field(init=False)
    _printed: float = field(init=False)
    _from: tuple[float, float] = field(init=False)
    """Time and `done` from which the time left is estimated: where `done` last fell, as it does for a second part."""
    _done: float = 0.0

    def __post_init__(self) -> None:
        self._begun = self._printed = self.clock()
        self._from = (self._begun, 0.0)

    def to(self, done: float, total: float | None = None, what: str = "") -> None:
        """Report that `done` of `total` units are finished; `what` says in a few words where things stand.

        A total of 1 is shown in per cent; with none there is no time left.
        """
        if self._bar is not None:
            shown, task = self._bar
            shown.update(task, completed=done, total=total, description=plain(what))
            return
        now = self.clock()
        if done < self._done:
            self._from = (now, done)
        self._done = done
        if now - self._printed >= LINE_EVERY_S:
            self._printed = now
            self._line(self._state(now, done, total, what))

    def _state(self, now: float, done: float, total: float | None, what: str) -> str:
        parts = [] if not total else [f"{done:.0%}"] if total == 1 else [f"{done:,.0f} of {total:,.0f}"]
        parts += [what] if what else []
        parts.append(f"{_duration(now - self._begun)} so far")
        since, first = self._from
        if total and first < done <= total:
            parts.append(f"about {_duration((now - since) * (total - done) / (done - first))} left")
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        self.printer.print(f"{plain(self.name)}: {plain(text)}", highlight=False)


@contextmanager
def progress(name: str, printer: Console = console, clock: Callable[[], float] = time.monotonic) -> Iterator[Steps]:
    """Show the progress of one long step until the block ends; call `to` of what is yielded as often as you like."""
    columns = (
        TextColumn(f"[bold]{plain(name):<20}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    if printer.file.isatty():
        with Progress(*columns, console=printer) as shown:
            task = shown.add_task("", total=None)
            yield Steps(name, printer, clock, (shown, task))
            shown.update(task, total=1, completed=1)
        return
    steps = Steps(name, printer, clock)
    steps._line("begins")
    yield steps
    steps._line(f"done after {_duration(clock() - steps._begun)}")


def _duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
