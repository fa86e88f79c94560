"""Measurements in long form, and the tables made of them: mean and standard deviation over seeds, never a winner within noise.

    noise(a, b) = t(0.975, dof) s sqrt(1 / n_a + 1 / n_b)        s2 = sum dof_i s_i2 / sum dof_i, over the rows of a column

Chosen because: every row of a column is the same protocol, so its seeds scatter alike; pooled, three seeds of ten rows give
        twenty degrees of freedom where a pair of rows has four. Seeds only: that other parcels would give other scores is
        not in it.
Units:  scores 0..1; what a metric's name says.
Errors: ValueError for a file that holds no measurements.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from rich.table import Table
from scipy.stats import t as student

from terminal.output import table

CONFIDENCE = 0.95
"""Two-sided level at which two rows differ; chosen because the field prints 95 %."""

NOTE = (
    "Mean ± standard deviation over seeds. Bold: the best of its column. ≈: the best and all that seeds alone could put in its "
    "place (95 %, the column's pooled spread); then none is bold. One seed: nothing is marked."
)
"""What a reader of the tables must know."""
UNMARKED = "Mean ± standard deviation over seeds."


class Measurement(NamedTuple):
    """One figure, one row of the CSV."""

    scheme: str
    """What was measured: a fusion scheme, a single modality, the forest."""
    enhancement: str
    """Training enhancements, or another variant of the scheme."""
    seed: int
    draw: int
    """Number of the random draw at test time; draws of a seed are averaged before seeds are compared."""
    x: float
    """Where on the experiment's axis: day of the season, ratio, epoch."""
    at: str
    """The same in words, as a column is headed."""
    metric: str
    value: float


@dataclass(frozen=True)
class Cell:
    """A figure of a table: mean and standard deviation over seeds (NaN for one)."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Return the cell of one value a seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else nan, len(values))

    def text(self, digits: int = 3) -> str:
        """ "0.912 ± 0.004", or the mean alone where there is one seed."""
        return f"{self.mean:.{digits}f}" if isnan(self.sd) else f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}"


Row = tuple[str, str]
"""(scheme, enhancement)."""
Best = Literal["largest", "smallest"]


def label(row: Row) -> str:
    """Return a row as text and legends name it."""
    return ", ".join(part for part in row if part)


def cells(measurements: Sequence[Measurement], metric: str) -> dict[tuple[Row, str], Cell]:
    """Return the cell of each row and column `at`, in the order in which they were measured."""
    draws: dict[tuple[Row, str], dict[int, list[float]]] = {}
    for one in measurements:
        if one.metric == metric:
            draws.setdefault(((one.scheme, one.enhancement), one.at), {}).setdefault(one.seed, []).append(one.value)
    return {key: Cell.of([fmean(values) for values in seeds.values()]) for key, seeds in draws.items()}


def pooled_sd(column: Sequence[Cell]) -> tuple[float, int]:
    """Return the standard deviation over seeds that the rows of a column share, and its degrees of freedom; NaN, 0 for one seed each."""
    known = [one for one in column if one.n > 1]
    dof = sum(one.n - 1 for one in known)
    return (sqrt(sum((one.n - 1) * one.sd**2 for one in known) / dof), dof) if dof else (nan, 0)


def noise(a: Cell, b: Cell, column: Sequence[Cell]) -> float:
    """Return the smallest difference of two rows of a column that seeds alone do not make; infinite for one seed each."""
    sd, dof = pooled_sd(column)
    if not dof:
        return float("inf")
    return float(student.ppf((1 + CONFIDENCE) / 2, dof)) * sd * sqrt(1 / a.n + 1 / b.n)


def winners(column: Mapping[Row, Cell], best: Best = "largest") -> set[Row]:
    """Return the best row of a column and all that cannot be distinguished from it."""
    first = (max if best == "largest" else min)(column.values(), key=lambda one: one.mean)
    every = list(column.values())
    return {row for row, one in column.items() if abs(first.mean - one.mean) <= noise(first, one, every)}


def markdown(
    measurements: Sequence[Measurement], metric: str, *, title: str = "", digits: int = 3, best: Best | None = "largest"
) -> str:
    """Return a Markdown table of one metric: rows by scheme and enhancement, columns by `at`.

    A clear best is bold; where rows cannot be distinguished from the best, it and they are marked "≈" and none is bold. With one
    seed each, or where no `best` is asked for, nothing is marked.
    """
    known = cells(measurements, metric)
    rows, columns = _rows(known)
    texts = {column: _column(known, rows, column, digits, best) for column in columns}
    lines = [f"**{title or metric}**", "", f"| | | {' | '.join(columns)} |", "| --- | --- |" + " --: |" * len(columns)]
    lines += [f"| {' | '.join([*row, *(texts[column].get(row, '') for column in columns)])} |" for row in rows]
    return "\n".join([*lines, ""])


def rich_table(measurements: Sequence[Measurement], metric: str, *, title: str = "", digits: int = 3) -> Table:
    """Return the same table for the terminal."""
    known = cells(measurements, metric)
    rows, columns = _rows(known)
    texts = [[known[row, one].text(digits) if (row, one) in known else "" for one in columns] for row in rows]
    return table(("", *columns), [(label(row), *line) for row, line in zip(rows, texts, strict=True)], title or metric)


def differences(measurements: Sequence[Measurement], metric: str, reference: Row) -> str:
    """Return a Markdown table of how much each row differs from a reference row; bold: more than seeds alone could make.

    With one seed nothing is bold. Without the reference row there is nothing to say.
    """
    known = cells(measurements, metric)
    rows, columns = _rows(known)
    if reference not in rows:
        return ""
    head = f"**{metric}: difference from {label(reference)}; bold: beyond the noise of seeds ({CONFIDENCE:.0%})**"
    lines = [head, "", f"| | | {' | '.join(columns)} |", "| --- | --- |" + " --: |" * len(columns)]
    for row in (one for one in rows if one != reference):
        texts = [_difference(known, rows, row, reference, column) for column in columns]
        lines.append(f"| {' | '.join([*row, *texts])} |")
    return "\n".join([*lines, ""])


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """One row a measurement."""
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(Measurement._fields)
        writer.writerows(measurements)


def read_csv(path: Path) -> list[Measurement]:
    """Return what `write_csv` wrote.

    Raises:
        ValueError: the file has other columns.
    """
    with path.open(newline="") as rows:
        header, *lines = list(csv.reader(rows)) or [[]]
    if tuple(header) != Measurement._fields:
        raise ValueError(f"{path} holds no measurements: its columns are {', '.join(header) or 'none'}")
    return [Measurement(a, b, int(c), int(d), float(e), f, g, float(h)) for a, b, c, d, e, f, g, h in lines]


def _rows(known: Mapping[tuple[Row, str], Cell]) -> tuple[list[Row], list[str]]:
    return list(dict.fromkeys(row for row, _ in known)), list(dict.fromkeys(at for _, at in known))


def _column(
    known: Mapping[tuple[Row, str], Cell], rows: Sequence[Row], column: str, digits: int, best: Best | None
) -> dict[Row, str]:
    own = {row: known[row, column] for row in rows if (row, column) in known}
    if best is None or not pooled_sd(list(own.values()))[1]:
        return {row: one.text(digits) for row, one in own.items()}
    first = winners(own, best)
    mark = "**{}**" if len(first) == 1 else "≈ {}"
    return {row: (mark if row in first else "{}").format(one.text(digits)) for row, one in own.items()}


def _difference(
    known: Mapping[tuple[Row, str], Cell], rows: Sequence[Row], row: Row, reference: Row, column: str
) -> str:
    own = [known[one, column] for one in rows if (one, column) in known]
    if (row, column) not in known or (reference, column) not in known:
        return ""
    one, other = known[row, column], known[reference, column]
    text = f"{one.mean - other.mean:+.3f}"
    return f"**{text}**" if abs(one.mean - other.mean) > noise(one, other, own) else text
