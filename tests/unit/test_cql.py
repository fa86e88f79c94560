"""Filters in CQL2: values are bound, only what is listed is asked, and what is deep or wrong is refused at once."""

import json
import re
import time
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from db.cql import DEEPEST, LONGEST, InvalidFilter, Kind, Language, condition

PROPERTIES: dict[str, Kind] = {
    "crop": "text",
    "area_ha": "number",
    "opened_at": "time",
    "departed_on": "day",
    "geom": "geometry",
}


def _sql(text: str, language: Language = "cql2-text") -> tuple[str, list[Any]]:
    made = sa.select(1).where(condition(text, language, PROPERTIES)).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return re.sub(r"::[A-Z]+|\n", "", str(made).split("WHERE ")[-1]), list(made.params.values())


@pytest.mark.parametrize(
    ("text", "sql", "values"),
    [
        ("crop = 'maize'", "crop = %(param_1)s", ["maize"]),
        ("crop = 'it''s; drop table parcels --'", "crop = %(param_1)s", ["it's; drop table parcels --"]),
        ("area_ha >= -1.5", "area_ha >= %(param_1)s", [-1.5]),
        ("crop in ('a', 'b')", "crop IN (%(param_1)s, %(param_2)s)", ["a", "b"]),
        ("area_ha between 1 and 3", "area_ha BETWEEN %(param_1)s AND %(param_2)s", [1.0, 3.0]),
        ("crop like 'm%'", "crop LIKE %(param_1)s", ["m%"]),
        ("crop is not null", "crop IS NOT NULL", []),
        ("casei(crop) = casei('MAIZE')", "lower(crop) = %(param_1)s", ["maize"]),
        ("area_ha > 1 or not crop = 'a'", "area_ha > %(param_1)s OR crop != %(param_2)s", [1.0, "a"]),
        ("area_ha > 1 and crop <> 'a'", "area_ha > %(param_1)s AND crop != %(param_2)s", [1.0, "a"]),
        ("true", "true", []),
    ],
)
def test_a_filter_is_a_condition_with_bound_values(text: str, sql: str, values: list[Any]) -> None:
    assert _sql(text) == (sql, values)


def test_times_and_outlines_are_bound_too() -> None:
    sql, values = _sql(
        "t_after(opened_at, TIMESTAMP('2025-06-01T12:00:00+02:00')) and departed_on = DATE('2025-05-20')"
    )
    assert sql == "opened_at > %(param_1)s WITH TIME ZONE AND departed_on = %(param_2)s"
    assert [str(one) for one in values] == ["2025-06-01 10:00:00+00:00", "2025-05-20"]
    sql, values = _sql("t_intersects(opened_at, INTERVAL('2025-06-01', '..'))")
    assert (sql.count("opened_at"), len(values)) == (2, 1)
    for shape in ("POLYGON((5 52, 5.01 52, 5.01 52.01, 5 52))", "BBOX(5, 52, 6, 53)", "POINT(5 52)"):
        sql, values = _sql(f"s_intersects(geom, {shape})")
        assert sql.startswith("ST_Intersects(geom, ST_GeomFromWKB(")
        assert isinstance(values[0], bytes)


def test_both_languages_say_the_same() -> None:
    text = "(crop = 'a' or area_ha < 2) and s_within(geom, BBOX(5, 52, 6, 53))"
    given = {
        "op": "and",
        "args": [
            {
                "op": "or",
                "args": [
                    {"op": "=", "args": [{"property": "crop"}, "a"]},
                    {"op": "<", "args": [{"property": "area_ha"}, 2]},
                ],
            },
            {"op": "s_within", "args": [{"property": "geom"}, {"bbox": [5, 52, 6, 53]}]},
        ],
    }
    assert _sql(text) == _sql(json.dumps(given), "cql2-json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pg_sleep(10) = 1", "a property stands on the left"),
        ("pg_sleep(10)", "'pg_sleep' cannot be used like this; known: and, or"),
        ("crop = pg_sleep(10)", "no value for a text"),
        ("secret = 1", "there is no property 'secret'; known: crop"),
        ("area_ha = 'x'", "no value for a number: write a number"),
        ("area_ha = 1e999", "no value for a number"),
        ("crop = 1", "no value for a text"),
        ("crop = null", "no value for a text"),
        ("crop = area_ha", "no value for a text"),
        ("crop like 'x\\'", "a quote within text is written twice"),
        ("area_ha like 'x'", "like cannot be asked of a number"),
        ("opened_at > TIMESTAMP('yesterday')", "is no time: write 2025-06-01 or"),
        ("opened_at > '2025'", "no value for a time: write TIMESTAMP"),
        ("t_during(opened_at, INTERVAL('..', 'x'))", "is no time: write 2025-06-01 or"),
        ("geom = 1", "of an outline, ask s_intersects"),
        ("s_intersects(crop, POINT(5 52))", "s_intersects is of the outline: geom"),
        ("s_intersects(geom, POINT(500 52))", "a geometry must be valid, in degrees"),
        ("s_intersects(geom, POLYGON((5 52, 6 53, 6 52, 5 53, 5 52)))", "a geometry must be valid"),
        ("crop", "a filter is a condition"),
        ("crop = 'a' and", "the filter is no cql2-text, from character 15 on"),
        ("crop = 'a\0'", "a zero byte is not allowed"),
        ("area_ha + 1 > 2", "a property stands on the left"),
        ("1 = 1", "a property stands on the left"),
        ("\U0001f33d" * 2001, "2000 are allowed"),
    ],
)
def test_what_is_not_known_is_refused_in_a_line(text: str, why: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        condition(text, "cql2-text", PROPERTIES)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("opened", ["(", "not ", "not (", "f(", "-", "((", "crop in (", "'\\''(", '"("(', "')'("])
def test_deep_filters_are_refused_before_they_cost_anything(opened: str) -> None:
    """A parser that backtracks takes minutes for 40 brackets that are left open, and ends the process for thousands."""
    for repeats in (3, 9, 40, LONGEST["cql2-text"] // len(opened)):
        began, refused = time.perf_counter(), 0
        for end in ("", "crop = 'a'", "area_ha in (" + "1," * 500):
            try:
                condition((opened * repeats + end)[: LONGEST["cql2-text"]], "cql2-text", PROPERTIES)
            except InvalidFilter:
                refused += 1
        assert refused == 3 or (opened in ("not ", "-") and repeats <= 40)
        assert time.perf_counter() - began < 5


def test_a_pattern_does_not_end_with_an_escape() -> None:
    given = {"op": "like", "args": [{"property": "crop"}, "x\\"]}
    with pytest.raises(InvalidFilter, match="cannot end with a backslash"):
        _sql(json.dumps(given), "cql2-json")


def test_the_deepest_filter_is_taken() -> None:
    n = DEEPEST["cql2-text"]
    assert _sql("(" * n + "crop = 'a'" + ")" * n) == _sql("crop = 'a'")
    with pytest.raises(InvalidFilter, match="nested too deeply: 8 brackets"):
        _sql("(" * (n + 1) + "crop = 'a'" + ")" * (n + 1))
    deep = '{"op":"not","args":[' * 500 + "true" + "]}" * 500
    with pytest.raises(InvalidFilter, match="characters; 8000"):
        _sql(deep, "cql2-json")
    with pytest.raises(InvalidFilter, match="nested too deeply"):
        _sql('{"op":"not","args":[' * 30 + "true" + "]}" * 30, "cql2-json")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=3)
    | st.sampled_from(
        [
            {"property": "crop"},
            {"property": "area_ha"},
            {"property": "geom"},
            {"property": "opened_at"},
            {"date": "2025-01-01"},
            {"timestamp": "x"},
            {"interval": ["..", ".."]},
            {"bbox": [1, 2, 3, 4]},
            {"type": "Point", "coordinates": [1, "x"]},
            {"type": "Polygon", "coordinates": []},
        ]
    ),
    lambda inner: (
        st.builds(
            lambda op, args: {"op": op, "args": args},
            st.sampled_from(
                [
                    "and",
                    "or",
                    "not",
                    "=",
                    "<",
                    "in",
                    "between",
                    "like",
                    "isNull",
                    "casei",
                    "s_intersects",
                    "t_during",
                    "t_after",
                    "+",
                    "f",
                ]
            ),
            st.lists(inner, max_size=3),
        )
        | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_VALUES)
def test_whatever_is_asked_is_a_condition_or_refused(value: Any) -> None:
    with suppress(InvalidFilter):
        made = condition(json.dumps(value), "cql2-json", PROPERTIES)
        str(sa.select(1).where(made).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
