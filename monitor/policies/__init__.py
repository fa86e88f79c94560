"""Policies: what a scheme asks of which parcels, read from a file, tried on a stored season, put in force."""
