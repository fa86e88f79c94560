"""Filters in CQL2 (OGC 21-065r2) as conditions with bound values, over properties and operators that are listed.

The parser alone is the library's: its own SQL passes any function through, with values written into the text. It backtracks: a
text that ends too early takes 1.7 times as long for each open bracket (18: 0.7 s), and thousands of them end the process. So length
and nesting are bounded before it reads a filter.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import cql2
import shapely
import shapely.geometry
import sqlalchemy as sa
from shapely.geometry.base import BaseGeometry

Language = Literal["cql2-text", "cql2-json"]
Kind = Literal["text", "number", "time", "day", "geometry"]
LONGEST: Final[Mapping[Language, int]] = {"cql2-text": 2000, "cql2-json": 8000}
"""Characters of a filter. The worst text of 2,000 that was tried takes 0.2 s to be refused."""
DEEPEST: Final[Mapping[Language, int]] = {"cql2-text": 8, "cql2-json": 40}
"""Brackets within brackets; a polygon takes three in text, and JSON two for each operator."""
MOST_SIGNS: Final = 50
"""`not` in a filter, or minus signs in a row: each is a step deeper too."""

Condition = sa.ColumnElement[bool]
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Condition]]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "t_equals": lambda a, b: a == b,
    "t_before": lambda a, b: a < b,
    "t_after": lambda a, b: a > b,
}
_SPATIAL: Final = {
    "s_intersects": "ST_Intersects",
    "s_within": "ST_Within",
    "s_contains": "ST_Contains",
    "s_disjoint": "ST_Disjoint",
}
_OTHERS: Final = ("and", "or", "not", "between", "in", "like", "isNull", "casei", "t_during", "t_intersects")
OPERATORS: Final = (*_OTHERS, *_COMPARISONS, *_SPATIAL)


class InvalidFilter(ValueError):
    """A filter that cannot be used; the message says what is wrong, in one line."""


def condition(text: str, language: Language, properties: Mapping[str, Kind]) -> Condition:
    """Return a filter as a condition on columns that are called as its properties.

    Raises:
        InvalidFilter: too long or deep, not CQL2, or with a property, operator or value that is not known here.
    """
    _require_shallow(text, language)
    parse = cql2.parse_text if language == "cql2-text" else cql2.parse_json
    try:
        parsed = parse(text).to_json()
    except cql2.ParseError as error:
        where = re.search(r"--> 1:(\d+)", str(error))
        raise InvalidFilter(
            f"the filter is no {language}{f', from character {where[1]} on' if where else ''}"
        ) from None
    return _Walk(properties).condition(parsed)


def _require_shallow(text: str, language: Language) -> None:
    if len(text) > LONGEST[language]:
        raise InvalidFilter(f"the filter has {len(text)} characters; {LONGEST[language]} are allowed in {language}")
    if "\0" in text or "\\'" in text or ('\\"' in text and language == "cql2-text"):
        raise InvalidFilter("a quote within text is written twice in a filter, and a zero byte is not allowed")
    quoted = r"'[^']*'|\"[^\"]*\"" if language == "cql2-text" else r'"(?:[^"\\]|\\.)*"'
    plain = re.sub(quoted, "", text)
    depth = deepest = 0
    for one in plain:
        depth = depth + 1 if one in "([{" else max(depth - 1, 0) if one in ")]}" else depth
        deepest = max(deepest, depth)
    n_not = len(re.findall(r"\bnot\b", plain, re.IGNORECASE))
    if deepest > DEEPEST[language] or n_not > MOST_SIGNS or re.search(rf"(?:-\s*){{{MOST_SIGNS}}}", plain):
        raise InvalidFilter(
            f"the filter is nested too deeply: {DEEPEST[language]} brackets within brackets are allowed"
        )


class _Walk:
    """Translates parsed CQL2 over a list of properties."""

    def __init__(self, properties: Mapping[str, Kind]) -> None:
        self.properties = properties

    def condition(self, node: Any) -> Condition:
        """Return what is true or false of a row."""
        if isinstance(node, bool):
            return sa.true() if node else sa.false()
        if not isinstance(node, dict) or "op" not in node:
            raise InvalidFilter("a filter is a condition, as: declared_crop = 'maize'")
        op, args = node["op"], node.get("args", [])
        assert isinstance(args, list)
        if op in ("and", "or") and args:
            return (sa.and_ if op == "and" else sa.or_)(*map(self.condition, args))
        if op == "not" and len(args) == 1:
            return sa.not_(self.condition(args[0]))
        if op in _SPATIAL and len(args) == 2:
            return self._spatial(op, args)
        if op in OPERATORS and args:
            return self._of_property(op, args)
        known = f"{op} has too few or too many arguments" if op in OPERATORS else f"known: {', '.join(OPERATORS)}"
        raise InvalidFilter(f"{str(op)[:40]!r} cannot be used like this; {known}")

    def _of_property(self, op: str, args: Sequence[Any]) -> Condition:
        column, kind, is_folded = self._column(args[0])
        if op == "isNull" and len(args) == 1:
            return column.is_(None)
        if kind == "geometry":
            raise InvalidFilter(f"of an outline, ask {', '.join(_SPATIAL)} or IS NULL")
        if op in _COMPARISONS and len(args) == 2:
            return _COMPARISONS[op](column, self._value(args[1], kind, is_folded))
        if op == "between" and len(args) == 3:
            return column.between(*(self._value(one, kind, is_folded) for one in args[1:]))
        if op == "in" and len(args) == 2 and isinstance(args[1], list):
            return column.in_([self._value(one, kind, is_folded) for one in args[1]])
        if op == "like" and len(args) == 2 and kind == "text":
            if re.search(r"(?<!\\)(\\\\)*\\$", str(args[1])):
                raise InvalidFilter("a pattern cannot end with a backslash, which escapes the next character")
            return column.like(self._value(args[1], kind, is_folded))
        if op in ("t_during", "t_intersects") and len(args) == 2 and kind in ("time", "day"):
            return self._within(op, column, kind, args[1])
        raise InvalidFilter(f"{op} cannot be asked of a {kind} like this")

    def _column(self, node: Any) -> tuple[sa.ColumnElement[Any], Kind, bool]:
        """Return a property's column, what it holds, and whether upper and lower case are alike."""
        if isinstance(node, dict) and node.get("op") == "casei" and len(node.get("args", [])) == 1:
            column, kind, _ = self._column(node["args"][0])
            if kind != "text":
                raise InvalidFilter("casei is of text")
            return sa.func.lower(column), kind, True
        name = node.get("property") if isinstance(node, dict) else None
        if name is None:
            raise InvalidFilter("a property stands on the left of an operator and a value on its right")
        if name not in self.properties:
            raise InvalidFilter(f"there is no property {str(name)[:40]!r}; known: {', '.join(self.properties)}")
        return sa.column(name), self.properties[name], False

    def _value(self, node: Any, kind: Kind, is_folded: bool = False) -> Any:
        """Return a value as a parameter of the kind that a property holds."""
        if is_folded and isinstance(node, dict) and node.get("op") == "casei" and len(node.get("args", [])) == 1:
            node = node["args"][0]
        if kind == "text" and isinstance(node, str) and "\0" not in node:
            return sa.literal(node.lower() if is_folded else node, sa.Text)
        if kind == "number" and isinstance(node, float | int) and not isinstance(node, bool) and math.isfinite(node):
            # A number of a key is compared as one, so that its index is used.
            is_whole = float(node).is_integer() and abs(node) < 2**53
            return sa.literal(int(node), sa.BigInteger) if is_whole else sa.literal(float(node), sa.Double)
        if kind == "day" and isinstance(node, dict) and isinstance(node.get("date"), str):
            return sa.literal(_time(node["date"]).date(), sa.Date)
        if kind == "time" and isinstance(node, dict):
            given = node.get("timestamp", node.get("date"))
            if isinstance(given, str):
                return sa.literal(_time(given), sa.DateTime(timezone=True))
        form = {
            "text": "'...'",
            "number": "a number",
            "time": "TIMESTAMP('2025-06-01T00:00:00Z')",
            "day": "DATE('2025-06-01')",
        }
        raise InvalidFilter(f"{json.dumps(node)[:60]} is no value for a {kind}: write {form.get(kind, 'another')}")

    def _within(self, op: str, column: sa.ColumnElement[Any], kind: Kind, node: Any) -> Condition:
        ends = node.get("interval") if isinstance(node, dict) else None
        if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(one, str) for one in ends):
            raise InvalidFilter(f"{op} takes INTERVAL('2025-06-01', '2025-07-01'), with '..' for an open end")
        name = "date" if kind == "day" else "timestamp"
        first, last = (None if one == ".." else self._value({name: one}, kind) for one in ends)
        after, before = ("<", ">") if op == "t_during" else ("<=", ">=")
        return sa.and_(
            column.is_not(None),
            sa.true() if first is None else _COMPARISONS[before](column, first),
            sa.true() if last is None else _COMPARISONS[after](column, last),
        )

    def _spatial(self, op: str, args: Sequence[Any]) -> Condition:
        column, kind, _ = self._column(args[0])
        if kind != "geometry":
            raise InvalidFilter(
                f"{op} is of the outline: {', '.join(n for n, k in self.properties.items() if k == 'geometry')}"
            )
        shape = sa.func.ST_GeomFromWKB(sa.literal(shapely.to_wkb(_outline(args[1])), sa.LargeBinary), 4326)
        made: Condition = getattr(sa.func, _SPATIAL[op])(column, shape)
        return made


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidFilter(f"{text[:40]!r} is no time: write 2025-06-01 or 2025-06-01T09:30:00Z") from None


def _outline(node: Any) -> BaseGeometry:
    """Return a geometry in degrees; raises InvalidFilter for one that is none or that is not on Earth."""
    found: BaseGeometry
    try:
        if isinstance(node, dict) and "bbox" in node:
            west, south, east, north = node["bbox"]
            found = shapely.box(west, south, east, north)
        else:
            found = shapely.geometry.shape(node)
        low_x, low_y, high_x, high_y = found.bounds
    except Exception:  # noqa: BLE001, shapely raises whatever its inputs make NumPy, GEOS or Python raise
        raise InvalidFilter(f"{json.dumps(node)[:60]} is no geometry") from None
    is_on_earth = -180 <= low_x <= high_x <= 180 and -90 <= low_y <= high_y <= 90
    if not is_on_earth or not found.is_valid or found.geom_type == "GeometryCollection":
        raise InvalidFilter("a geometry must be valid, in degrees (longitude, latitude), and of one kind")
    return found
