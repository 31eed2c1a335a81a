"""The appender API, as its clients see it."""

from datetime import datetime
from typing import Protocol


class Appender(Protocol):
    """The appender API, seen from outside."""

    def since(self) -> datetime | None:
        """When it began to answer; None if it does not answer now. Never raises."""
