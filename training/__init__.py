"""From labelled parcels to a registered model: sources, configuration, cross-validation, run folders."""
