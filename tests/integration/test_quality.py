"""Quality from the command line: a sample is drawn, reviewed blind, and reported; nothing of it can be changed."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import quality
from db.connect import connect, engine
from monitor.alerts.decisions import decide
from monitor.alerts.rules import RULES
from monitor.errors import NotFound
from monitor.inspection.figure import COLOUR
from tests.lights import DAY, START, add_alert, add_findings, add_parcels, add_view

N = 400
RULE, OTHER = "crop_mismatch", "early_loss"
IDS = [f"p{nr:03}" for nr in range(N)]
HOSTILE = '<script>alert("x")</script>'
LIGHT = {
    one: "red" if nr < 40 else "yellow" if nr < 80 else "not_valid" if nr < 120 else "green"
    for nr, one in enumerate(IDS)
}
"""Of rule RULE; of OTHER all are green."""
DEPARTS = {one: nr < 30 or 40 <= nr < 60 or nr % 20 == 19 for nr, one in enumerate(IDS)}
"""The truth: a quarter of the red ones are false, and one in twenty of the others departs."""
TIME = "2025-05-03"


@pytest.fixture
def connection(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[sa.Connection]:
    """400 parcels in two regions, their lights, and an open alert of each red and yellow one."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    with engine(dsn).begin() as opened:
        add_parcels(opened, {one: "maize" if nr % 3 else HOSTILE for nr, one in enumerate(IDS[:200])}, region="north")
        add_parcels(opened, dict.fromkeys(IDS[200:], "wheat"), region="south", area_ha=4.0)
        add_findings(opened, RULE, LIGHT, START + DAY)
        add_findings(opened, OTHER, dict.fromkeys(IDS, "green"), START + DAY)
        for nr, one in enumerate(IDS[:80]):
            add_alert(opened, one, RULE, START + DAY, LIGHT[one], 0.99 - nr / 200)
    with engine(dsn).connect() as opened:
        yield opened


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(parcelwatch.app, ["quality", *words], catch_exceptions=False)


def draw(run: Run, *words: str) -> None:
    drawn = run("sample", "--season", "2025", "--why", "yearly", "--as-known-at", TIME, "--seed", "s", *words)
    assert drawn.exit_code == 0, drawn.output


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def fill(path: Path, truth: Callable[[dict[str, str]], tuple[str, str]], **more: str) -> None:
    """Fill a form in, as a reviewer would."""
    rows = [row | dict(zip(("verdict", "why"), truth(row), strict=True)) | more for row in rows_of(path)]
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def as_it_is(row: dict[str, str]) -> tuple[str, str]:
    return ("other_crop", "seen") if DEPARTS[row["parcel"]] else ("as declared", "")


@pytest.mark.usefixtures("connection")
def test_from_sample_to_report(run: Run, tmp_path: Path) -> None:
    draw(run, "--size", "200", "--allocation", "neyman", "--second", "0.2")
    (stored,) = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    assert (stored["n_parcels"], stored["seed"], stored["n_reviewed"]) == (N, "s", 0)
    form_file = tmp_path / "form.csv"
    assert run("review", "export", "1", "form.csv", "--by", "anna").exit_code == 0
    assert len(rows_of(form_file)) == stored["n_sampled"]
    fill(form_file, as_it_is)
    assert f"{stored['n_sampled']} verdicts recorded" in run("review", "import", "1", "form.csv").output
    with pytest.raises(NotFound, match="nothing of sample 1 is left for anna"):
        run("review", "export", "1", "form.csv", "--by", "anna")
    run("review", "export", "1", "second.csv", "--by", "ben")
    second = tmp_path / "second.csv"
    assert len(rows_of(second)) == round(0.2 * stored["n_sampled"])
    fill(second, lambda row: ("lost", "dry") if row["item"] == "1" else as_it_is(row))
    run("review", "import", "1", "second.csv")
    (said,) = json.loads(run("report", "--json", "--budget", "40").output)["samples"]
    cells = {(cell["rule"], cell["region"]): cell for cell in said["figures"]}
    whole = cells["any rule", None]
    assert whole["false_reds"]["of_parcels"]["low"] <= 10 / 40 <= whole["false_reds"]["of_parcels"]["high"]
    assert whole["false_greens"]["of_parcels"]["low"] <= 14 / 280 <= whole["false_greens"]["of_parcels"]["high"]
    assert cells[OTHER, None]["false_greens"]["of_parcels"]["value"] == 0, "nobody said that a crop was lost"
    assert cells["any rule", "south"]["false_reds"]["of_parcels"]["too_few"], "no red parcel lies there"
    assert said["disputed"] == [1]
    assert said["agreement"]["agreed"] == pytest.approx(1 - 1 / said["agreement"]["n"])
    (lift,) = said["lift"]
    truth = sum(DEPARTS[one] for one in IDS[:40]) / sum(DEPARTS.values())
    assert lift["found"]["low"] <= truth <= lift["found"]["high"]
    assert lift["at_random"] == pytest.approx(0.1)
    run("review", "record", "1", "1", "--verdict", "lost", "--why", "visited", "--by", "carl")
    printed = run("report").output
    assert "disputed" not in printed
    assert "Cohen's kappa" in printed
    before = json.loads(run("report", "--json", "--as-known-at", "2020-01-01").output)
    assert before["samples"][0]["n_decided"] == 0


@pytest.mark.usefixtures("connection")
def test_the_same_seed_draws_the_same_whenever_it_is_drawn(run: Run, dsn: str) -> None:
    draw(run, "--size", "60")
    with engine(dsn).begin() as other:
        add_findings(other, RULE, dict.fromkeys(IDS, "red"), START + 10 * DAY)
        add_parcels(other, {"new": "maize"}, START + 10 * DAY)
    draw(run, "--size", "60")
    with engine(dsn).connect() as other:
        one, two = ([(row.item, row.stratum_nr, row.light) for row in quality.drawn(other, key)] for key in (1, 2))
        strata = quality.strata(other, 1)
        probability = other.execute(
            sa.text("select sum(n_parcels * inclusion_probability) from quality_strata where sample_key = 1")
        )
        assert probability.scalar_one() == pytest.approx(len(one))
    assert one == two
    assert sum(stratum.n_parcels for stratum in strata) == N


@pytest.mark.usefixtures("connection")
def test_the_half_width_gives_the_size(run: Run) -> None:
    draw(run, "--half-width", "0.02")
    draw(run, "--half-width", "0.1")
    fine, coarse = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    assert fine["n_sampled"] > 2 * coarse["n_sampled"]


FORBIDDEN = (
    *COLOUR,
    *RULES,
    "not[_ ]?valid",
    "not[_ ]?executed",
    "alert",
    "posterior",
    "probability",
    "finding",
    "stratum",
    "inbox",
)
WORDS = re.compile(rf"(?i)\b({'|'.join(FORBIDDEN)})")


@pytest.mark.parametrize("suffix", ["html", "csv"])
def test_a_form_says_nothing_of_what_was_found(
    suffix: str, run: Run, connection: sa.Connection, dsn: str, tmp_path: Path
) -> None:
    """In words, and byte for byte: with other findings, alerts and posteriors the form of the same parcels is the same."""
    add_view(connection, IDS, START, START)
    connection.commit()
    draw(run, "--size", "12", "--minimum", "1", "--crops", "0")
    path = tmp_path / f"form.{suffix}"
    words = ("review", "export", "1", path.name, "--by", "anna", "--limit", "4")
    run(*words)
    first = path.read_bytes()
    text = re.sub(r"base64,[^\"]+|</?script>", "", first.decode())
    assert WORDS.findall(text) == []
    assert not any(one in text for one in COLOUR.values())
    if suffix == "html":
        assert "<script>alert" not in first.decode()
        assert first.count(b"data:image/png;base64,") == 4
    with engine(dsn).begin() as other:
        add_findings(other, RULE, dict.fromkeys(IDS, "red"), START + 3 * DAY)
        add_findings(other, "a_new_rule", dict.fromkeys(IDS, "yellow"), START + 3 * DAY)
        for one in IDS:
            add_alert(other, one, OTHER, START + 3 * DAY)
        other.execute(
            sa.text("""insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
                       values ('m', 'classifier', '{"classes": ["corn", "wheat"]}', '{}', '{}', '{}', '', now())""")
        )
        other.execute(
            sa.text("""insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1,
                           probabilities)
                       select parcel_key, '2025-05-04', '2025-05-01 06:00Z', model_key, 1, 0, 0, 0, array[0.25, 0.75]
                       from models, parcels""")
        )
    run(*words)
    assert path.read_bytes() == first


def add_chip(connection: sa.Connection, ids: list[str], observed: datetime, revision: int = 0) -> None:
    """Store a picture of parcels, as a worker cuts it."""
    connection.execute(
        sa.text("""insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
                   values (:name, 'S2', 'S2A', 8, :at, :at, :at)"""),
        {"name": f"s {observed} {revision}", "at": observed},
    )
    connection.execute(
        sa.text("""insert into chips (parcel_key, scene_key, revision, composite, observed_at, recorded_at, cut_for, image, sha256)
                   select parcel_key, scene_key, :revision, 'true_colour', :at, :at, 'alert', 'png', sha256('png')
                   from parcels, scenes where source_id = any(:ids) and scene_id = :name"""),
        {"name": f"s {observed} {revision}", "at": observed, "ids": ids, "revision": revision},
    )
    connection.commit()


def test_pictures_are_shown_only_where_they_say_nothing_of_the_light(
    connection: sa.Connection, run: Run, tmp_path: Path
) -> None:
    """Those of alerts are left out; those that all sampled parcels are to have are shown."""
    page = tmp_path / "form.html"

    def shown() -> tuple[int, int]:
        run("review", "export", "1", "form.html", "--by", "anna")
        text = page.read_text()
        return text.count("<figcaption>true colour, "), text.count("<section ")

    draw(run, "--size", "8", "--minimum", "1", "--crops", "0")
    add_chip(connection, IDS[:80], START + DAY)
    assert shown()[0] == 0, "what was cut before says who was alerted"
    later = datetime.now(UTC) + DAY
    add_chip(connection, IDS[:80], later)
    add_chip(connection, IDS, later, revision=1)
    assert shown()[0] == shown()[1], "one of each, though of some an earlier revision is stored too"
    run("pictures", "1", "--stop")
    assert shown()[0] == 0
    run("pictures", "1")
    add_chip(connection, IDS, datetime.now(UTC) + 2 * DAY)
    assert shown()[0] == 2 * shown()[1], "both days, since they lie after the new beginning"


@pytest.mark.usefixtures("connection")
def test_a_spreadsheet_takes_no_cell_for_a_formula(run: Run, dsn: str, tmp_path: Path) -> None:
    with engine(dsn).begin() as other:
        other.execute(sa.text("update parcels set source_id = '=cmd|' || source_id"))
    draw(run, "--size", "10")
    run("review", "export", "1", "form.csv", "--by", "+anna")
    rows = rows_of(tmp_path / "form.csv")
    assert {row["parcel"][:2] for row in rows} == {"'="}
    assert {row["by"] for row in rows} == {"'+anna"}


HEADER = "sample,item,verdict,why,by"
WRONG = [
    (f"{HEADER}\n1,1,maybe,x,a\n", r"line 2 has the verdict 'maybe'"),
    (f"{HEADER}\n1,1,lost,x,a\n1,9999,lost,x,a\n", r"line 3 names item '9999', which sample 1 does not have"),
    (f"{HEADER}\n2,1,lost,x,a\n", r"line 2 is of sample '2', not 1"),
    (f"{HEADER}\n1,-1,lost,x,a\n1,¹,lost,x,a\n", r"line 2 names item '-1'(.|\n)*line 3 names item '¹'"),
    (f"{HEADER}\n1,1,lost,,a\n", "line 2 gives no reason"),
    (f"{HEADER}\n1,1,lost,x,\n", "line 2 does not say who reviewed"),
    (f"{HEADER}\n1,1,lost,x,a\n\n1,1,lost,y,a\n", "line 4 says of item 1 again what line 2 does"),
    (f"{HEADER}\n1,1,lost\n", "line 2 has not as many cells"),
    (f"{HEADER}\n1,1,lost,x,a,b\n", "line 2 has not as many cells"),
    (f'{HEADER}\n1,1,lost,"x,a\n', "line 2 is no CSV|line 3 is no CSV"),
    (f"{HEADER}\n1,1,lost,{'x' * 2001},a\n", "line 2 has a why that cannot be stored"),
    ("item,verdict\n1,lost\n", "line 1 has no column sample, why"),
    ("", "line 1 has no column"),
    (f"{HEADER}\n1,1,lost,a\0b,a\n", "line 2"),
    (f"{HEADER}\n1,1,lost,caf\xe9,a\n".encode("latin-1"), "line 2 is not UTF-8"),
    ((HEADER + "\n1,1,lost,x,a\n").encode("utf-16"), "line 1 is not UTF-8"),
    (f"{HEADER}\n1,1,,,\n", "has no verdict"),
]


@pytest.mark.parametrize(("content", "why"), WRONG, ids=range(len(WRONG)))
@pytest.mark.usefixtures("connection")
def test_a_form_with_a_wrong_line_records_nothing(
    content: str | bytes, why: str, run: Run, dsn: str, tmp_path: Path
) -> None:
    draw(run, "--size", "10")
    (tmp_path / "f.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = CliRunner().invoke(parcelwatch.app, ["quality", "review", "import", "1", "f.csv"])
    assert isinstance(answer.exception, NotFound)
    assert re.search(why, f"{answer.stderr}\n{answer.exception}")
    assert all("\n" not in str(line) for line in (answer.exception,))
    with engine(dsn).connect() as other:
        assert quality.verdicts(other, 1) == []


@pytest.mark.usefixtures("connection")
def test_forms_of_other_spreadsheets_are_read(run: Run, dsn: str, tmp_path: Path) -> None:
    draw(run, "--size", "10")
    text = '\ufeffsample;item;verdict;why;by\r\n1;1;Other Crop;"a; b\nc";anna\r\n1;2;;;\r\n1;3; as_declared ;;\r\n'
    (tmp_path / "f.csv").write_text(text, encoding="utf-8", newline="")
    assert run("review", "import", "1", "f.csv", "--by", "ben").exit_code == 0
    with engine(dsn).connect() as other:
        found = [(row.item, row.verdict, row.reviewer, row.reason) for row in quality.verdicts(other, 1)]
    assert found == [(1, "other_crop", "anna", "a; b\nc"), (3, "as_declared", "ben", None)]
    quoted = '"sample","item","verdict","why","by"\r\n"1","4","lost","a ""b"", c","anna"'  # as the page saves it
    (tmp_path / "g.csv").write_text(quoted, encoding="utf-8", newline="")
    assert run("review", "import", "1", "g.csv").exit_code == 0
    with engine(dsn).connect() as other:
        assert quality.verdicts(other, 1)[-1].reason == 'a "b", c'


CHANGES = [
    "update quality_verdicts set verdict = 'lost'",
    "delete from quality_verdicts",
    "truncate quality_samples cascade",
    "update quality_items set inbox_rank = 1",
    "delete from quality_strata",
    "update quality_samples set seed = 'another'",
]


@pytest.mark.parametrize("statement", CHANGES)
@pytest.mark.usefixtures("connection")
def test_the_database_refuses_to_change_samples_and_verdicts(statement: str, run: Run, dsn: str) -> None:
    draw(run, "--size", "10")
    run("review", "record", "1", "1", "--verdict", "lost", "--why", "x")
    with connect(dsn) as other, pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        other.execute(statement.encode())


def test_verdicts_on_alerts_stand_apart_from_the_sample(connection: sa.Connection, run: Run) -> None:
    draw(run, "--size", "40")
    keys = connection.execute(sa.text("select alert_key from alerts order by alert_key limit 12")).scalars().all()
    for nr, key in enumerate(keys):
        decide(connection, key, "dismissed" if nr < 4 else "verified", "seen", "anna", START + 5 * DAY)
    decide(connection, keys[0], "reopened", "appeal", "anna", START + 6 * DAY)
    decide(connection, keys[1], "closed", "settled", "anna", START + 6 * DAY)
    connection.commit()
    said = json.loads(run("report", "--json").output)
    cells = {(cell["rule"], cell["region"], cell["month"]): cell for cell in said["alerts"]}
    assert cells[RULE, None, None]["false_reds"]["value"] == pytest.approx(3 / 11), (
        "a decision that was taken back is none"
    )
    assert all(cell["is_selected"] for cell in said["alerts"])
    assert said["samples"][0]["n_decided"] == 0
    before = json.loads(run("report", "--json", "--as-known-at", "2025-05-05").output)
    assert before["alerts"] == []
    listed = connection.execute(
        sa.text("select source, verdict, count(*) from verdicts group by 1, 2 order by 2")
    ).fetchall()
    assert [tuple(row) for row in listed] == [("alert", "confirmed", 8), ("alert", "dismissed", 3)]
    assert "selected" in run("report").output


@pytest.mark.usefixtures("connection")
def test_what_cannot_be_done_says_why(run: Run) -> None:
    draw(run, "--size", "10")
    base = ("sample", "--season", "2025", "--why", "x")
    for words, why in (
        ((*base, "--as-known-at", "2999-01-01"), "lies ahead"),
        ((*base, "--as-known-at", "1999-01-01"), "was stored by 1999-01-01 00:00 UTC; the first was at 20"),
        ((*base, "--collection", "fr"), "collection 'fr' has no parcels"),
        (("review", "export", "7", "f.csv"), "sample 7 is not stored; stored: 1"),
        (("review", "record", "1", "500", "--verdict", "lost", "--why", "x"), "has no item 500"),
        (("review", "import", "1", "none.csv"), "cannot be read"),
        (("review", "export", "1", "none/f.csv"), "cannot be written"),
        (("report", "--sample", "9"), "sample 9 is not stored"),
    ):
        with pytest.raises(NotFound, match=why):
            run(*words)
    for words in (
        (*base, "--expect", "red=2"),
        (*base, "--expect", "blue=0.1"),
        (*base, "--allocation", "best"),
        ("review", "export", "1", "f.txt"),
        ("review", "record", "1", "1", "--verdict", "maybe", "--why", "x"),
    ):
        assert run(*words).exit_code == 2, words


def test_a_large_population_is_drawn_in_seconds(connection: sa.Connection, run: Run) -> None:
    """In time that grows with the parcels alone: 20,000 more are drawn within the test's patience."""
    connection.execute(
        sa.text("""insert into parcels (collection, season_key, source_id, region_key, area_ha, recorded_at)
                   select 'nl', season_key, 'x' || nr, region_key, 1, :at from seasons, generate_series(1, 20000) nr,
                   lateral (select region_key from regions limit 1) r"""),
        {"at": START},
    )
    connection.commit()
    begun = datetime.now(UTC)
    draw(run, "--half-width", "0.02", "--allocation", "neyman")
    assert (datetime.now(UTC) - begun).total_seconds() < 30
    sampled = quality.drawn(connection, 1)
    assert {row.light for row in sampled} == {"red", "yellow", "green", "not_valid", "not_executed"}
    assert np.mean([row.light == "not_executed" for row in sampled]) > 0.3
