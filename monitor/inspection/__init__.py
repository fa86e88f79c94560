"""Inspection from the command line: alerts, histories, the state of the chain."""
