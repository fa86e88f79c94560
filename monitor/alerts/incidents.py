"""When many alerts are one regional incident: hail, flood or drought, and not as many holders."""

from typing import Final

from db.incidents import Closeness

INCIDENT: Final = Closeness(
    rules=("early_loss", "no_emergence", "flooding"),  # losses; another crop than declared is never the weather's
    distance_m=1000.0,  # chosen because about a hundred fields lie that near, and a swath of hail is wider
    n_near=5,  # alerts within that distance, its own counted: one in a hundred by chance gives one or two
    n_alerts=10,  # chosen because fewer are inspected one by one as quickly
    share=0.2,  # of the parcels among them; where one in fifty departs anywhere, chance does not reach it
)
"""Alerts of one rule and week that lie close together, and are a good part of all parcels there."""
