"""Errors of the monitor's commands, made for people.

NotFound    what was asked for is not stored, or not one thing: the caller shows the line and stops
"""


class NotFound(Exception):
    """Nothing, or more than one thing, answers to what was asked for."""
