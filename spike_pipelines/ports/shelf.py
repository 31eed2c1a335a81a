"""Where a cluster has its application files."""

from typing import Protocol


class ApplicationShelf(Protocol):
    """Where appender and code location of a cluster read the application files."""

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, text: str) -> None:
        """Twice is as once; other spikes' files stay."""

    def remove(self, name: str) -> None:
        """Twice is as once; other spikes' files stay."""
