"""Filling of gaps in NDVI: every method behind one small interface, scored on the same hidden clear views."""
