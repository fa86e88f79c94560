"""Lists of records are whole at any width."""

import io

import pytest
from rich.console import Console

from monitor.inspection.listing import records
from terminal.output import plain

IDS = ["FR25-000041", "28079000100000017"]
COLUMNS = {"id": IDS, "crop": ["winter wheat", "x"], "why": [plain("[/red] " + "because it rained " * 9)] * 2}


def printed(width: int) -> str:
    out = Console(width=width, file=io.StringIO())
    out.print(records(COLUMNS, out))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


@pytest.mark.parametrize("width", [300, 100, 60, 30])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    out = printed(width)
    assert "…" not in out
    assert all(one in out for one in IDS)
    words = out.replace("│", " ").split()
    assert words.count("rained") == 18
    assert words.count("[/red]") == 2


def test_a_narrow_terminal_shows_records_and_a_wide_one_a_table() -> None:
    assert "│" in printed(100)
    assert "│" not in printed(60)


def test_an_id_longer_than_the_terminal_is_folded() -> None:
    out = Console(width=30, file=io.StringIO())
    out.print(records({"id": ["0123456789" * 10], "why": [""]}, out))
    assert isinstance(out.file, io.StringIO)
    assert sum(character.isdigit() for character in out.file.getvalue()) == 100
