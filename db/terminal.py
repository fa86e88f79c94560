"""What people see: tables that are cut only to fit a terminal, and text from outside that is nothing but text."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table

UNBOUNDED: Final = 10_000
"""Columns where the output is no terminal: files and pipes have no width to cut to."""
NARROWEST: Final = 40
"""Columns that the last one of a table needs at least; chosen because narrower sentences are hard to read."""
_JOINERS: Final = "\u200c\u200d"
"""Invisible, but part of how some scripts are written."""


class _Console(Console):
    """A console that is as wide as its terminal; without one, as wide as what is printed (COLUMNS says otherwise)."""

    @property
    def size(self) -> ConsoleDimensions:
        if self.is_terminal or self._width is not None or "COLUMNS" in self._environ:
            return super().size
        return ConsoleDimensions(UNBOUNDED, 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


console: Final = _Console(emoji=False)


def plain(text: object) -> str:
    """Return text of any origin for `console.print`: markup in it is shown as written, and so is what would steer a terminal."""
    return escape(visible(text))


def visible(text: object) -> str:
    """Return text of any origin on one line, with escapes such as \\x1b in the place of what would steer a terminal."""
    return "".join(map(_visible, str(text)))


def table(columns: Mapping[str, Sequence[str]]) -> RenderableType:
    """Return a table that cuts nothing: its last column wraps, and where that is not enough each row becomes a block of lines.

    Args:
        columns: cells by header, of each column as many; they are markup, so text from outside goes through `plain`.
    """
    *names, last = columns
    rows = list(zip(*columns.values(), strict=True))
    wide = Table(*(Column(name, no_wrap=True) for name in names), Column(last, overflow="fold", max_width=NARROWEST))
    for cells in rows:
        wide.add_row(*cells)
    natural = Measurement.get(console, console.options.update(max_width=UNBOUNDED), wide).maximum
    if natural <= console.width:
        wide.columns[-1].max_width = None
        return wide
    blocks = [Table.grid(padding=(0, 2)) for _ in rows]
    for block, cells in zip(blocks, rows, strict=True):
        for name, cell in zip(columns, cells, strict=True):
            block.add_row(f"[dim]{name}[/]", cell)
    return Group(*(Padding(block, (0, 0, 1, 0)) for block in blocks))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode()
