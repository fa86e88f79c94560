"""When many alerts are one regional incident: hail, flood or drought, and not as many holders."""

from datetime import datetime
from typing import Final

from db.connect import Connection
from db.incidents import Closeness, IncidentRow, incidents

INCIDENT: Final = Closeness(
    rules=("early_loss", "no_emergence", "flooding"),  # losses; another crop than declared is never the weather's
    distance_m=1000.0,  # chosen because about a hundred fields lie that near, and a swath of hail is wider
    n_near=5,  # alerts within that distance, its own counted: one in a hundred by chance gives one or two
    n_alerts=10,  # chosen because fewer are inspected one by one as quickly
    share=0.2,  # of the parcels among them; where one in fifty departs anywhere, chance does not reach it
)
"""Alerts of one rule and week that lie close together, and are a good part of all parcels there."""


def incident_of(connection: Connection, alert_key: int, as_known_at: datetime | None = None) -> IncidentRow | None:
    """Return the incident that an alert belongs to, as known at a time (None: now)."""
    found = incidents(connection, INCIDENT, as_known_at=as_known_at, alert_keys=[alert_key])
    return next((one for one in found if alert_key in one.alert_keys), None)
