"""The error class for mistakes that a user can correct."""


class UserError(ValueError):
    """A mistake that a user can correct. The message is one line: what is wrong, where, what to do.

    Launch scripts print it without a traceback and exit with status 1.
    """
