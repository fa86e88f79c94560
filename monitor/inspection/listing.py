"""Lists for people: a table where it fits the terminal, else one record after the other, so that nothing is cut."""

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table

from terminal.output import PRINTED_WIDTH, console

NARROWEST: Final = 40
"""Columns that the last one of a table needs at least; chosen because narrower sentences are hard to read."""


def records(columns: Mapping[str, Sequence[str]], printer: Console = console) -> RenderableType:
    """Return a table whose last column wraps, or, where that is not enough, each row as a block of lines.

    Args:
        columns: cells by header, of each column as many; they are markup, so text from outside goes through `plain`.
    """
    *names, last = columns
    rows = list(zip(*columns.values(), strict=True))
    table = Table(*(Column(name, no_wrap=True) for name in names), Column(last, overflow="fold", max_width=NARROWEST))
    for cells in rows:
        table.add_row(*cells)
    natural = Measurement.get(printer, printer.options.update(max_width=PRINTED_WIDTH), table).maximum
    if natural <= printer.width:
        table.columns[-1].max_width = None
        return table
    blocks = [Table.grid(Column(), Column(overflow="fold"), padding=(0, 2)) for _ in rows]
    for block, cells in zip(blocks, rows, strict=True):
        for name, cell in zip(columns, cells, strict=True):
            block.add_row(f"[dim]{name}[/]", cell)
    return Group(*(Padding(block, (0, 0, 1, 0)) for block in blocks))
