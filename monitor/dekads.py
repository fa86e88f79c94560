"""Dekads: the thirds of a month, by which agencies report (days 1 to 10, 11 to 20, 21 to its last)."""

from datetime import date

import numpy as np

from monitor.alerts.neighbours import Days, Ints


def dekads_of(days: Days) -> Days:
    """Return the first days of the dekads in which days lie, NaT of NaT."""
    month = days.astype("M8[M]")
    third = np.minimum(
        (days - month.astype("M8[D]")).astype(np.int64) // 10, 2
    )  # NaT is one number, and NaT added to any is NaT
    return np.asarray(month.astype("M8[D]") + (10 * third).astype("m8[D]"))


def dekad_numbers(days: Days) -> Ints:
    """Return how many dekads lie between January 1970 and those of days."""
    month = days.astype("M8[M]")
    third = np.minimum((days - month.astype("M8[D]")).astype(np.int64) // 10, 2)
    return np.asarray(3 * month.astype(np.int64) + third)


def dekad_number(day: date) -> int:
    """Return how many dekads lie between January 1970 and that of a day."""
    return int(dekad_numbers(np.array([day], "M8[D]"))[0])


def dekads_begin(numbers: Ints) -> Days:
    """Return the first days of dekads by their numbers."""
    month = (numbers // 3).astype("M8[M]").astype("M8[D]")
    return np.asarray(month + (10 * (numbers % 3)).astype("m8[D]"))
