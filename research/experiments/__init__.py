"""Training runs and the published experiments: labelled parcels of any source in, run folders and tables out."""
