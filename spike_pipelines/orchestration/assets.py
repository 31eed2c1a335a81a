"""What exists: topics, spikes and datasets, and how the one comes from the other.

Topics and spikes are external: Kafka and the drivers make them. Datasets are partitioned by the UTC
hour of the Kafka timestamp; appender runs log their materializations, and to execute one is its backfill.
"""

from collections.abc import Iterable
from datetime import datetime

import dagster as dg

from spike_pipelines.domain.batch import hour_of
from spike_pipelines.domain.spike import Spike

HOUR_FORMAT = "%Y-%m-%d-%H:%M"  # of HourlyPartitionsDefinition's keys


def topic_key(topic: str) -> dg.AssetKey:
    return dg.AssetKey(["topic", _plain(topic)])


def spike_key(spike: Spike) -> dg.AssetKey:
    return dg.AssetKey(["spike", spike.asset_name])


def broken_key(name: str) -> dg.AssetKey:
    """Of a spike of which only the file's name is known."""
    return dg.AssetKey(["spike", _plain(name)])


def dataset_key(table: str) -> dg.AssetKey:
    return dg.AssetKey(["dataset", table])


def partition_key(hour: datetime) -> str:
    return hour.strftime(HOUR_FORMAT)


def asset_specs(spikes: Iterable[Spike]) -> list[dg.AssetSpec]:
    """Each topic once, and each spike: what Dagster does not execute."""
    spikes = list(spikes)
    topics = {spike.topic: _topic_spec(spike.topic) for spike in spikes}
    return [*topics.values(), *map(_spike_spec, spikes)]


def _topic_spec(topic: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        topic_key(topic),
        group_name="kafka",
        kinds={"kafka"},
        description=f"Kafka topic `{topic}`",
        metadata={"topic": topic},
    )


def _spike_spec(spike: Spike) -> dg.AssetSpec:
    return dg.AssetSpec(
        spike_key(spike),
        deps=[topic_key(spike.topic)],
        group_name="spikes",
        kinds={"spark"},
        description=spike.description,
        metadata={
            "spike": spike.name,
            "topic": spike.topic,
            "trigger": f"{spike.trigger.total_seconds():.0f} s",
            "lag objective": f"{spike.objectives.lag.total_seconds():.0f} s",
            "schema": dg.MetadataValue.md(f"```sql\n{spike.schema}\n```"),
            "version": spike.version,
        },
    )


def dataset_specs(spike: Spike) -> list[dg.AssetSpec]:
    """A spike's two tables."""
    name = {"spike": spike.name}
    first = hour_of(spike.dataset.start)
    hours = dg.HourlyPartitionsDefinition(start_date=first, timezone="UTC", end_offset=1)
    final = dg.AssetSpec(
        dataset_key(spike.dataset.name),
        deps=[spike_key(spike)],
        group_name="datasets",
        kinds={"iceberg", "s3"},
        partitions_def=hours,
        description=f"Final rows of {spike.name}, exactly once, in Iceberg table `{spike.dataset.name}`",
        metadata={**name, "location": spike.final.uri(spike.dataset.name)},
    )
    dead = dg.AssetSpec(
        dataset_key(spike.dataset.dead_letters),
        deps=[spike_key(spike)],
        group_name="datasets",
        kinds={"iceberg", "s3"},
        partitions_def=hours,
        description=f"Records that {spike.name} could not read: raw bytes, reason and offset",
        metadata={**name, "location": spike.final.uri(spike.dataset.dead_letters)},
    )
    return [final, dead]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
