"""Tables in files are whole, text from outside is shown and never obeyed, progress reaches logs."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal.output import WideConsole, plain, printable, progress, table

pytestmark = pytest.mark.unit

LONG_ID = "NL-" + "0123456789" * 20


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(text: object, stream: io.StringIO, **options: object) -> str:
    WideConsole(file=stream, **options).print(text)  # type: ignore[arg-type]
    return stream.getvalue()


def test_a_table_in_a_file_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    rows = [(LONG_ID, "winter wheat", "2025-06-23 10:00")]
    assert LONG_ID in printed(table(("parcel", "crop", "at"), rows), io.StringIO())


def test_a_line_in_a_file_is_never_wrapped() -> None:
    assert printed("word " * 100, io.StringIO()).count("\n") == 1


def test_a_narrow_terminal_folds_and_loses_nothing() -> None:
    shown = printed(table(("parcel",), [(LONG_ID,)]), Terminal(), width=40, color_system=None)
    assert max(map(len, shown.splitlines())) <= 40
    assert LONG_ID in "".join(line.strip("│ ") for line in shown.splitlines())


def test_a_row_needs_a_cell_for_each_header() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("parcel", "crop"), [("1",)])


@pytest.mark.parametrize("text", ["[/red]", "[bold]x", "a\\b", "\\[red]", "[link=x]y[/link]", ":warning:", "[[/]]"])
def test_markup_from_outside_is_shown_literally(text: str) -> None:
    stream = io.StringIO()
    WideConsole(file=stream, emoji=False).print(plain(text))
    assert stream.getvalue() == f"{text}\n"


@pytest.mark.parametrize("text", ["[/red]", "a\\", "\\[red]\\", ":warning:", "  two  "])
def test_a_cell_is_shown_literally(text: str) -> None:
    assert f" {text} " in printed(table(("name",), [(text,)]), io.StringIO())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07name", "name"),
        ("\x1b]52;c;aGk=\x1b\\name", "name"),
        ("\x9b2Jname", "name"),
        ("\x1bcname", "name"),
        ("\x1b]never ended", "never ended"),
        ("two\nlines\tand\rmore", "two lines and more"),
        ("nul\0", "nul\N{REPLACEMENT CHARACTER}"),
        ("right\N{RIGHT-TO-LEFT OVERRIDE}left", "right\N{REPLACEMENT CHARACTER}left"),
        ("lone\ud800", "lone\N{REPLACEMENT CHARACTER}"),
        ("Zürich, \N{GREEK SMALL LETTER ALPHA}, 小麦", "Zürich, \N{GREEK SMALL LETTER ALPHA}, 小麦"),
        (None, ""),
    ],
)
def test_sequences_that_a_terminal_obeys_are_taken_out(text: str | None, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_no_text_breaks_a_table_or_reaches_the_terminal(text: str) -> None:
    shown = printed(table(("name",), [(f"<{text}>",)], title=text), io.StringIO())
    assert all(char.isprintable() for line in shown.split("\n") for char in line)
    assert printable(f"<{text}>") in shown


def test_progress_reaches_a_log_with_done_total_and_time_left() -> None:
    seconds, stream = iter([0.0, 1.0, 20.0, 25.0, 100.0]), io.StringIO()
    with progress("training", WideConsole(file=stream), lambda: next(seconds)) as steps:
        steps.to(1, 100, "epoch 1")
        steps.to(20, 100, "epoch 20")
        steps.to(25, 100, "epoch 25")
    assert stream.getvalue().splitlines() == [
        "training: begins",
        "training: 20 of 100, epoch 20, 0:00:20 so far, about 0:01:20 left",
        "training: done after 0:01:40",
    ]


def test_the_time_left_of_a_second_part_is_that_of_the_part() -> None:
    seconds, stream = iter([0.0, 100.0, 120.0, 140.0, 160.0, 200.0]), io.StringIO()
    with progress("replay", WideConsole(file=stream), lambda: next(seconds)) as steps:
        steps.to(1, 1, "fold 1")
        steps.to(0, None, "storing")
        steps.to(0.1, 1, "fold 2")
        steps.to(0.5, 1, "fold 2")
    assert stream.getvalue().splitlines()[1:-1] == [
        "replay: 100%, fold 1, 0:01:40 so far, about 0:00:00 left",
        "replay: storing, 0:02:00 so far",
        "replay: 10%, fold 2, 0:02:20 so far, about 0:03:00 left",
        "replay: 50%, fold 2, 0:02:40 so far, about 0:00:40 left",
    ]


def test_progress_is_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with progress("training", WideConsole(file=stream, width=120, force_terminal=True)) as steps:
        steps.to(1, 2, "epoch [/red]")
    assert "epoch [/red]" in stream.getvalue()
    assert "100" not in stream.getvalue().split("epoch")[0]
