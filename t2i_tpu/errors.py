"""The one error class for what a user can get wrong."""


class UserError(ValueError):
    """A mistake that its reader can mend: one line that says what, where and what to do.

    Launch scripts print it without a traceback and exit with code 1.
    """
