"""The exception that rejects an example."""


class Rejected(Exception):
    """Rejects an example. The argument is the cause, in snake_case, under which it is counted."""

    @property
    def cause(self) -> str:
        """The cause, for example "truncated_image"."""
        return self.args[0]
