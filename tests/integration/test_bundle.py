"""The evidence bundle: all of it, readable, harmless, and the same bytes whenever it is asked."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image
from typer.testing import CliRunner

import parcelwatch
from db.connect import close_engines, engine
from db.policies import put_in_force

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & #panic() $x$ \\ *b* \u202e 小麦"
EVIDENCE = {
    "lost_on": "2025-06-10",
    "clear_views": [["2025-06-09", 0.8], ["2025-06-11", 0.2]],
    "neighbours": 12,
    "standing_share_of_neighbours": 0.9,
}
DAY = datetime(2025, 6, 1, 10, 30, tzinfo=UTC)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (40, 120, 60)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Connection]:
    """A parcel with a hostile name and crop, ten acquisitions of each sensor, a curve, an alert and pictures of two scenes."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with engine(dsn).connect() as opened:
        for statement in (
            "insert into seasons (name, starts_on, ends_on) values ('2025', '2025-01-01', '2025-12-31')",
            "insert into regions (code) values ('r')",
            """insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
               select 'c', season_key, :hostile, region_key,
                      ST_GeomFromText('MULTIPOLYGON(((5 52,5.01 52,5.01 52.01,5 52)))', 4326), 2.5, '2025-01-01'
               from seasons, regions""",
            """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
               select parcel_key, '2025-01-02', '2025-01-02', '1', :hostile from parcels""",
            """insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
               select parcel_key, '2025-06-01', '2025-06-15', 1073741823, 0, 1, array_fill(0.5, array[31]), array_fill(0.05, array[31])
               from parcels""",
            """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
               select parcel_key, 'early_loss', 'open', 'yellow', 0.93, '2025-06-10', '2025-06-20' from parcels""",
            """insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, confidence, departed_on, evidence)
               select parcel_key, 'early_loss', '2025-06-20', '1', 'OK', 'yellow', 0.93, '2025-06-10', '{}' from parcels""",
        ):
            opened.execute(sa.text(statement), {"hostile": HOSTILE} if ":hostile" in statement else {})
        for nr in range(10):
            observe(opened, DAY + timedelta(days=2 * nr))
        event(opened, "2025-06-20", "opened", EVIDENCE)
        event(opened, "2025-06-20 12:00", "commented", EVIDENCE | {"decision": {"by": HOSTILE, "reason": HOSTILE}})
        opened.commit()
        yield opened


def observe(connection: sa.Connection, at: datetime) -> None:
    """Store what both sensors saw at a time."""
    for sensor, name in (("S2", f"S2A_{at:%Y%m%d}"), ("S1", f"S1A_{at:%Y%m%d}")):
        connection.execute(
            sa.text("""insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
                       values (:name, cast(:sensor as sensor), 'X', 8, :at, :at, :at)"""),
            {"name": name, "sensor": sensor, "at": at},
        )
    connection.execute(
        sa.text("""insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                       clear_fraction, available_at, recorded_at, scene_key, ndvi)
                   select parcel_key, :at, 8, 0, false, 50, 0.9, :at, :at, scene_key, 0.5
                   from parcels, scenes where sensor = 'S2' and observed_at = :at"""),
        {"at": at},
    )
    connection.execute(
        sa.text("""insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels,
                       available_at, recorded_at, scene_key, direction, radiometry, vv, vh)
                   select parcel_key, :at, 8, 0, false, 50, :at, :at, scene_key, 'ascending', 'sigma0', 0.1, 0.02
                   from parcels, scenes where sensor = 'S1' and observed_at = :at"""),
        {"at": at},
    )


def event(connection: sa.Connection, at: str, name: str, evidence: dict[str, Any]) -> None:
    connection.execute(
        sa.text("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                   select alert_key, cast(:at as timestamptz), :name, 'yellow', 0.93, cast(:evidence as jsonb) from alerts"""),
        {"at": f"{at}+00", "name": name, "evidence": json.dumps(evidence)},
    )


def cut(connection: sa.Connection, scene: str, composite: str, cut_at: str, image: bytes | None = None) -> None:
    """Store a picture of a scene."""
    shown = png() if image is None else image
    connection.execute(
        sa.text("""insert into chips (parcel_key, scene_key, revision, composite, observed_at, recorded_at, cut_for, image, sha256,
                       crs, left_m, top_m, pixel_m, width, height, bar_m, stretch)
                   select parcel_key, scene_key, 0, :composite, observed_at, cast(:cut_at as timestamptz), 'alert', :image,
                          sha256(:image), 'EPSG:32631', 0, 0, 10, 32, 32, 100, '1: made' from parcels, scenes where scene_id = :scene"""),
        {"scene": scene, "composite": composite, "cut_at": f"{cut_at}+00", "image": shown},
    )
    connection.commit()


def bundle(place: Path, *words: str) -> str:
    result = CliRunner().invoke(parcelwatch.app, ["alerts", "show", "1", "--bundle", str(place), *words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def files(folder: Path, *words: str) -> dict[str, bytes]:
    bundle(folder, *words)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_all_is_in_it_and_what_is_missing_says_why(connection: sa.Connection, tmp_path: Path) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    said = bundle(tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["as_known_at"] == "2025-06-20T12:00:00Z"
    assert "canopy lost on 2025-06-10" in found["why"]
    assert [one["event"] for one in found["log"]] == ["opened", "commented"]
    assert found["versions"]["rule_version"] == "1"
    assert found["thresholds"]["values"]["loss_from_ndvi"] == 0.5
    assert len(found["sentinel_1"]) == len(found["sentinel_2"]) == 10
    assert len(found["daily_ndvi"]) == 30
    by_place = {(one["role"], one["composite"]): one for one in found["pictures"]}
    assert set(by_place) == {
        (role, composite)
        for role in ("before", "after", "newest")
        for composite in ("true_colour", "false_colour", "radar")
    }
    assert by_place["before", "true_colour"]["scene"] == "S2A_20250609"
    assert by_place["before", "true_colour"]["missing"] is None
    assert by_place["after", "true_colour"]["scene"] == "S2A_20250611"
    assert "came as messages" in by_place["after", "radar"]["missing"]
    assert "no picture (radar after): its observations came as messages" in said


def test_the_same_time_gives_the_same_bytes_on_another_day_with_more_data(
    connection: sa.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    cut(connection, "S2A_20250611", "true_colour", "2025-06-22 01:00")
    first = files(tmp_path / "first")
    assert set(first) == {
        "bundle.html",
        "bundle.json",
        "bundle.pdf",
        "curve.svg",
        "pictures/after-true_colour.png",
        "pictures/before-true_colour.png",
    }
    bundle(tmp_path / "first.zip")
    observe(connection, DAY + timedelta(days=40))
    event(connection, "2025-07-15", "confirmed", EVIDENCE)
    connection.execute(sa.text("update alerts set colour = 'red', state = 'acknowledged', confirmed_at = '2025-07-15'"))
    connection.execute(
        sa.text("""insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
                   select parcel_key, '2025-06-01', '2025-07-15', 1073741823, 0, 1, array_fill(0.1, array[31]), array_fill(0.05, array[31])
                   from parcels""")
    )
    cut(connection, "S2A_20250711", "true_colour", "2025-07-15")
    other = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 20, 20)).save(other, "PNG")
    for scene in ("S2A_20250609", "S2A_20250611"):
        cut(connection, scene, "true_colour", "2025-08-01", other.getvalue())
    put_in_force(connection, 1, "c", ("late", 1, "0" * 64, "{}"), "anna", "why", datetime(2025, 8, 1, tzinfo=UTC))
    connection.commit()
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("PGTZ", "Pacific/Auckland")
    monkeypatch.setenv("PARCELWATCH_MONITOR_RULES__LOSS_FROM_NDVI", "0.9")
    close_engines()
    at = "2025-06-20T12:00:00"
    again = files(tmp_path / "again", "--as-known-at", at)
    assert [name for name in first if first[name] != again.get(name)] == []
    bundle(tmp_path / "again.zip", "--as-known-at", at)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    bundle(tmp_path / "now.json")
    now = json.loads((tmp_path / "now.json").read_text())
    assert (now["as_known_at"], len(now["sentinel_2"])) == ("2025-07-15T00:00:00Z", 11)
    bundle(tmp_path / "later.json", "--as-known-at", "2025-09-01")
    later = json.loads((tmp_path / "later.json").read_text())
    assert later["versions"]["policy"] == {"name": "late", "version": 1, "sha256": "0" * 64}


class Seen(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_harmless_whatever_crops_and_parcels_are_called(connection: sa.Connection, tmp_path: Path) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    bundle(tmp_path / "b.html")
    page = Seen()
    page.feed((tmp_path / "b.html").read_text(encoding="utf-8"))
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "iframe", "object", "embed", "link", "form", "a", "base", "svg"}
    assert all(not name.startswith("on") and name != "style" for _, attributes in page.elements for name in attributes)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 2
    assert all(str(one["src"]).startswith("data:image/") and one["alt"] for one in pictures)
    (policy,) = [one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    assert "\u202e" not in page.text


def test_the_page_can_be_read_by_everyone(connection: sa.Connection, tmp_path: Path) -> None:  # noqa: ARG001
    bundle(tmp_path / "b.html")
    page = Seen()
    page.feed((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert ("html", {"lang": "en"}) in page.elements
    assert "▲ yellow" in page.text, "the colour is a word and a form"
    assert any(one.get("name") == "viewport" for _, one in page.elements)
    headers = [one for tag, one in page.elements if tag == "th"]
    assert headers
    assert all(one == {"scope": "col"} for one in headers)
    assert "No picture:" in page.text


def test_the_pdf_is_tagged_and_says_no_time(connection: sa.Connection, tmp_path: Path) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    bundle(tmp_path / "b.pdf")
    made = (tmp_path / "b.pdf").read_bytes()
    assert made.startswith(b"%PDF-")
    assert b"pdfuaid:part>1" in made
    assert not re.search(rb"CreationDate|ModDate|xmp:CreateDate", made)


def test_the_zip_holds_everything(connection: sa.Connection, tmp_path: Path) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    bundle(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "bundle.html",
            "bundle.json",
            "bundle.pdf",
            "curve.svg",
            "pictures/before-true_colour.png",
        ]
        assert archive.read("pictures/before-true_colour.png") == png()


def test_a_removed_picture_is_said_to_be_removed(connection: sa.Connection, tmp_path: Path) -> None:
    cut(connection, "S2A_20250609", "true_colour", "2025-06-20 01:00")
    connection.execute(sa.text("update chips set image = null, removed_at = '2027-01-01 00:00+00'"))
    connection.commit()
    bundle(tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text())["pictures"][0]
    assert found["missing"] == "removed 2027-01-01, its time of keeping was over"
    assert len(found["sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["77", "--bundle", "x.json"], "alert 77 is not stored"),
        (["1", "--bundle", "x.doc"], "a bundle is a"),
        (["1", "--bundle", "/proc/nowhere/x.json"], "cannot be written"),
        (["1", "--bundle", "x.json", "--as-known-at", "2020-01-01"], "not stored"),
    ],
)
@pytest.mark.usefixtures("connection")
def test_errors_are_one_line(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(parcelwatch.app, ["alerts", "show", *words])
    assert result.exit_code != 0
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
