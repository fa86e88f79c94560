"""The rules on many parcels at once find of each what is found of it alone, view by view."""

from datetime import date, timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerts import rules
from monitor.alerts.neighbours import VEGETATION_NDVI, CropStands, Neighbours
from monitor.alerts.rules import LOSS_NDVI, VERDICTS, ClearViews, Decisions, Found, Posteriors
from monitor.alerts.settings import RuleSettings

START = date(2025, 1, 1)
SETTINGS = RuleSettings(neighbours_min=5)
CLASSES = ("wheat", "maize", "grass")
Views = list[tuple[int, np.float32]]
Verdict = tuple[str, str | None, date | None]

NOT_EXECUTED: Verdict = ("NOT_EXECUTED", None, None)
NOT_VALID: Verdict = ("NOT_VALID", None, None)
GREEN: Verdict = ("OK", "green", None)


def day_of(nr: int) -> date:
    return START + timedelta(days=nr)


def departure(first: int, last: int) -> Verdict:
    return "OK", "red" if last - first >= SETTINGS.confirm_days else "yellow", day_of(first)


def no_emergence(views: Views, near: Neighbours | None) -> Verdict:
    if near is None or near.n < SETTINGS.neighbours_min:
        return NOT_EXECUTED
    share = near.standing_share
    bare = [day for day, part in enumerate(share) if part <= np.float32(SETTINGS.seedbed_share)]
    stands = [d for d, part in enumerate(share) if part >= np.float32(SETTINGS.standing_share) and bare and d > bare[0]]
    if not stands:
        return NOT_EXECUTED
    sown = max(day for day in bare if day < stands[0])
    due = stands[0] + SETTINGS.emergence_grace_days
    harvest = (near.harvest_from - START).days if near.harvest_from else 10_000
    if due >= harvest:
        return NOT_EXECUTED
    awaited, up = list[int](), list[int]()
    recovers: Verdict | None = None
    for day, ndvi in views:
        if sown <= day < harvest:
            median = near.median_ndvi[min(day, len(share) - 1)] - np.float32(SETTINGS.below_neighbours)
            if ndvi > (max(VEGETATION_NDVI, median) if day >= due and not np.isnan(median) else VEGETATION_NDVI):
                up.append(day)
                if len(up) > 1 or not (awaited or recovers):  # the second in a row, or nothing departed before
                    return of_weeds([one for one in views if due <= one[0] < harvest], near) or GREEN
                recovers, awaited = ("OK", "yellow", day_of(awaited[0])), []
            elif day >= due:
                awaited, up = [*awaited, day], []
    return departure(awaited[0], awaited[-1]) if awaited else recovers or NOT_VALID


def of_weeds(views: Views, near: Neighbours) -> Verdict | None:
    """What never closed, by the last three views or more that lie far below a closed canopy; None where nothing does."""
    runs, n_near = [list[int]()], 0
    for day, ndvi in views:
        at = min(day, len(near.standing_share) - 1)
        median, share = near.median_ndvi[at], near.standing_share[at]
        if not (median >= SETTINGS.closed_ndvi and share >= np.float32(SETTINGS.standing_share)):
            continue
        if ndvi < median - np.float32(SETTINGS.below_closed):
            n_near = 0
            runs[-1].append(day)
        else:
            n_near += 1
            runs.append([])
        if n_near == 2:
            return None
    thin = [run for run in runs if len(run) > 2]
    if not thin or thin[-1][-1] - thin[-1][0] < SETTINGS.closed_days:
        return None
    return "OK", "red" if runs[-1] is thin[-1] else "yellow", day_of(thin[-1][0])


def early_loss(views: Views, near: Neighbours | None, is_new_stand: bool) -> Verdict:
    if near is None or near.n < SETTINGS.neighbours_min:
        return NOT_EXECUTED
    share = near.standing_share
    if is_new_stand and not any(part <= np.float32(SETTINGS.seedbed_share) for part in share):
        views = [one for one in views if f"{day_of(one[0]):%m-%d}" >= SETTINGS.mismatch_confirm_from]
        if not views:
            return NOT_EXECUTED
    if len(views) < 3:
        return NOT_VALID
    runs, n_up, n_green = (
        [list[int]()],
        0,
        0,
    )  # bare views without vegetation between; those before two views of it are over
    for day, ndvi in views:
        if ndvi > VEGETATION_NDVI:
            n_up += 1
            runs = [[]] if n_up > 1 else [*runs, []]
        elif ndvi < LOSS_NDVI and n_green > 1:
            n_up = 0
            runs[-1].append(day)
        n_green += bool(ndvi >= SETTINGS.loss_from_ndvi)
    lost = [run for run in runs if len(run) > 1]
    if not lost:
        return GREEN
    bare, is_contradicted = lost[-1], runs[-1] is not lost[-1]
    margin = timedelta(days=SETTINGS.harvest_margin_days)
    if near.harvest_from and day_of(bare[0]) >= near.harvest_from - margin:
        return GREEN
    is_harvested = bool(near.harvest_from) or any(part <= np.float32(SETTINGS.seedbed_share) for part in share)
    near_to = timedelta(days=SETTINGS.harvest_near_days)
    is_near = is_harvested and not (near.harvest_from and day_of(bare[0]) < near.harvest_from - near_to)
    watched = bare[0] + (SETTINGS.harvest_watch_days if is_near else SETTINGS.loss_watch_days)
    places = [min(day, len(share) - 1) for day in (bare[0], watched)]
    around, medians = share[places], near.median_ndvi[places]
    if np.isnan(around).any():
        return NOT_VALID
    if min(around) < np.float32(SETTINGS.standing_share) or min(medians) < SETTINGS.loss_neighbours_ndvi:
        return GREEN
    if is_near and bare[-1] < watched:
        return NOT_VALID
    return ("OK", "yellow", day_of(bare[0])) if is_contradicted else departure(bare[0], bare[-1])


def crop_mismatch(declared: str | None, seen: int, day: int, probabilities: list[float], before: Verdict) -> Verdict:
    if declared not in CLASSES:
        return NOT_EXECUTED
    if seen < SETTINGS.mismatch_min_observations:
        return NOT_VALID
    of_declared, best = probabilities[CLASSES.index(declared)], int(np.argmax(probabilities))
    is_sure = of_declared < SETTINGS.mismatch_declared_below and probabilities[best] > SETTINGS.mismatch_other_above
    is_late = SETTINGS.mismatch_late_from <= f"{day_of(day):%m-%d}" <= SETTINGS.mismatch_confirm_until
    is_sure |= (
        is_late
        and of_declared < SETTINGS.mismatch_late_declared_below
        and probabilities[best] > SETTINGS.mismatch_late_other_above
    )
    is_held = before[2] and CLASSES[best] != declared and of_declared < SETTINGS.mismatch_closed_above
    if not (is_sure or is_held):
        return GREEN
    first = before[2] or day_of(day)
    grows = SETTINGS.mismatch_confirm_from <= f"{day_of(day):%m-%d}" <= SETTINGS.mismatch_confirm_until
    confirms = is_sure and grows and (day_of(day) - first).days >= SETTINGS.mismatch_confirm_days
    return "OK", "red" if before[1] == "red" or confirms else "yellow", first


def verdict(decisions: Decisions, parcel: int) -> Verdict:
    finding = decisions.finding(parcel)
    assert VERDICTS[decisions.found.verdict[parcel]] == (finding.outcome, finding.colour)
    return finding.outcome, finding.colour, finding.departed_on


def some_neighbours(random: np.random.Generator) -> Neighbours:
    n_days = int(random.integers(1, 366))
    day, up, down = np.arange(n_days), random.integers(-60, 200), random.integers(100, 420)
    stands = ((day >= up) & (day < down)).astype(np.float32)
    share = np.clip(stands * random.choice([1, 0.95, 0.88]) + random.choice([0, 0.3]) * random.random(n_days), 0, 1)
    share[random.random(n_days) < random.choice([0, 0.1])] = np.nan
    median = np.where(stands > 0, random.choice([0.5, 0.8]), 0.2).astype(np.float32)
    median[random.random(n_days) < 0.05] = np.nan
    harvest = day_of(int(random.integers(0, 365))) if random.random() < 0.5 else None
    return Neighbours(int(random.integers(1, 20)), START, share.astype(np.float32), median, harvest)


def some_views(random: np.random.Generator, near: Neighbours | None) -> Views:
    """Views of a parcel as far as its neighbours are known."""
    last = 0 if near is None else len(near.standing_share)
    days = np.sort(random.choice(365, random.integers(0, 40), replace=False))
    up, down = random.integers(0, 200), random.integers(80, 365)
    ndvi = np.where((days >= up) & (days < down), 0.7, 0.2) + random.normal(size=len(days)) * random.choice([0.02, 0.2])
    return [(int(day), np.float32(value)) for day, value in zip(days, ndvi.round(2), strict=True) if day < last]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_views_of_many_parcels_are_decided_as_of_each_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [some_neighbours(random) for _ in range(6)]
    group = random.integers(-1, 6, 40)
    is_other_crop, is_new_stand = random.random((2, 40)) < 0.3
    near = [None if nr < 0 else groups[nr] for nr in group]
    views = [some_views(random, one) for one in near]
    flat = [(parcel, day, ndvi) for parcel, of_parcel in enumerate(views) for day, ndvi in of_parcel]
    parcel, day, ndvi = zip(*flat, strict=True) if flat else ((), (), ())
    together = ClearViews(
        np.array(parcel, np.int64), np.datetime64(START) + np.array(day, "m8[D]"), np.array(ndvi, np.float32), 40
    )
    stands = CropStands.of(groups, SETTINGS)
    emergence = rules.no_emergence(together, stands, group, is_other_crop, SETTINGS)
    loss = rules.early_loss(together, stands, group, is_other_crop, is_new_stand, SETTINGS)
    for nr in range(40):
        alone = no_emergence(views[nr], near[nr]), early_loss(views[nr], near[nr], bool(is_new_stand[nr]))
        expected = (NOT_EXECUTED, NOT_EXECUTED) if is_other_crop[nr] else alone
        assert (verdict(emergence, nr), verdict(loss, nr)) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_courses_of_many_parcels_are_decided_as_of_each_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    declared = [[None, "vineyard", *CLASSES][nr] for nr in random.integers(0, 5, 40)]
    found, alone = Found.nothing(40), [NOT_EXECUTED] * 40
    day = 0
    for seen in range(18, 40):
        day += int(random.integers(1, 12))
        probabilities = random.dirichlet([0.05, 0.05, 0.02], 40).astype(np.float32)
        observed_to = np.full(40, np.datetime64(day_of(day)))
        posterior = Posteriors(CLASSES, probabilities, np.full(40, seen), observed_to)
        decisions = rules.crop_mismatch(declared, posterior, found, SETTINGS)
        found = decisions.found
        for nr in range(40):
            alone[nr] = crop_mismatch(declared[nr], seen, day, probabilities[nr].tolist(), alone[nr])
            assert verdict(decisions, nr) == alone[nr]
