"""What arguments of commands mean: the spike that is named, and who asks."""

from collections.abc import Mapping
from getpass import getuser
from socket import gethostname

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Spike


def known(spikes: Mapping[str, Spike], name: str) -> Spike:
    """Raises `InvalidSpec` naming what there is."""
    if name not in spikes:
        there = ", ".join(sorted(spikes)) or "none"
        raise InvalidSpec(f"no application file describes {name}: there are {there}")
    return spikes[name]


def me() -> str:
    """Who decides, where nobody else is named."""
    return f"{getuser()}@{gethostname()}"
