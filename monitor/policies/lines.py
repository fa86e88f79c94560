"""Lines of a TOML file: where its tables and keys stand, for messages and for what is written into it."""

import re
from collections.abc import Iterator, Mapping


def line_of(text: str, place: tuple[str | int, ...]) -> int:
    """Return the line of a key, else of the table that it should be in, else 1; counted from 1."""
    best, wanted = 1, [str(part) for part in place]
    for path, line in keys(text):
        # The longest path that the wanted one begins with, or is in.
        if path == wanted[: len(path)]:
            best = line
    return best


def keys(text: str) -> Iterator[tuple[list[str], int]]:
    """Yield the path of each table and key with its line; tables of an array are counted from 0."""
    seen: dict[tuple[str, ...], int] = {}
    table: list[str] = []
    for line, content in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[\s*([^\]]+?)\s*\]\]", content):
            name = _parts(found[1], seen)
            seen[tuple(name)] = seen.get(tuple(name), -1) + 1
            table = [*name, str(seen[tuple(name)])]
            yield table, line
        elif found := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#|$)", content):
            table = _parts(found[1], seen)
            yield table, line
        elif found := re.match(r"""\s*([A-Za-z0-9_.-]+|"[^"]+")\s*=""", content):
            yield [*table, *_parts(found[1], {})], line


def _parts(dotted: str, arrays: Mapping[tuple[str, ...], int]) -> list[str]:
    """Return the parts of a dotted key, with the number of the newest table after each array of tables."""
    parts: list[str] = []
    for name in dotted.split("."):
        if tuple(parts) in arrays:
            parts.append(str(arrays[tuple(parts)]))
        parts.append(name.strip().strip('"'))
    return parts
