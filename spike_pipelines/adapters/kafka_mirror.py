"""The OffsetMirror port: offsets of consumer groups without members, on Kafka's own protocol."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.protocol.consumer import OffsetCommitRequest
from kafka.protocol.metadata import CoordinatorType, FindCoordinatorRequest

from spike_pipelines.adapters.kafka_client import KafkaClient, Send
from spike_pipelines.domain.offsets import Partition

TIMEOUT_SECONDS = 5.0
COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
METADATA = "from the Spike Pipelines ledger"


class KafkaMirror:
    """Commits as a group with no members; a group that somebody really consumes with refuses that."""

    def __init__(self, bootstrap: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._client = KafkaClient(bootstrap, timeout_seconds=timeout_seconds)

    def mirror(self, groups: Mapping[str, Mapping[Partition, int]]) -> Mapping[str, str]:
        wanted = {group: offsets for group, offsets in groups.items() if offsets}

        async def talk(send: Send) -> Mapping[str, str]:
            nodes, refused = await _coordinators(send, sorted(wanted))
            asked = {g: send(_request(g, wanted[g]), node_id=node) for g, node in nodes.items()}
            for group, answer in asked.items():
                try:
                    codes = {p.error_code for t in (await answer).topics for p in t.partitions} - {0}
                except KafkaError as error:
                    refused[group] = type(error).__name__
                    continue
                if codes:
                    refused[group] = ", ".join(sorted(for_code(code).__name__ for code in codes))
            return refused

        return self._client.run(talk) if wanted else {}

    def close(self) -> None:
        self._client.close()


async def _coordinators(send: Send, groups: list[str]) -> tuple[dict[str, int], dict[str, str]]:
    """The node of each group, and the groups that have none now. One request for all of them."""
    request = FindCoordinatorRequest(key_type=CoordinatorType.GROUP, coordinator_keys=groups, min_version=4)
    nodes: dict[str, int] = {}
    refused: dict[str, str] = {}
    for found in (await send(request)).coordinators:
        if found.error_code:
            refused[found.key] = for_code(found.error_code).__name__
        else:
            nodes[found.key] = found.node_id
    return nodes, refused


def _request(group: str, offsets: Mapping[Partition, int]) -> Any:
    of = OffsetCommitRequest.OffsetCommitRequestTopic
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for partition, offset in sorted(offsets.items()):
        by_topic[partition.topic].append(
            of.OffsetCommitRequestPartition(
                partition_index=partition.index,
                committed_offset=offset,
                committed_leader_epoch=-1,
                committed_metadata=METADATA,
            )
        )
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        group_instance_id=None,
        retention_time_ms=-1,
        topics=[of(name=name, partitions=mine) for name, mine in by_topic.items()],
        max_version=8,
    )
