"""Errors, grouped by what the one who catches them does.

| class             | the catcher                                                        |
| ----------------- | ------------------------------------------------------------------ |
| `Transient`       | tries again later; nothing was decided                             |
| `Conflict`        | looks at the world again: what it knew is no longer so             |
| `Refused`         | stops this request: it can never succeed as it is                  |
| `InvalidSpec`     | shows file and line to a person, who mends the file                |
| `InvariantBroken` | stops and pages: a promise of the platform does not hold           |
"""

from collections.abc import Collection

from spike_pipelines.domain.words import count_of


class SpikeError(Exception):
    """Base of all errors that this package raises on purpose."""


class Transient(SpikeError):
    """Something outside did not answer. Trying the same again later is right."""


class Conflict(SpikeError):
    """Somebody else acted first. Read the state again before acting."""

    code = "conflict"


class Refused(SpikeError):
    """The request contradicts the ledger or the broker. The same request stays refused."""

    code = "invalid"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidSpec(SpikeError):
    """An application file, an option or an argument is wrong. The message names place and way out."""


class InvariantBroken(SpikeError):
    """An invariant of the design does not hold. Never retried, never hidden."""


class TableAltered(InvariantBroken):
    """Somebody else replaced files of a table (a compaction): what the ledger is to take out is not there
    under its name, and its rows may be."""

    def __init__(self, table: str, missing: Collection[str]) -> None:
        some = ", ".join(sorted(missing)[:3])
        super().__init__(
            f"table {table} lacks {count_of(len(missing), 'file')} to be taken out of it ({some}): somebody "
            "else changed it, and their rows may be in other files: `spike ledger project` redoes it"
        )


class WrongNumber(InvariantBroken):
    """A table's sequence number does not say what the table shows: a publication from there would leave
    records out, or show them twice."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}: the table or its ledger was restored, or somebody else changed it. Nothing is "
            "published to it: `spike ledger project` redoes it"
        )


class Held(Conflict):
    """Another driver's epoch of this spike is alive (I6); wait `retry_after_seconds`."""

    code = "held"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooManyStaged(Conflict):
    """The bound on staged batches is reached; wait `retry_after_seconds` and POST the same again."""

    code = "too_many_staged"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BatchTooLarge(Conflict):
    """A batch has more files, hours or bytes of JSON than the appender takes: read less at once."""

    code = "too_large"


class BadKey(Refused):
    """A file's key is not a plain path below the epoch's own prefix."""

    code = "bad_key"


class Duplicate(Refused):
    """Something is named twice that may be there once: a member, a key, a partition, a staged file."""

    code = "duplicate"


class Fenced(Refused):
    """A newer epoch exists, or this driver was retired (I6). It never gets this spike again."""

    code = "fenced"


class Gap(Conflict):
    """A range starts beyond the staged end. The driver opens a new epoch."""

    code = "gap"


class Overlap(Conflict):
    """A range starts below the staged end. The driver opens a new epoch."""

    code = "overlap"


class TopicChanged(Refused):
    """The topic's id is not the one the ledger knows (I10): it was deleted and made again."""

    code = "topic_changed"


class Lost(Refused):
    """The log start is beyond the staged end (I10): Kafka no longer has the next record to read."""

    code = "lost"


class Truncated(Lost):
    """Kafka's log ends below the staged end (I10): its offsets will be given to other records."""


class SpecChanged(Refused):
    """The application file contradicts what the spike's batches and files are bound to."""

    code = "spec_changed"


class TopicMissing(Transient):
    """The broker answers, and does not know the topic. It may be created at any moment."""

    code = "topic_missing"


class LeaseLost(Conflict):
    """The lease's token moved on: another appender run works on this spike now."""

    code = "lease_lost"


class NothingStaged(Conflict):
    """Whoever planned a swap ended before it had staged anything: nobody can go on with it."""

    code = "nothing_staged"


class ObjectMissing(Conflict):
    """The object is not in the store (any more)."""

    code = "object_missing"


class SourceChanged(Conflict):
    """The object is there with another etag than was registered."""

    code = "source_changed"


class AlreadyExists(Conflict):
    """A create-only write found an object at its key. A question (was it mine?), never an answer."""

    code = "already_exists"


class NotParquet(Refused):
    """The object is not a readable Parquet file."""

    code = "not_parquet"
