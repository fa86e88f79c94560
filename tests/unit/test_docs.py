"""Pages lead somewhere: their links and anchors, the paths and modules they name, the commands and options in their sentences."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from typer.core import TyperGroup

import parcelwatch

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
PRESENT = [page for page in PAGES if page.stem != "LOG"]
"""Pages of today: the log of experiments keeps the names of its time."""
FOLDERS: Final = (
    "db",
    "devstack",
    "docs",
    "ingest",
    "migrations",
    "models",
    "monitor",
    "research",
    "terminal",
    "tests",
    "training",
)
FORMER: Final = ("bench", "embedded", "experiments", "seasons")
"""Folders that were at the top once: a page that names a file in one is out of date."""
ELSEWHERE: Final = {"--build", "--build-arg", "--detach", "--no-deps", "--help", "--import-mode"}
"""Options of other programs."""


def _names(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", _text(page), flags=re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)) if "://" not in link]


@cache
def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are published: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _dead(page: Path) -> Iterator[str]:
    """Yield the relative links of a page that lead nowhere."""
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert list(_dead(page)) == []


def _spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def _missing_paths(text: str) -> Iterator[str]:
    """Yield the paths and modules of the project that a text names and that are not there."""
    for word in (word for span in _spans(text) for word in span.split()):
        is_path = re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*", word) and "NNNN" not in word
        is_module = re.fullmatch(rf"(?:{'|'.join(FOLDERS)})(?:\.[a-z_0-9]+)+", word)
        is_former = re.fullmatch(rf"(?:{'|'.join(FORMER)})(?:/[\w./-]+|\.[a-z_.]+)", word)
        if is_former or (is_path and not (ROOT / word).exists()) or (is_module and not _is_module(word)):
            yield word


def _is_module(dotted: str) -> bool:
    """Return whether dots lead to a module, or to a name in one."""
    path = ROOT / dotted.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").exists() or (ROOT / dotted).exists():
        return True
    module = path.parent.with_suffix(".py")
    return module.exists() and re.search(rf"\b{path.name}\b", module.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", PRESENT, ids=_names)
def test_every_path_of_a_page_exists(page: Path) -> None:
    assert list(_missing_paths(_text(page))) == []


def _tree() -> list[str]:
    """Return the paths of the README's tree."""
    block = _text(ROOT / "README.md").split("## The tree")[1]
    paths, folder = [], ""
    for indent, name in re.findall(r"^    ( *)([a-z_]+(?:/|\.py)) ", block, re.MULTILINE):
        folder = folder if indent else name
        paths.append(folder + name if indent else name)
    return paths


def test_the_tree_of_the_readme_is_the_tree() -> None:
    tree = _tree()
    assert [path for path in tree if not (ROOT / path).exists()] == []
    packages = {path.parent for path in ROOT.glob("*/__init__.py")}
    packages |= {path.parent for package in FOLDERS for path in ROOT.glob(f"{package}/*/__init__.py")}
    listed = {ROOT / path for path in tree} | {ROOT / "migrations/versions"}  # found by Alembic, a line is enough
    assert {path.relative_to(ROOT).as_posix() for path in packages - listed if path.name != "tests"} == set()


def _defined(line: str) -> tuple[set[str], str] | None:
    """Return the functions or views that a row of the SQL page names first, and the migration that it says defines them."""
    row = re.fullmatch(r"\| (?P<names>`\w.*?) \|.*\| `(?P<migration>\d{4}_\w+)` \|", line)
    return row and ({re.split(r"\W", one)[0] for one in _spans(row["names"]) if one[0] != "("}, row["migration"])


def test_the_sql_page_names_the_migration_that_defines_each_function_and_view() -> None:
    said = {
        name: of[1] for line in _text(ROOT / "docs" / "sql.md").splitlines() if (of := _defined(line)) for name in of[0]
    }
    newest = dict[str, str]()
    for path in sorted((ROOT / "migrations" / "sql").glob("*.up.sql")):
        made = re.findall(r"^create (?:or replace )?(?:function|view) (\w+)", path.read_text(), re.MULTILINE)
        newest |= dict.fromkeys(made, path.name.removesuffix(".up.sql"))
    assert len(said) == 19
    assert said == {name: newest[name] for name in said}


def test_the_readme_is_short() -> None:
    assert len(_text(ROOT / "README.md").splitlines()) < 150


@cache
def _command(*words: str) -> Any:
    """Return a command or group by its words; raises LookupError where there is none."""
    if not words:
        return typer.main.get_command(parcelwatch.app)
    found: Any = parcelwatch.load(words[0])
    for word in words[1:]:
        found = found.commands[word]
    return found


def _commands(command: Any) -> Iterator[Any]:
    yield command
    if isinstance(command, TyperGroup):
        for one in command.commands.values():
            yield from _commands(one)


@cache
def _all_options() -> set[str]:
    commands = [one for name in parcelwatch.COMMANDS for one in _commands(_command(name))]
    return {option for one in commands for parameter in one.params for option in _names_of(parameter)} | ELSEWHERE


def _names_of(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


def _unknown(text: str) -> Iterator[str]:
    """Yield the commands and options in a text's code spans that the command line does not have."""
    for span in _spans(text):
        words = span.removeprefix("parcelwatch ").split()
        options = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][a-z-]*(?:=\S+)?", word)}
        if not words or words[0] not in parcelwatch.COMMANDS:
            if span.startswith(("--", "parcelwatch --")):
                yield from options - _all_options()
            continue
        found, path = _command(words[0]), [words[0]]
        for word in words[1:]:
            if not isinstance(found, TyperGroup) or not re.fullmatch(r"[a-z][a-z-]+", word):
                break
            if word not in found.commands:
                yield " ".join([*path, word])
                break
            found, path = found.commands[word], [*path, word]
        known = {option for one in _commands(found) for each in one.params for option in _names_of(each)}
        yield from (f"{' '.join(path)} {option}" for option in options - known - {"--help"})


@pytest.mark.parametrize("page", PRESENT, ids=_names)
def test_every_command_and_option_in_a_sentence_exists(page: Path) -> None:
    assert list(_unknown(_prose(page))) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title, with `code`\n[a](#a-title-with-code) [b](#none) [c](none.md) [d](page.md)\n")
    assert list(_dead(page)) == ["#none", "none.md"]
    wrong = "`ingest/judge.py` and `db/none` and `models.ndvi.none`, not `db/work.py`, `ingest.stream.schemas.Limits`; `bench.none`"
    assert list(_missing_paths(wrong)) == ["ingest/judge.py", "db/none", "models.ndvi.none", "bench.none"]
    wrong = (
        "`ingest run --until-ends`, `scenes pol x`, `--as-knwon-at`; `ingest run --until-end`, `scenes work`, `--all`"
    )
    assert list(_unknown(wrong)) == ["ingest run --until-ends", "scenes pol", "--as-knwon-at"]
