"""Markers: pure functions from the observations of P parcels to what happened on them (`form` has the shape of their answers)."""
