"""An example that is left out, and why; the cause is what it is counted under."""


class Lost(Exception):
    """Args: the cause, one word of snake_case."""

    @property
    def cause(self) -> str:
        return self.args[0]
