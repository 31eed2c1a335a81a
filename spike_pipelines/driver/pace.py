"""How much one batch may read: less after one that was too large for the appender API."""

from dataclasses import dataclass

from spike_pipelines.domain.errors import BatchTooLarge


@dataclass(frozen=True, slots=True)
class Pace:
    """`most` offsets a batch, as the spike's file says; `limit` after one that was too large. A query has one
    pace for its life, so that what changes here holds for the next epoch."""

    most: int
    limit: int | None = None

    def max_offsets(self, partitions: int) -> int:
        """Never below one offset for each partition."""
        return max(self.most if self.limit is None else self.limit, partitions)

    def after(self, error: Exception | None, *, registered: bool, offsets: int) -> "Pace":
        """Of the epoch that ends with `error`: half of what its last batch had (`offsets`) if that was too
        large, the whole again if one was `registered`."""
        if isinstance(error, BatchTooLarge):
            return Pace(self.most, min(self.max_offsets(1), offsets) // 2)
        return Pace(self.most) if registered else self
