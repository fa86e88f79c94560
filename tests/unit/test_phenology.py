"""Season dates of curves whose dates are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.phenology import CROP, GRASS, Phenology, PhenologyConfig, PhenologyReason, phenology

DAYS = np.arange(0, 300)
SD = np.full(300, 0.03)
SEEN = DAYS % 15 == 0


def double_logistic(up: float, down: float, low: float = 0.15, high: float = 0.85) -> NDArray[np.float64]:
    """NDVI that rises by half on day `up` and falls by half on day `down`, rates 8 and 6 days."""
    rise, fall = 1 / (1 + np.exp(-(DAYS - up) / 8)), 1 / (1 + np.exp(-(DAYS - down) / 6))
    return np.asarray(low + (high - low) * (rise - fall))


def dates(result: Phenology) -> tuple[int, int, int]:
    assert result.reason is None
    found = [date.day for date in (result.sos, result.pos, result.eos) if date is not None]
    sos, pos, eos = found
    return sos, pos, eos


@pytest.mark.parametrize(("up", "down"), [(100, 200), (60, 180), (130, 240)])
def test_dates_of_a_double_logistic(up: int, down: int) -> None:
    sos, pos, eos = dates(phenology(DAYS, double_logistic(up, down), SD, SEEN))
    # A logistic of rate r passes its quarter and three quarters r ln 3 days from its middle.
    assert abs(sos - (up - 8 * np.log(3))) <= 1.5
    assert abs(eos - (down + 6 * np.log(3))) <= 1.5
    assert up < pos < down


def test_grass_ends_at_a_quarter_down() -> None:
    eos = dates(phenology(DAYS, double_logistic(100, 200), SD, SEEN, GRASS))[2]
    assert abs(eos - (200 - 6 * np.log(3))) <= 1.5


def test_date_is_given_with_the_days_it_may_be() -> None:
    curve = double_logistic(100, 200)
    sharp = phenology(DAYS, curve, np.full(300, 0.001), SEEN)
    vague = phenology(DAYS, curve, np.full(300, 0.08), SEEN)
    for narrow, wide in ((sharp.sos, vague.sos), (sharp.eos, vague.eos)):
        assert narrow is not None
        assert wide is not None
        assert narrow.day == wide.day
        assert narrow.latest - narrow.earliest <= 2
        assert wide.earliest < narrow.earliest <= narrow.day <= narrow.latest < wide.latest


def test_a_crop_green_from_the_start_has_no_start() -> None:
    result = phenology(DAYS, double_logistic(-60, 150), SD, SEEN)
    assert result.sos is None
    assert result.eos is not None


def test_a_running_season_has_no_end_and_no_peak_yet() -> None:
    until = slice(0, 120)
    result = phenology(DAYS[until], double_logistic(100, 200)[until], SD[until], SEEN[until], is_complete=False)
    assert result.sos is not None
    assert result.pos is None
    assert result.eos is None


def test_invalid_days_are_left_out() -> None:
    curve = double_logistic(100, 200)
    whole = dates(phenology(DAYS, curve, SD, SEEN))
    curve[:20] = np.nan
    assert dates(phenology(DAYS, curve, SD, SEEN)) == whole


@pytest.mark.parametrize(
    ("curve", "sd", "seen", "reason"),
    [
        (np.full(300, np.nan), SD, SEEN, PhenologyReason.NO_CURVE),
        (double_logistic(100, 200), SD, DAYS == 100, PhenologyReason.FEW_VIEWS),
        (double_logistic(100, 200, 0.2, 0.3), SD, SEEN, PhenologyReason.SMALL_AMPLITUDE),
        (double_logistic(100, 200, 0.2, 0.5), SD * 10, SEEN, PhenologyReason.UNCERTAIN),
    ],
)
def test_no_course_is_not_valid_with_its_reason(
    curve: NDArray[np.float64], sd: NDArray[np.float64], seen: NDArray[np.bool_], reason: PhenologyReason
) -> None:
    result = phenology(DAYS, curve, sd, seen)
    assert result.reason is reason
    assert result.sos is result.pos is result.eos is None


def test_thresholds_are_the_callers() -> None:
    curve = double_logistic(100, 200)
    half = PhenologyConfig(share_up=0.5, share_down=0.5)
    assert abs(dates(phenology(DAYS, curve, SD, SEEN, half))[0] - 100) <= 1
    assert dates(phenology(DAYS, curve, SD, SEEN, CROP))[0] < 95
