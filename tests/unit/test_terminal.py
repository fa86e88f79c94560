"""Text from outside is shown as text, and tables are cut only where a terminal is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.terminal import console, plain, table


@pytest.mark.parametrize(
    ("outside", "shown"),
    [
        ("winter wheat", "winter wheat"),
        ("[/red]", "[/red]"),
        ("[bold]wheat[/bold]", "[bold]wheat[/bold]"),
        ("a\\[/]", "a\\[/]"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("two\nlines\tand\0", "two\\nlines\\tand\\x00"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("half \ud800", "half \\ud800"),
        ("a\u00a0b", "a b"),
        ("जौ गेहूँ, क्\u200dष", "जौ गेहूँ, क्\u200dष"),
        (":smile:", ":smile:"),
        (7, "7"),
    ],
)
def test_text_from_outside_is_shown_as_it_is(outside: object, shown: str) -> None:
    assert Text.from_markup(plain(outside), emoji=False).plain == shown
    assert Text.from_markup(f"[red]{plain(outside)}[/]", emoji=False).plain == shown


def test_tables_are_cut_only_where_a_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Table("id", "why")
    wide.add_row("28079000100000017-" * 5, "because " * 30)
    console.print(wide)
    assert "28079000100000017-" * 5 in capsys.readouterr().out
    assert isinstance(console, Console)


def test_a_width_that_is_given_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 40)
    assert console.width == 40


def test_a_backslash_at_the_end_does_not_open_what_follows() -> None:
    assert Text.from_markup(f"[red]{plain(chr(92))}[/] after").plain == "\\ after"


@pytest.mark.parametrize("width", [300, 100, 60, 30])
def test_a_table_cuts_nothing_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", width)
    ids = ["FR25-000041", "28079000100000017"]
    console.print(
        table({"id": ids, "crop": ["winter wheat", "x"], "why": [plain("[/red] " + "because it rained " * 9)] * 2})
    )
    out = capsys.readouterr().out
    assert "…" not in out
    assert all(one in out for one in ids)
    words = out.replace("│", " ").split()
    assert words.count("rained") == 18
    assert words.count("[/red]") == 2


def test_a_table_without_rows_has_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    console.print(table({"id": [], "why": []}))
    assert "why" in capsys.readouterr().out


@given(st.text(st.characters(), max_size=30) | st.text(st.sampled_from("[]/\\\x1b\x9b:$_ab\n"), max_size=30))
def test_no_text_breaks_a_line_or_steers_the_terminal(outside: str) -> None:
    with console.capture() as captured:
        console.print(f"[red]{plain(outside)}[/] after", soft_wrap=True)
    (line,) = captured.get().splitlines()
    assert line.endswith(" after")
    assert not [one for one in line if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
