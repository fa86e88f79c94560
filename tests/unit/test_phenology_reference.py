"""Measures beside those of an independent implementation, on 24 stored series.

The outputs are of the phenology of fusets 2.0.1 (Apache-2.0), itself after TIMESAT 3.3, on noiseless double logistics: `get_pos`,
`get_bse`, `get_aos`, then `get_sos`, `get_eos` by seasonal amplitude (factor 0.25, two sides), `get_los`, `get_lios`, `get_sios`.
Days there count from 1. `timesat` itself may be used for research only.

Why they differ: our base is the mean of a trough, theirs its lowest day, so that ours is up to 0.03 NDVI higher, the amplitude less (our
peak is a mean, too), the level of SOS and EOS passed up to 4 days nearer the peak, and the season shorter by both.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from models.phenology import CROP, phenologies
from models.season_metrics import METRICS, season_metrics

STORED: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "reference" / "phenology_fusets.json").read_text(encoding="utf-8")
)
DAYS: Final = np.arange(300)
BOUNDS: Final = {  # of ours less theirs
    "sos": (0, 4),
    "pos": (0, 0),
    "eos": (-4, 0.5),
    "length": (-4, 0),
    "amplitude": (-0.03, 0),
    "base": (0, 0.03),
    "large_integral": (-2, 0),
    "small_integral": (-6, 0),
}


def test_measures_are_those_of_fusets_within_what_the_definitions_differ_by() -> None:
    up, down, low, high, up_rate, down_rate, apart = (of[:, None] for of in np.array(STORED["series"]).T)
    rise, fall = 1 / (1 + np.exp(-(DAYS - up) / up_rate)), 1 / (1 + np.exp(-(DAYS - down) / down_rate))
    curve = low + (high - low) * rise - (high - low - apart) * fall
    n, sd = len(curve), np.full(curve.shape, 0.01)
    found = phenologies(DAYS, curve, sd, sd > 0, [CROP] * n)
    ours = season_metrics(curve, sd, found, np.full(n, CROP.share_up), np.full(n, CROP.share_down))
    for name, (least, most) in BOUNDS.items():
        theirs = np.array(STORED[name]) - (name in ("sos", "pos", "eos"))
        differences = ours.value[:, METRICS.index(name)] - theirs
        assert differences.min() >= least - 1e-9, name
        assert differences.max() <= most + 1e-9, name
    # The dates by extremes are of the same definition: a day's rounding apart, and each side's own low.
    for dates, name in ((found.sos, "sos"), (found.eos, "eos")):
        assert dates.day == pytest.approx(np.array(STORED[name]) - 1, abs=2)
