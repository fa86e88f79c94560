"""Kinds of dated events that a marker finds, and how near a found one has to be."""

from typing import Final

from monitor.markers.grazing import grazing
from monitor.markers.mowing import mowing

TOLERANCE_DAYS: Final = 15
"""Days between a true and a found event that are still the same one: half of the 30 that Sen4CAP L4B leaves between two cuts."""
MARKERS: Final = {"mowing": mowing, "grazing": grazing}
"""By the kind of event that a marker finds."""
