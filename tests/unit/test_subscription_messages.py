"""Messages: the same under their key, and names from outside break out of nothing."""

import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime
from email import message_from_bytes, policy
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import icalendar
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

from db.deliveries import Deadline, SentEvent
from monitor.subscriptions import feeds, mail, rendering, webhook
from monitor.subscriptions.errors import InvalidSubscription
from monitor.subscriptions.rendering import Message

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
KEY = uuid.UUID("6f1c1f0e-2a52-4f0e-9f3e-0f4b1d1c2a3b")
HOSTILE = [
    "a\r\nBcc: all@example.org",
    "a\nSubject: other\n\nbody",
    "</td><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><a href='javascript:1'>",
    "]]></content><entry>",
    "a\x00b\x1b[2J\x9b31m",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    "\u202egnp.exe",
    "\ud800",
    "=?utf-8?b?DQpCY2M6IHg=?=",
    "x" * 5000,
    "BEGIN:VEVENT\r\nUID:x",
    "a,b;c\\n:d",
    "{{7*7}} ${7*7} %s {0}",
    "",
]
NAMES = (
    st.sampled_from(HOSTILE) | st.text(max_size=60) | st.text(alphabet="\r\n\t :<>&\"'\x00\x85\u2028,;\\", max_size=30)
)


def event(nr: int = 1, **given: Any) -> SentEvent:
    values: dict[str, Any] = {
        "event_nr": nr,
        "alert_key": nr,
        "recorded_at": NOW,
        "event": "opened",
        "colour": "red",
        "confidence": 0.9,
        "departed_on": date(2025, 5, 1),
        "evidence": {"reason": "bare soil"},
        "rule": "crop_mismatch",
        "collection": "nl",
        "season": "2025",
        "source_id": "10984",
        "region": "r",
        "area_ha": 4.5,
        "declared_crop": "maize",
    }
    return SentEvent(**values | given)


def named(name: str) -> Message:
    evidence = {"decision": {"by": name, "reason": name, "deadline": name}, "because": name, "reason": name}
    made = event(
        source_id=name, declared_crop=name, region=name, collection=name, season=name, rule=name, evidence=evidence
    )
    return Message(KEY, name, NOW, [made, event(2), replace(made, event_nr=3, alert_key=3, incident=3)])


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, len(attrs)))


def tags(page: str) -> list[tuple[str, int]]:
    found = Tags()
    found.feed(page)
    return found.tags


@given(NAMES)
def test_names_add_no_header_and_no_line_to_an_email(name: str) -> None:
    plain, hostile = mail.email("anna@example.org", named("x"), "pw@example.org"), None
    hostile = message_from_bytes(
        mail.email("anna@example.org", named(name), "pw@example.org").as_bytes(), policy=policy.default
    )
    assert [header for header, _ in hostile.items()] == [header for header, _ in plain.items()]
    assert hostile["To"] == "anna@example.org"
    assert not re.search(r"[\r\n\x00-\x08\x1b]", str(hostile["Subject"]))
    assert [part.get_content_type() for part in hostile.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    text = hostile.get_body(("plain",))
    assert text is not None
    assert len(text.get_content().splitlines()) == len(rendering.text(named("x")).splitlines())


@given(NAMES)
def test_names_add_no_tag_to_a_page(name: str) -> None:
    assert tags(rendering.page(named(name))) == tags(rendering.page(named("x")))


@given(NAMES)
def test_names_break_neither_feed_nor_calendar_nor_webhook(name: str) -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    feed = ElementTree.fromstring(feeds.atom(1, named(name)))
    assert len(feed.findall(f"{atom}entry")) == 3
    assert {child.tag for child in feed[-1]} <= {
        f"{atom}{one}" for one in ("id", "title", "updated", "content", "author", "link")
    }
    one = Deadline(1, 2, NOW, NOW, False, name, name, name, name, name)
    (entry,) = icalendar.Calendar.from_ical(feeds.calendar(name, [one])).walk("VEVENT")
    assert set(entry) == {"UID", "DTSTAMP", "DTSTART", "SUMMARY", "DESCRIPTION", "STATUS", "SEQUENCE"}
    body, _ = webhook.body(named(name))
    assert json.loads(body)["id"] == str(KEY)


def test_a_calendar_and_a_feed_have_lines_of_their_own_alone() -> None:
    content = feeds.calendar(
        "x\r\nBEGIN:VEVENT", [Deadline(1, 2, NOW, NOW, True, "a\r\nEND:VEVENT", "c", "s", "r", None)]
    ).decode()
    assert len(re.findall(r"^BEGIN:VEVENT\r?$", content, re.MULTILINE)) == 1
    assert "STATUS:CANCELLED" in content


def test_a_webhook_is_a_cloudevent() -> None:
    body, headers = webhook.body(Message(KEY, "maize", NOW, [event()]))
    assert headers["content-type"].startswith("application/cloudevents+json")
    made = from_http_event(HTTPMessage(headers, body))
    assert (made.get_id(), made.get_type(), made.get_specversion()) == (str(KEY), webhook.TYPE, "1.0")
    data = made.get_data()
    assert isinstance(data, dict)
    assert data["events"][0]["parcel"] == "10984"


def test_the_key_is_in_the_message_id() -> None:
    made = mail.email("anna@example.org", Message(KEY, "maize", NOW, [event()]), "pw@agency.example")
    assert made["Message-ID"] == f"<{KEY}@agency.example>"
    assert made["Subject"] == "Parcelwatch, maize: alert 1 opened by the monitor: crop_mismatch, red, parcel 10984"


def test_a_subject_counts_alerts_and_not_events() -> None:
    events = [event(1), event(2, alert_key=1, event="confirmed"), event(3, colour="yellow")]
    assert rendering.subject(Message(KEY, "maize", NOW, events)) == "Parcelwatch, maize: 2 alerts (1 red, 1 yellow)"


def test_an_incident_is_a_block_of_its_alerts() -> None:
    members = [event(nr, incident=12, rule="early_loss", region=f"r{nr % 2}", area_ha=0.1 * nr) for nr in (12, 13)]
    events = [*members, replace(members[0], event_nr=14, event="confirmed", colour="yellow")]
    message = Message(KEY, "hail", NOW, events)
    assert (
        rendering.subject(message) == "Parcelwatch, hail: incident I12: early_loss, 2 alerts (1 red, 1 yellow), r0, r1"
    )
    text = rendering.text(message)
    for line in ("area        2.50 ha", "declared    maize (2)", "alerts      12 (parcel 10984), 13 (parcel 10984)"):
        assert f"{line}\n" in text
    assert tags(rendering.page(message)).count(("table", 3)) == 1
    digest = Message(KEY, "hail", NOW, [*events, event(20)])
    assert rendering.subject(digest) == "Parcelwatch, hail: 3 alerts (2 red, 1 yellow), incidents I12"
    assert tags(rendering.page(digest)).count(("table", 3)) == 2
    assert [one["incident"] for one in rendering.data(digest)["events"]] == ["I12", "I12", "I12", None]
    alone = rendering.subject(Message(KEY, "hail", NOW, events[:1]))
    assert alone == "Parcelwatch, hail: incident I12: early_loss, 1 alert (1 red), r0"


def test_a_message_without_events_is_one() -> None:
    empty = Message(KEY, "maize", NOW, [])
    assert "nothing to report" in rendering.text(empty)
    assert tags(rendering.page(empty))
    assert feeds.atom(1, empty)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "a@",
        "@b",
        "a@b\r\nBcc: c@d",
        "a@b, c@d",
        "A <a@b>",
        "a b@c",
        "a@b\x00",
        "a@b c",
        "a@@b",
        "<a@b>",
        "a@b;c@d",
        "a@b(c)",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidSubscription):
        mail.checked_address(address)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        assert "@" in mail.checked_address(text)
    except InvalidSubscription:
        pass
    else:
        mail.email(text, named("x"), "pw@example.org").as_bytes()
