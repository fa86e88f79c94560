"""An evidence bundle whatever crops, parcels and people are called: text stays text, in HTML and in PDF."""

from datetime import UTC, date, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.history import HistoryRow
from monitor.inspection.bundle import Bundle, thresholds, title
from monitor.inspection.bundle_page import page
from monitor.inspection.bundle_pdf import pdf
from monitor.inspection.bundle_words import tables

AT = "2025-06-20T12:00:00Z"


def entry(event: str, at: str = AT, colour: str = "yellow", why: str = "w") -> dict[str, Any]:
    return {
        "recorded_at": at,
        "event": event,
        "by": "the monitor",
        "why": why,
        "details": {},
        "colour": colour,
        "confidence": 0.9,
    }


def document(name: str = "p", **changes: Any) -> dict[str, Any]:
    """The smallest document, everything called `name`."""
    alert = {
        "alert": 1,
        "collection": name,
        "season": name,
        "parcel": name,
        "region": name,
        "area_ha": 1.5,
        "declared_crop": name,
        "rule": "early_loss",
        "state": "open",
        "colour": "yellow",
        "confidence": 0.9,
        "departed_on": "2025-06-10",
        "opened_at": AT,
        "confirmed_at": None,
        "closed_at": None,
    }
    missing = {"role": "before", "sensor": "S2", "composite": "true_colour", "missing": name}
    return {
        "as_known_at": AT,
        "alert": alert,
        "why": name,
        "evidence": {},
        "in_plain_words": "plain",
        "log": [entry("opened"), {**entry("commented", why=name), "by": name, "details": {"answer": name}}],
        "thresholds": {"values": {"a": 1}, "source": "made"},
        "versions": {"rule": "early_loss", "rule_version": "1", "policy": None, "models": []},
        "pictures": [missing],
        "sentinel_1": [],
        "sentinel_2": [],
        "sha256": "0" * 64,
        **changes,
    }


def bundle(name: str = "p", **changes: Any) -> Bundle:
    nothing: dict[str, Any] = dict.fromkeys(
        ("relative_orbit", "ndvi", "ndvi_sd", "origin", "vv_db", "vh_db", "crop", "probability")
    )
    at = datetime(2025, 6, 1, tzinfo=UTC)
    row = HistoryRow(**nothing | {"at": at, "kind": "s2", "recorded_at": at, "ndvi": 0.5, "detail": {}})
    return Bundle(document(name, **changes), [row], (date(2025, 1, 1), date(2025, 12, 31)))


class Names(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def names(made: bytes) -> Names:
    found = Names()
    found.feed(made.decode())
    return found


USUAL = names(page(bundle()))


@settings(max_examples=20)
@given(name=st.text(min_size=1, max_size=60))
def test_any_name_is_text_in_the_page(name: str) -> None:
    found = names(page(bundle(name.encode("utf-8", "replace").decode())))
    assert (found.tags, found.attributes - {"class"}) == (USUAL.tags, USUAL.attributes - {"class"})


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '#panic() #import "x": * $x$ *b* _i_ `c` @ref <label> \\',
    "小麦 Æ ß \u202e \ue000 \ufffd 🌾",
    "x" * 3000,
    "two\nlines\r\n\t",
    "a\U0001d165 \U0001d165 e\u0301\U0001d166\U0001d167 \u0915\u0951\u0301 a\u0951",
    "{{7*7}} ${x} %s",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_in_the_page_and_in_the_pdf(name: str) -> None:
    found = names(page(bundle(name)))
    assert (found.tags, found.attributes - {"class"}) == (USUAL.tags, USUAL.attributes - {"class"})
    assert pdf(bundle(name)).startswith(b"%PDF-")


@settings(max_examples=15)
@given(name=st.text(min_size=1, max_size=40))
def test_any_name_makes_a_pdf(name: str) -> None:
    assert pdf(bundle(name.encode("utf-8", "replace").decode())).startswith(b"%PDF-")


def test_changes_in_a_row_are_one_line() -> None:
    log = [
        entry("opened", "2025-06-01T00:00:00Z"),
        *(entry("changed", f"2025-06-0{day}T00:00:00Z") for day in (2, 3, 4)),
        entry("changed", "2025-06-05T00:00:00Z", "red"),
        entry("commented", "2025-06-06T00:00:00Z"),
        entry("commented", "2025-06-06T00:00:00Z"),
    ]
    shown = tables(document(log=log))[0].rows
    assert [(row[0][:10], row[1]) for row in shown] == [
        ("2025-06-01", "opened"),
        ("2025-06-04", "changed, 3 times since 2025-06-02"),
        ("2025-06-05", "changed"),
        ("2025-06-06", "commented"),
        ("2025-06-06", "commented"),
    ]


def test_thresholds_are_those_of_the_evidence_where_it_states_them() -> None:
    stated = thresholds("early_loss", {"thresholds": {"loss_from_ndvi": 0.7}})
    assert stated == {"values": {"loss_from_ndvi": 0.7}, "source": "stated by the evidence"}
    shipped = thresholds("early_loss", {})
    assert shipped["values"]["loss_from_ndvi"] == 0.5
    assert "mismatch_confirm_days" not in shipped["values"]
    assert thresholds("a rule of tomorrow", {})["values"] == {}


def test_a_rule_of_tomorrow_has_a_title_and_a_sentence() -> None:
    made = document()
    made["alert"] |= {"rule": "grass_cut"}
    assert title(made) == "Alert 1: grass cut, parcel p"
    assert title(made | {"evidence": {"kind": "not_ploughed"}}) == "Alert 1: a green stand that was lost, parcel p"
