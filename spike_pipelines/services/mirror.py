"""The consumer group `spike.<name>` follows the ledger, so that Kafka's own tools show what is committed.

One way and best effort: the group is never read back, and nothing waits for it. Killed before or after:
the next commit, or the next look at lag, sets it to the ledger's value of then (after a rewind too). Once a
day it is written though nothing changed: Kafka forgets the offsets of a group that has no members.
"""

import logging
from collections.abc import Mapping

from spike_pipelines.domain.batch import LIVE_LANE
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.offsets import Partition, Position
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Ledger, OffsetMirror

log = logging.getLogger(__name__)


def group(spike: str) -> str:
    return f"spike.{spike}"


def committed(
    positions: Mapping[Partition, Position], topic_id: str | None = None
) -> Mapping[Partition, int]:
    """Committed ends, of one incarnation of the topic where its id is given: a group knows topics by name
    only, so those of a topic that was deleted must not be among them."""
    return {p: pos.committed_end for p, pos in positions.items() if topic_id in (None, p.topic_id)}


def follow(mirror: OffsetMirror, ledger: Ledger, spike: Spike) -> bool:
    """Set one spike's group to what is committed now; False if that could not be done."""
    try:
        with ledger.begin() as tx:
            positions = tx.positions(spike.name, LIVE_LANE)
        if len({p.topic_id for p in positions}) > 1:
            return False  # which of them is the topic of today, only the broker knows: the observer asks it
        refused = mirror.mirror({group(spike.name): committed(positions)})
    except Transient as error:
        log.warning("consumer group %s does not follow the ledger now: %s", group(spike.name), error)
        return False
    for name, reason in refused.items():
        log.warning("consumer group %s does not follow the ledger: %s", name, reason)
    return not refused
