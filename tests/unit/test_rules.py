"""The rules: departures are dated, confirmed by a later view, and no evidence is never non-compliance."""

from datetime import date, timedelta

import numpy as np
import pytest

from monitor.alerts import rules
from monitor.alerts.evidence import why
from monitor.alerts.lifecycle import why_over
from monitor.alerts.neighbours import CropStands, Neighbours, harvest_day
from monitor.alerts.rules import VERDICTS, ClearViews, Finding, Found, Posteriors
from monitor.alerts.settings import RuleSettings
from tests.one_group import neighbours_of

SETTINGS = RuleSettings()
START = date(2025, 1, 1)
GROUP = np.array([0])


def views(*pairs: tuple[int, float]) -> ClearViews:
    days = np.array([np.datetime64(START) + day for day, _ in pairs], "M8[D]")
    return ClearViews(np.zeros(len(pairs), np.int64), days, np.array([ndvi for _, ndvi in pairs], np.float32), 1)


def crop_mismatch(
    declared: str | None, posterior: Posteriors | None, previous: Finding | None, settings: RuleSettings
) -> Finding:
    before = Found.nothing(1)
    if previous is not None:
        verdict = VERDICTS.index((previous.outcome, previous.colour))
        before = Found(np.array([verdict]), np.array([previous.departed_on], "M8[D]"))
    return rules.crop_mismatch([declared], posterior, before, settings).finding(0)


def no_emergence(views: ClearViews, near: Neighbours, settings: RuleSettings) -> Finding:
    return rules.no_emergence(views, CropStands.of([near], settings), GROUP, np.array([False]), settings).finding(0)


def early_loss(views: ClearViews, near: Neighbours, is_new_stand: bool, settings: RuleSettings) -> Finding:
    stands = CropStands.of([near], settings)
    return rules.early_loss(views, stands, GROUP, np.array([False]), np.array([is_new_stand]), settings).finding(0)


HARVEST = START + timedelta(days=300)
"""Of last season, so late that no loss here is near it."""


def neighbours(up_on: int = 100, down_on: int = 200, n: int = 20, harvest_from: date | None = HARVEST) -> Neighbours:
    """Neighbours that lie bare until `up_on`, stand until `down_on` and lie bare again."""
    day = np.arange(365)
    stands = (day >= up_on) & (day < down_on)
    median = np.where(stands, 0.8, 0.2).astype(np.float32)
    return Neighbours(n, START, stands.astype(np.float32), median, harvest_from)


def posterior(declared: float, other: float, day: int = 150, n: int = 40) -> Posteriors:
    probabilities = np.array([[declared, other, 1 - declared - other]], np.float32)
    seen = np.array([START + timedelta(days=day)], "M8[D]")
    return Posteriors(("wheat", "maize", "beet"), probabilities, np.array([n]), seen)


def test_mismatch_is_yellow_at_first_and_red_when_it_holds() -> None:
    first = crop_mismatch("wheat", posterior(0.004, 0.95, 150), None, SETTINGS)
    assert (first.colour, first.departed_on) == ("yellow", START + timedelta(days=150))
    soon = crop_mismatch("wheat", posterior(0.004, 0.95, 165), first, SETTINGS)
    assert soon.colour == "yellow"
    later = crop_mismatch("wheat", posterior(0.004, 0.95, 180), soon, SETTINGS)
    assert (later.colour, later.departed_on) == ("red", START + timedelta(days=150))
    assert later.evidence["most_likely"] == "maize"


def test_no_mismatch_is_confirmed_in_winter() -> None:
    finding = crop_mismatch("wheat", posterior(0.004, 0.95, 10), None, SETTINGS)
    for day, colour in ((60, "yellow"), (119, "yellow"), (120, "red")):  # 30 April, 1 May
        finding = crop_mismatch("wheat", posterior(0.004, 0.95, day), finding, SETTINGS)
        assert finding.colour == colour
    late = crop_mismatch("wheat", posterior(0.004, 0.95, 270), None, SETTINGS)
    assert crop_mismatch("wheat", posterior(0.004, 0.95, 304), late, SETTINGS).colour == "yellow"  # 1 November
    assert crop_mismatch("wheat", posterior(0.004, 0.95, 303), late, SETTINGS).colour == "red"


def test_one_wet_week_neither_confirms_nor_closes_a_mismatch() -> None:
    first = crop_mismatch("wheat", posterior(0.004, 0.95, 150), None, SETTINGS)
    less_sure = crop_mismatch("wheat", posterior(0.08, 0.6, 175), first, SETTINGS)
    assert (less_sure.colour, less_sure.departed_on) == ("yellow", START + timedelta(days=150))
    red = crop_mismatch("wheat", posterior(0.004, 0.95, 180), less_sure, SETTINGS)
    assert red.colour == "red"
    assert crop_mismatch("wheat", posterior(0.08, 0.6, 185), red, SETTINGS).colour == "red"


def test_late_in_the_season_a_mismatch_needs_less_against_the_declared_crop_where_another_is_sure() -> None:
    for day, declared, other, colour in (
        (180, 0.008, 0.95, "green"),  # 30 June
        (181, 0.008, 0.95, "yellow"),
        (181, 0.008, 0.89, "green"),
        (181, 0.011, 0.95, "green"),
        (303, 0.008, 0.95, "yellow"),
        (304, 0.008, 0.95, "green"),  # 1 November
    ):
        assert crop_mismatch("wheat", posterior(declared, other, day), None, SETTINGS).colour == colour, (day, declared)
    first = crop_mismatch("wheat", posterior(0.008, 0.95, 181), None, SETTINGS)
    assert crop_mismatch("wheat", posterior(0.008, 0.95, 211), first, SETTINGS).colour == "red"


def test_mismatch_that_does_not_hold_turns_green_and_forgets_its_date() -> None:
    first = crop_mismatch("wheat", posterior(0.004, 0.95, 150), None, SETTINGS)
    green = crop_mismatch("wheat", posterior(0.40, 0.55, 165), first, SETTINGS)
    assert (green.colour, green.departed_on) == ("green", None)
    again = crop_mismatch("wheat", posterior(0.004, 0.95, 170), green, SETTINGS)
    assert (again.colour, again.departed_on) == ("yellow", START + timedelta(days=170))


@pytest.mark.parametrize(
    ("declared", "belief", "outcome"),
    [
        (None, posterior(0.0, 1.0), "NOT_EXECUTED"),
        ("wheat", None, "NOT_EXECUTED"),
        ("vineyard", posterior(0.0, 1.0), "NOT_EXECUTED"),
        ("wheat", posterior(0.0, 1.0, n=19), "NOT_VALID"),
    ],
)
def test_mismatch_without_evidence_has_no_colour(declared: str | None, belief: Posteriors | None, outcome: str) -> None:
    finding = crop_mismatch(declared, belief, None, SETTINGS)
    assert (finding.outcome, finding.colour) == (outcome, None)
    assert finding.evidence["reason"]


def test_bare_parcel_departs_only_after_the_neighbours_and_the_grace() -> None:
    bare = [(day, 0.2) for day in range(60, 141, 10)]
    early = no_emergence(views(*bare[:5]), neighbours(up_on=100), SETTINGS)  # until day 100, due on 114
    assert early.outcome == "NOT_VALID"
    first = no_emergence(views(*bare[:7]), neighbours(up_on=100), SETTINGS)  # until day 120
    assert (first.colour, first.departed_on) == ("yellow", START + timedelta(days=120))
    later = no_emergence(views(*bare), neighbours(up_on=100), SETTINGS)
    assert later.colour == "red"
    assert later.evidence["emergence_due"] == "2025-04-25"


def test_a_catch_crop_before_the_seedbed_is_no_emergence() -> None:
    found = no_emergence(views((40, 0.7), (60, 0.6), (120, 0.2), (150, 0.2)), neighbours(up_on=100), SETTINGS)
    assert found.colour == "red"


def test_emerged_parcel_is_green_whatever_comes_after() -> None:
    found = no_emergence(views((80, 0.2), (105, 0.6), (130, 0.2), (150, 0.2)), neighbours(), SETTINGS)
    assert found.colour == "green"


def test_weeds_far_below_the_neighbours_are_no_emergence() -> None:
    weeds = views((80, 0.2), (120, 0.4), (140, 0.42))
    assert no_emergence(weeds, neighbours(), SETTINGS).colour == "red"


def test_weeds_that_never_close_as_the_neighbours_do_are_no_emergence() -> None:
    weeds = [(80, 0.2), (115, 0.5), (125, 0.5), (134, 0.52), (145, 0.5)]
    assert no_emergence(views(*weeds[:4]), neighbours(), SETTINGS).colour == "green"  # 20 days, both counted
    found = no_emergence(views(*weeds), neighbours(), SETTINGS)
    assert (found.colour, found.departed_on) == ("red", START + timedelta(days=115))
    assert found.evidence["thresholds"]["below_closed"] == SETTINGS.below_closed
    recovers = no_emergence(views(*weeds, (150, 0.6)), neighbours(), SETTINGS)
    assert (recovers.colour, "recovering" in recovers.evidence) == ("yellow", True)
    assert no_emergence(views(*weeds, (150, 0.6), (155, 0.6)), neighbours(), SETTINGS).colour == "green"


def test_what_closed_once_has_emerged_and_a_thin_crop_all_around_is_no_measure() -> None:
    lost = views((80, 0.2), (115, 0.75), (118, 0.8), (125, 0.5), (135, 0.52), (145, 0.5), (155, 0.5))
    assert no_emergence(lost, neighbours(), SETTINGS).colour == "green"
    thin = neighbours()
    thin.median_ndvi[:] = 0.7
    assert no_emergence(views((80, 0.2), (115, 0.4), (130, 0.4), (145, 0.4)), thin, SETTINGS).colour == "green"


def test_a_catch_crop_after_the_harvest_is_not_awaited() -> None:
    found = no_emergence(views((120, 0.2)), neighbours(up_on=100, harvest_from=START), SETTINGS)
    assert found.outcome == "NOT_EXECUTED"


STANDING_THEN_BARE = views((100, 0.7), (110, 0.8), (120, 0.8), (130, 0.2), (145, 0.18))


def test_loss_is_early_only_while_the_neighbours_stand() -> None:
    early = early_loss(STANDING_THEN_BARE, neighbours(down_on=200), False, SETTINGS)
    assert (early.colour, early.departed_on) == ("red", START + timedelta(days=130))
    assert early_loss(STANDING_THEN_BARE, neighbours(down_on=125), False, SETTINGS).colour == "green"


def test_the_first_field_of_the_harvest_is_not_early() -> None:
    found = early_loss(STANDING_THEN_BARE, neighbours(down_on=138), False, SETTINGS)
    assert found.colour == "green"


def test_a_loss_at_last_years_harvest_is_harvest() -> None:
    near = neighbours(harvest_from=START + timedelta(days=135))
    assert early_loss(STANDING_THEN_BARE, near, False, SETTINGS).colour == "green"
    far = neighbours(harvest_from=START + timedelta(days=180))
    assert early_loss(STANDING_THEN_BARE, far, False, SETTINGS).colour == "red"


@pytest.mark.parametrize("harvest_from", [START + timedelta(days=175), None])
def test_near_the_harvest_a_loss_waits_until_the_neighbours_have_stood_as_long_as_a_harvest_takes(
    harvest_from: date | None,
) -> None:
    standing, harvested = (neighbours(down_on=one, harvest_from=harvest_from) for one in (200, 155))
    waits = early_loss(STANDING_THEN_BARE, standing, False, SETTINGS)
    assert (waits.outcome, waits.colour) == ("NOT_VALID", None)
    assert "neighbours still stand on 2025-06-05" in waits.evidence["reason"]
    bare = views((100, 0.7), (110, 0.8), (120, 0.8), (130, 0.2), (145, 0.18), (160, 0.18))
    lost = early_loss(bare, standing, False, SETTINGS)
    assert (lost.colour, lost.departed_on) == ("red", START + timedelta(days=130))
    assert early_loss(bare, harvested, False, SETTINGS).colour == "green"


def test_a_field_that_ripens_first_is_not_lost() -> None:
    ripe = neighbours()
    ripe.median_ndvi[135:] = 0.4
    assert early_loss(STANDING_THEN_BARE, ripe, False, SETTINGS).colour == "green"


def test_a_cloud_dip_is_not_a_loss() -> None:
    dip = views((100, 0.7), (110, 0.8), (120, 0.1), (130, 0.8))
    assert early_loss(dip, neighbours(), False, SETTINGS).colour == "green"


def test_one_low_view_is_no_loss_yet_and_two_are_yellow() -> None:
    one = views((100, 0.7), (110, 0.8), (120, 0.1))
    assert early_loss(one, neighbours(), False, SETTINGS).colour == "green"
    two = views((100, 0.7), (110, 0.8), (120, 0.1), (125, 0.1))
    assert early_loss(two, neighbours(), False, SETTINGS).colour == "yellow"


def test_a_grassland_sown_anew_is_compared_with_old_ones_once_it_can_stand() -> None:
    standing = Neighbours(20, START, np.ones(365, np.float32), np.full(365, 0.8, np.float32))
    winter = views((40, 0.7), (60, 0.7), (80, 0.7), (95, 0.2), (110, 0.15))  # until April
    assert early_loss(winter, standing, True, SETTINGS).outcome == "NOT_EXECUTED"
    assert early_loss(winter, standing, False, SETTINGS).colour == "red"
    sown = [(95, 0.2), (110, 0.15), (125, 0.25), (140, 0.6), (150, 0.7)]
    assert early_loss(views((80, 0.7), *sown), standing, True, SETTINGS).colour == "green"
    ploughed = early_loss(views((80, 0.7), *sown, (170, 0.2), (185, 0.2)), standing, True, SETTINGS)
    assert (ploughed.colour, ploughed.departed_on) == ("red", START + timedelta(days=170))
    assert early_loss(STANDING_THEN_BARE, standing, False, SETTINGS).colour == "red"
    assert early_loss(STANDING_THEN_BARE, neighbours(), True, SETTINGS).colour == "red"  # the neighbours were sown too


def test_what_a_ley_was_before_its_season_grows_is_not_its_loss() -> None:
    standing = Neighbours(20, date(2024, 9, 1), np.ones(485, np.float32), np.full(485, 0.8, np.float32))
    autumn = views((-110, 0.7), (-100, 0.7), (-80, 0.2), (-70, 0.15))  # September to October of the year before
    assert early_loss(autumn, standing, True, SETTINGS).outcome == "NOT_EXECUTED"
    assert early_loss(autumn, standing, False, SETTINGS).colour == "red"


def test_unseen_neighbours_decide_nothing() -> None:
    near = neighbours()
    near.standing_share[125:145] = np.nan
    assert early_loss(STANDING_THEN_BARE, near, False, SETTINGS).outcome == "NOT_VALID"


@pytest.mark.parametrize("rule", [no_emergence, early_loss])
def test_too_few_neighbours_is_not_executed(rule: object) -> None:
    assert callable(rule)
    few = neighbours(n=3)
    extra = (False,) if rule is early_loss else ()
    found: Finding = rule(views((100, 0.1)), few, *extra, SETTINGS)
    assert (found.outcome, found.colour) == ("NOT_EXECUTED", None)


def test_neighbours_are_judged_by_the_greener_of_two_recent_views() -> None:
    settings = RuleSettings(neighbours_min=2)
    parcel = np.repeat([1, 2], 4)
    days = np.tile([np.datetime64(START) + d for d in (10, 20, 30, 40)], 2).astype("M8[D]")
    ndvi = np.array([0.6, 0.7, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4], np.float32)
    near = neighbours_of(parcel, days, ndvi, START, START + timedelta(days=99), settings)
    share = near.standing_share
    assert np.isnan(share[9])
    assert share[[10, 29, 30, 39, 40, 70]].tolist() == [
        0.5,
        0.5,
        1.0,
        1.0,
        0.5,
        0.5,
    ]  # one cloud is forgiven, two are not
    assert np.isnan(share[71])  # nobody was seen for a month


def test_harvest_begins_at_the_end_of_the_longest_standing() -> None:
    share = np.zeros(365, np.float32)
    share[20:50] = 1.0
    share[100:200] = 1.0
    share[150:155] = np.nan
    assert harvest_day(share, SETTINGS) == 200
    share[100:] = 1.0
    assert harvest_day(share, SETTINGS) is None


def test_the_end_of_a_cover_crop_is_not_the_harvest() -> None:
    share = np.zeros(365, np.float32)
    share[0:110] = share[150:240] = 1.0
    assert harvest_day(share, SETTINGS) == 110
    assert harvest_day(share, SETTINGS, earliest=144) == 240


def test_a_field_lost_in_spring_is_not_the_harvest() -> None:
    share = np.zeros(365, np.float32)
    share[100:130] = 1.0
    share[130:200] = 0.86  # two of fourteen are gone
    share[200:210] = 0.6
    assert harvest_day(share, SETTINGS) == 200


def test_thresholds_in_evidence_are_named_as_an_agency_sets_them() -> None:
    settings = RuleSettings(mismatch_declared_below=0.02, confirm_days=11)
    found = [
        crop_mismatch("wheat", posterior(0.004, 0.95), None, settings),
        no_emergence(views((120, 0.2), (140, 0.2)), neighbours(), settings),
        early_loss(STANDING_THEN_BARE, neighbours(), False, settings),
    ]
    for finding in found:
        thresholds = finding.evidence["thresholds"]
        assert thresholds
        assert thresholds == {name: getattr(settings, name) for name in thresholds}
    assert found[0].evidence["thresholds"]["mismatch_declared_below"] == 0.02


def test_what_is_not_the_declared_crop_is_not_compared_with_its_neighbours() -> None:
    stands, bare = CropStands.of([neighbours()], SETTINGS), views((50, 0.2), (120, 0.2), (140, 0.2))
    for is_other, outcome in ((True, "NOT_EXECUTED"), (False, "OK")):
        other = np.array([is_other])
        found = [
            rules.no_emergence(bare, stands, GROUP, other, SETTINGS).finding(0),
            rules.early_loss(STANDING_THEN_BARE, stands, GROUP, other, np.array([False]), SETTINGS).finding(0),
        ]
        assert [one.outcome for one in found] == [outcome] * 2
        reason = "what grows is probably not the declared crop: judged by crop_mismatch"
        assert [why_over(one) for one in found] == [reason if is_other else None] * 2


def test_departures_of_a_parcel_that_is_doubted_are_not_executed() -> None:
    stands, bare, no = (
        CropStands.of([neighbours()], SETTINGS),
        views((50, 0.2), (120, 0.2), (140, 0.2)),
        np.array([False]),
    )
    both = [
        (rules.no_emergence(bare, stands, GROUP, no, SETTINGS), "red"),
        (rules.early_loss(STANDING_THEN_BARE, stands, GROUP, no, no, SETTINGS), "red"),
        (rules.early_loss(views((120, 0.7), (130, 0.7), (140, 0.7)), stands, GROUP, no, no, SETTINGS), "green"),
    ]
    for decisions, colour in both:
        assert rules.unless_doubted(decisions, no, SETTINGS).finding(0) == decisions.finding(0)
        finding = rules.unless_doubted(decisions, ~no, SETTINGS).finding(0)
        if colour == "green":
            assert finding == decisions.finding(0), "it is as its neighbours, whatever it is"
            continue
        assert (finding.outcome, finding.departed_on) == ("NOT_EXECUTED", None)
        reason = (
            "it departs from its neighbours, but may be another crop, which is left to crop_mismatch: the classifier gives the "
            "declared one less than 2% and another more than 20%"
        )
        assert why_over(finding) == reason == why(decisions.rule, finding.evidence)


@pytest.mark.parametrize(
    ("declared", "belief", "is_doubted"),
    [
        ("wheat", posterior(0.019, 0.95), True),
        ("wheat", posterior(0.021, 0.95), False),
        ("wheat", posterior(0.019, 0.95, n=19), False),
        ("vineyard", posterior(0.019, 0.95), False),
        (None, posterior(0.019, 0.95), False),
    ],
)
def test_a_parcel_is_doubted_where_its_declared_crop_is_unlikely(
    declared: str | None, belief: Posteriors, is_doubted: bool
) -> None:
    assert rules.doubted([declared], belief, SETTINGS).tolist() == [is_doubted]
    sure_of_another = RuleSettings(doubt_other_above=0.96)
    assert not rules.doubted([declared], belief, sure_of_another).any()
