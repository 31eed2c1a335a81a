"""Topics made on a real broker, by a test that asks them at once."""

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec


def create_topic(admin: KafkaAdminClient, topic: str, partitions: int = 1) -> None:
    options = {"num_partitions": partitions, "replication_factor": 1}
    admin.create_topics({topic: options}, wait_for_metadata=True)
    await_leaders(admin, topic, partitions)


def await_leaders(admin: KafkaAdminClient, topic: str, partitions: int) -> None:
    """A broker is the leader in its own metadata a moment before it answers as one."""
    ends = {TopicPartition(topic, index): OffsetSpec.LATEST for index in range(partitions)}
    admin.list_partition_offsets(ends)  # asks again while the answer is NOT_LEADER_OR_FOLLOWER
