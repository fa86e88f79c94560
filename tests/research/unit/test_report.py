"""The report: whole, self-contained, and honest about what went wrong."""

import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from db.history import HistoryRow
from db.parcels import Parcel
from db.registry import ModelRow
from db.season_results import RaisedAlertRow
from db.seasons import Season as StoredSeason
from research.seasons import evaluate, plots, report
from research.seasons.console_pictures import SCREENS, Picture
from research.seasons.curve_scores import CurveScores
from research.seasons.evaluate import Watched
from research.seasons.examples import choose
from research.seasons.outcome import GROWN_NAME, Counted, DemoSettings, Outcome, Run
from research.simulator import SimulatorConfig, simulate_season
from training.metrics import score_classes

SETTINGS = DemoSettings(parcels=44, pixels=4)
VOID = np.dtype([("parcel_key", "i8")])
VERSIONS = {"Python": "3.11.0", "parcelwatch": "0.1.0"}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """A demonstration that was never run: simulated seasons, an invented alert on the first parcel that went wrong."""
    history, season = (simulate_season(SimulatorConfig(year=y, n_parcels=44, n_pixels=4)) for y in (2024, 2025))
    parcels = [
        Parcel(
            nr,
            "demo",
            "2025",
            p.parcel_id,
            p.region,
            2.0,
            600.0,
            0.8,
            5.0,
            52.0,
            None if nr else "too_small",
            p.crop_code,
            p.crop_name,
            p.hcat_code,
        )
        for nr, p in enumerate(season.parcels.itertuples())
    ]
    false = parcels[3].source_id
    opened, confirmed = datetime(2025, 5, 2, 12, tzinfo=UTC), datetime(2025, 5, 20, 12, tzinfo=UTC)
    detail = {
        "rule": "crop_mismatch",
        "declared": "<b>potato</b>",
        "probability_of_declared": 0.01,
        "most_likely": "maize",
        "probability_of_most_likely": 0.97,
        "n_observations": 30,
    }
    rows = [
        HistoryRow(
            at, "alert", at, None, None, None, None, None, None, None, 0.9, detail | {"event": event, "colour": colour}
        )
        for at, event, colour in ((opened, "opened", "yellow"), (confirmed, "confirmed", "red"))
    ]
    watched = Watched(
        StoredSeason(2, "2025", season.starts_on, season.ends_on),
        parcels,
        np.empty(0, VOID),
        np.empty(0, VOID),
        np.array([(4, 0.3)], [("parcel_key", "i8"), ("ndvi", "f4")]),
        [RaisedAlertRow(false, "crop_mismatch", opened, confirmed, None)],
        {false: rows},
        {p.source_id: "green" if p.is_monitorable else "not monitorable" for p in parcels},
    )
    truth = season.truth
    quiet = truth.events[truth.events["parcel_id"] != false]
    grown = dict(zip(truth.parcels["parcel_id"], truth.parcels["grown"].map(GROWN_NAME), strict=True))
    judged = evaluate.alerts(watched, quiet, grown)
    labels = pd.DataFrame({"parcel_id": list(grown)[1:], "label": list(grown.values())[1:], "fold": 0})
    classes = tuple(sorted(set(grown.values())))
    pool = evaluate.crops(labels, evaluate.declared_as_posteriors(grown, classes), labels, classes)
    scores = score_classes(pool)
    by_date = dict.fromkeys(SETTINGS.scored_on, scores)
    model = ModelRow(
        1,
        "ab" * 32,
        "classifier",
        {"classes": list(classes)},
        {},
        {"season": "2024", "observed_from": "2023-09-01", "observed_to": "2024-10-31"},
        opened,
    )
    run = Run(
        SETTINGS,
        history,
        season,
        watched.season,
        watched.season,
        44,
        (model,),
        date(2024, 11, 14),
        Counted(1234, 1234, 1234, 1234, 0, 0),
        "none",
        {"simulate": 1.5},
    )
    return Outcome(
        run,
        watched,
        {"network": by_date, "declared crop": by_date},
        by_date,
        dict.fromkeys(SETTINGS.scored_on, pool),
        (CurveScores("as known on the day", 99, 0.05, -0.01, 0.9, 0.94),),
        judged,
        tuple((one, rows if one.parcel_id == false else []) for one in choose(watched, judged, quiet)),
        evaluate.lights(watched),
    )


@pytest.fixture(scope="module")
def page(outcome: Outcome) -> str:
    return report.render(outcome, VERSIONS, 321.0)


class Outline(HTMLParser):
    """Headings, figures without a label, resources from elsewhere, and tags that were never closed."""

    void = frozenset(
        {"meta", "br", "link", "img", "input", "path", "use", "rect", "image", "stop", "circle", "line", "polygon"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.unlabelled: list[str] = []
        self.foreign: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "figure" and not given.get("aria-label"):
            self.unlabelled.append(tag)
        self.foreign += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href") and not str(v).startswith("#")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data.strip())


def test_the_page_has_every_section_and_is_well_formed(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.headings[0] == "Season 2025, watched parcel by parcel"
    for wanted in (
        "What was watched",
        "Scores",
        "Crops over the season",
        "Parcels, day by day",
        "Alerts, all of them",
        "Events that no alert answered",
        "How it was made",
    ):
        assert wanted in outline.headings
    assert any(heading.startswith("A false alert") for heading in outline.headings)


def test_the_page_needs_nothing_from_elsewhere_and_every_figure_says_what_it_shows(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.foreign == []
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert outline.unlabelled == []


def test_pictures_of_the_console_are_in_the_page_or_why_not(outcome: Outcome, page: str) -> None:
    assert "No pictures of it: none were taken." in page
    found = [Picture("inbox", screen, screen.encode()) for screen in SCREENS]
    pictured = report.render(outcome, VERSIONS, 321.0, found)
    assert [pictured.count(one.address) for one in found] == [1] * len(SCREENS)
    assert "No pictures" not in pictured


def test_plots_take_their_ink_from_the_page(page: str) -> None:
    assert page.count("<svg") >= 8  # four maps, accuracy, reliability, examples
    assert "#000000" not in page
    assert "currentColor" in page


def test_the_false_alert_and_the_missed_events_are_listed(outcome: Outcome, page: str) -> None:
    assert outcome.alerts.confirmed.false_alerts == {"crop_mismatch": 1}
    alerts = page[page.index('id="alerts"') :]
    assert outcome.watched.alerts[0].source_id in alerts
    assert "maize 97%, after 30 observations" in alerts
    assert outcome.alerts.missed
    assert all(one.parcel_id in alerts for one in outcome.alerts.missed)


def test_names_from_data_are_escaped(page: str) -> None:
    assert "<b>potato</b>" not in page
    assert "&lt;b&gt;potato&lt;/b&gt;" in page


def test_the_terminal_table_says_what_was_stored(outcome: Outcome) -> None:
    table = report.summary(outcome)
    cells = [str(cell) for column in table.columns for cell in column.cells]
    assert "1,234 / 1,234 / 1,234" in cells
    assert any(cell.startswith("1: precision 0.00") for cell in cells)


def test_blocks_of_fields_are_moved_whole(outcome: Outcome) -> None:
    own = outcome.run.season.parcels[outcome.run.season.parcels["region"] == "centre"]
    fields = own.to_crs(own.estimate_utm_crs()).geometry
    moved = plots.moved_together(fields)
    assert moved.index.equals(fields.index)
    np.testing.assert_allclose(moved.area, fields.area)
    touching = fields.buffer(5).sindex.query(fields.buffer(5), predicate="intersects")
    before = [fields.iloc[a].distance(fields.iloc[b]) for a, b in touching.T]
    after = [moved.iloc[a].distance(moved.iloc[b]) for a, b in touching.T]
    np.testing.assert_allclose(after, before, atol=1e-6)  # neighbours stay neighbours
    assert np.ptp(moved.total_bounds[::2]) < np.ptp(fields.total_bounds[::2])


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (float("nan"), "–"), (0.12345, "0.123")])
def test_numbers_that_are_not_there_are_a_dash(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


@pytest.mark.parametrize(
    "changed", [{"stored": 9, "in_tables": 9}, {"in_tables": 9}, {"sent": 11}, {"postponed": 1}, {"emitted": 12}]
)
def test_a_lost_doubled_or_postponed_observation_is_no_success(changed: dict[str, int]) -> None:
    good = {"emitted": 10, "sent": 10, "stored": 10, "in_tables": 10, "dead_lettered": 0, "postponed": 0}
    assert Counted(**good).is_complete
    assert Counted(**good | {"stored": 8, "in_tables": 8, "dead_lettered": 2}).is_complete
    assert not Counted(**good | changed).is_complete
