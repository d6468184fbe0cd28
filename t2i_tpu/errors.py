"""Defines the error for mistakes that a user can correct, and quotes other text in its messages."""


class UserError(ValueError):
    """A mistake that a user can correct. The message is one line: what is wrong, where, what to do.

    Launch scripts print it without a traceback and exit with status 1.
    """


def get_first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not blank, or else the error's type."""
    text = str(getattr(error, "message", None) or error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__


def shorten(text: str, limit: int = 60) -> str:
    """Return the first `limit` characters of text as one printable line."""
    line = " ".join(text.split())
    if len(line) > limit:
        line = line[:limit] + "..."
    return "".join(character if character.isprintable() else "?" for character in line)
