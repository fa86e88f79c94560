"""Declared parcels: agencies' files read, outlines made measurable, collections imported."""
