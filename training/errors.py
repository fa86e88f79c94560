"""Errors of training and of scoring; nothing is imported for them, so that a wrong argument is refused at once.

UserError
├── RunConfigError      a training cannot be run as it is configured
├── ProcessLost         a training of several processes was stopped, or lost one
├── PatchError          patches cannot be cut from these scenes and parcels
├── EventTableError     a file of observations or events cannot be used
└── EvaluationError     declarations cannot be evaluated on these folders or dates

The caller shows the line; nothing was trained or scored, but that a training whose process was lost is there to its last whole epoch.
"""

from terminal.errors import UserError


class RunConfigError(UserError):
    """A configuration that cannot be run; the message says which key, where, and what is allowed."""


class ProcessLost(UserError):
    """A training of several processes was stopped, or one of them ended; the same command goes on."""


class PatchError(UserError):
    """Scenes and parcels that patches cannot be cut from; the message says what to do."""


class EventTableError(UserError, ValueError):
    """A file of observations or events that cannot be used as it is; the message says what was found."""


class EvaluationError(UserError, ValueError):
    """Folders or dates on which declarations cannot be evaluated; the message says which and why."""
