"""Dekads: the thirds of a month, by which agencies report (days 1 to 10, 11 to 20, 21 to its last)."""

import numpy as np

from monitor.alerts.neighbours import Days


def dekads_of(days: Days) -> Days:
    """Return the first days of the dekads in which days lie, NaT of NaT."""
    month = days.astype("M8[M]")
    third = np.minimum(
        (days - month.astype("M8[D]")).astype(np.int64) // 10, 2
    )  # NaT is one number, and NaT added to any is NaT
    return np.asarray(month.astype("M8[D]") + (10 * third).astype("m8[D]"))
