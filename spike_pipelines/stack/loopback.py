"""What runs on loopback is reached directly, whatever proxy the environment names."""

from collections.abc import MutableMapping

from spike_pipelines.stack.probes import LOOPBACK

NAMES = ("no_proxy", "NO_PROXY")  # libraries read the one, the other or both
DIRECT = (LOOPBACK, "localhost")


def spare_loopback(env: MutableMapping[str, str]) -> None:
    """Add loopback to both variables; one that is not set takes over what the other says."""
    said = {name: env.get(name, "") for name in NAMES}
    for name, other in (NAMES, NAMES[::-1]):
        hosts = [host for host in (said[name] or said[other]).replace(" ", "").split(",") if host]
        if "*" not in hosts:  # everything is direct already, and `*` counts only alone
            env[name] = ",".join(dict.fromkeys((*hosts, *DIRECT)))
