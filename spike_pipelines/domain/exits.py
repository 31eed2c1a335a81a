"""How a driver ends: what a supervisor may conclude from the exit code."""

from enum import IntEnum


class Exit(IntEnum):
    STOPPED = 0  # asked to stop (SIGTERM), and stopped in order
    GAVE_UP = 1  # failures without an end: a new process may do better
    INVALID = 2  # application file, environment or transform is wrong: a person mends it
    FENCED = 3  # another driver has the spike: this one never gets it again (I6); not a failure to recover
    REFUSED = 4  # the topic changed or records are lost (I10): a person decides
