"""Reading a form that was filled in: every line is right, or nothing is recorded and each wrong one is named by its number."""

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from db.quality import VerdictRow
from monitor.inspection.arguments import LONGEST_NOTE
from monitor.quality.verdicts import CHOICES
from terminal.output import printable

NEEDED: Final = ("sample", "item", "verdict", "why")
DELIMITERS: Final = ",;\t"
"""Spreadsheets of many countries write semicolons."""


@dataclass(frozen=True)
class Wrong:
    """A line of the form that cannot be recorded, and why."""

    line: int
    why: str


def read(content: bytes, sample_key: int, items: Collection[int], by: str | None) -> list[VerdictRow | Wrong]:
    """Return the verdicts of a filled form, and what is wrong with it; lines without a verdict are left out.

    Args:
        items: numbers of the sample's parcels.
        by: who reviewed, where a line does not say.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [Wrong(line, "is not UTF-8: save the form as CSV in UTF-8")]
    header = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header.count)
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found, seen = list[VerdictRow | Wrong](), dict[tuple[int, str], int]()
    try:
        if missing := [name for name in NEEDED if name not in (lines.fieldnames or ())]:
            return [Wrong(1, f"has no column {', '.join(missing)}; the form has {', '.join(NEEDED)}")]
        for cells in lines:
            if (one := _line(cells, lines.line_num, sample_key, items, by)) is None:
                continue
            if isinstance(one, VerdictRow):
                before = seen.setdefault((one.item, one.reviewer), lines.line_num)
                if before != lines.line_num:
                    one = Wrong(lines.line_num, f"says of item {one.item} again what line {before} does")
            found.append(one)
    except csv.Error as error:
        found.append(Wrong(lines.line_num + 1, f"is no CSV: {error}"))
    return found


def _line(
    cells: Mapping[str | None, object], line: int, sample_key: int, items: Collection[int], by: str | None
) -> VerdictRow | Wrong | None:
    """Return what a line says, None where it has no verdict."""
    said = {name: value.strip() if isinstance(value, str) else "" for name, value in cells.items() if name}
    if None in cells or None in cells.values():
        return Wrong(line, "has not as many cells as the header")
    verdict = said["verdict"].lower().replace(" ", "_")
    if not verdict:
        return None
    reviewer, reason = said.get("by") or by or "", said["why"]
    for why in _faults(said, verdict, reviewer, sample_key, items):
        return Wrong(line, why)
    return VerdictRow(int(said["item"]), verdict, reviewer, reason or None)


def _faults(
    said: Mapping[str, str], verdict: str, reviewer: str, sample_key: int, items: Collection[int]
) -> Iterator[str]:
    """Yield what is wrong with a line that has a verdict."""
    if said["sample"] != str(sample_key):
        yield f"is of sample {_shown(said['sample'])}, not {sample_key}"
    if not (
        said["item"].isascii() and said["item"].isdigit() and len(said["item"]) < 10 and int(said["item"]) in items
    ):
        yield f"names item {_shown(said['item'])}, which sample {sample_key} does not have"
    if verdict not in CHOICES:
        yield f"has the verdict {_shown(said['verdict'])}; known: {', '.join(CHOICES)}"
    if not said["why"] and verdict != "as_declared":
        yield f"gives no reason (why) for {verdict}"
    if not reviewer:
        yield "does not say who reviewed (by): fill it in, or give --by"
    for name, text in (("why", said["why"]), ("by", reviewer)):
        if len(text) > LONGEST_NOTE or "\0" in text:
            yield f"has a {name} that cannot be stored: at most {LONGEST_NOTE} characters of text"


def _shown(text: str) -> str:
    clean = printable(text)
    return repr(clean if len(clean) <= 40 else f"{clean[:40]}...")
