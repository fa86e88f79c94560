"""Exports: the parcels of a season as files for other programs."""
