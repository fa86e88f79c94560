"""The base of errors that are shown.

UserError    its message is made for a person: one line that says what is wrong, where, and what to do. The command line prints
             it and ends with exit code 1; anything else that reaches the command line is a defect.
"""


class UserError(Exception):
    """Something outside of the program is wrong; the message says what to do."""
