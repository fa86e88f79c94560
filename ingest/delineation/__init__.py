"""Fields where nobody drew them: scenes of a season in, parcels out."""
