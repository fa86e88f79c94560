"""What a person at a terminal gives and is shown: errors, tables, progress, times, settings' variables, signals."""
