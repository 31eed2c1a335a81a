"""Errors that end a command of the stack. Each message names the part, the place and the way out."""

from spike_pipelines.domain.errors import InvalidSpec, SpikeError


class StackError(SpikeError):
    """The embedded stack cannot do what it was asked to."""


class AlreadyRuns(StackError):
    """Another stack has the state folder."""


class UnreadableSnapshot(StackError):
    """What the manager says of itself is not what a manager writes."""


class PartFailed(StackError):
    """A part did not start, or ended before it was ready."""


class PortTaken(StackError):
    """Somebody else listens on a port that this stack remembers as its own."""


class DownloadFailed(StackError):
    """A file could not be fetched, or is not what it should be."""


class NoJava(InvalidSpec):
    """There is no Java that can run Spark and Kafka, and none could be fetched."""
