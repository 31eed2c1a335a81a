"""Lag as Prometheus sees it: our own names, and those that existing Kafka dashboards and alerts ask for.

| names like | are those of |
| --- | --- |
| `kafka_consumergroup_lag`, `kafka_topic_partition_…` | danielqsj/kafka_exporter |
| `kafka_consumergroup_group_…` | seglo/kafka-lag-exporter |
| `kminion_kafka_consumer_group_…` | redpanda-data/kminion |

All come from the newest look that was written down. A look older than `STALE` says nothing about now: its
figures are left out, and the verdict is UNKNOWN. But a loss stands until somebody acknowledges it, and a
spike that the newest looks no longer have is not there any more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from spike_pipelines.domain.fleet import FLEET, in_incident
from spike_pipelines.domain.lag import LagReport, LagVerdict
from spike_pipelines.domain.supervision import MENDED
from spike_pipelines.ports import LagLedger, Tally
from spike_pipelines.services.mirror import group

STALE = timedelta(minutes=3)
Value = Callable[[LagReport], float | None]
CLUSTER = "spike"  # kafka-lag-exporter's `cluster_name`


class Gauge:
    """A gauge with its labels in order; a value of None is left out."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.family = GaugeMetricFamily(name, text, labels=labels)

    def set(self, value: float | None, *labels: str) -> None:
        if value is not None:
            self.family.add_metric(labels, value)


class LagCollector:
    """`now` is the ledger's: reports carry its time."""

    def __init__(self, ledger: LagLedger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        reports, tally = watched(self._ledger.latest_lag()), self._ledger.tally()
        fresh = {name: r for name, r in reports.items() if r.at and tally.at - r.at <= STALE}
        seen = {name: r for name, r in fresh.items() if r.observed}
        yield from _spikes(reports, fresh, seen)
        yield from _kafka_exporter(seen)
        yield from _lag_exporter(seen)
        yield from _kminion(seen)
        yield from _tally(tally)
        yield _restarts(reports, tally.recoveries)


def watched(reports: Mapping[str, LagReport]) -> Mapping[str, LagReport]:
    """Without those that were left out of later looks: one look is of all spikes that there are."""
    newest = max((r.at for r in reports.values() if r.at), default=None)
    return {
        name: r for name, r in reports.items() if newest is None or r.at is None or newest - r.at <= STALE
    }


def _spikes(
    reports: Mapping[str, LagReport], fresh: Mapping[str, LagReport], seen: Mapping[str, LagReport]
) -> Iterator[Metric]:
    records = Gauge("spike_lag_records", "Offsets behind the end of the log", "spike", "stage")
    rates = Gauge("spike_records_per_second", "Over the last ten minutes", "spike", "stage")
    for name, r in seen.items():
        records.set(r.lag, name, "committed")
        records.set(r.staged_lag, name, "staged")
        records.set(r.read_lag, name, "read")
        if r.trend:
            rates.set(r.trend.produced_per_second, name, "produced")
            rates.set(r.trend.staged_per_second, name, "staged")
            rates.set(r.trend.committed_per_second, name, "committed")
    verdicts = Gauge("spike_verdict", "1 for the verdict that holds, 0 for the others", "spike", "verdict")
    for name in reports:
        verdict = fresh[name].verdict if name in fresh else LagVerdict.UNKNOWN
        for one in LagVerdict:
            verdicts.set(int(one is verdict), name, one)
    yield from (records.family, rates.family, verdicts.family)
    yield _each("spike_lag_seconds", "Age of the first uncommitted record", seen, lambda r: r.lag_seconds)
    yield _each(
        "spike_time_to_loss_seconds",
        "Until Kafka deletes what is not safe in S3; absent while nothing is in danger",
        seen,
        lambda r: r.time_to_loss_seconds,
    )
    yield _each("spike_caught_up_seconds", "Until nothing is uncommitted", seen, lambda r: r.eta_seconds)
    yield _each("spike_retention_seconds", "retention.ms of its topic", seen, lambda r: r.retention_seconds)
    yield _each("spike_lost_records", "Deleted unread or cut off, and open", reports, lambda r: r.lost)
    yield _each("spike_commit_age_seconds", "Since the last commit", fresh, lambda r: r.commit_age_seconds)
    yield _each("spike_objective_seconds", "What lag may be", reports, lambda r: r.objective_seconds)
    yield _each("spike_running", "1 while a driver runs", fresh, lambda r: r.running)
    yield _each("spike_created_timestamp_seconds", "First seen", reports, lambda r: _unix(r.created_at))
    yield _each(
        "spike_epoch_opened_timestamp_seconds",
        "When its driver's life began",
        fresh,
        lambda r: _unix(r.epoch_opened_at),
    )
    yield _each("spike_observed_timestamp_seconds", "When this was seen", reports, lambda r: _unix(r.at))


def _each(name: str, text: str, reports: Mapping[str, LagReport], value: Value) -> Metric:
    gauge = Gauge(name, text, "spike")
    for spike, report in reports.items():
        gauge.set(value(report), spike)
    return gauge.family


def _kafka_exporter(seen: Mapping[str, LagReport]) -> Iterator[Metric]:
    labels = ("consumergroup", "topic", "partition")
    lag = Gauge("kafka_consumergroup_lag", "Offsets not committed", *labels)
    at = Gauge("kafka_consumergroup_current_offset", "Committed offset", *labels)
    lag_sum = Gauge("kafka_consumergroup_lag_sum", "Offsets not committed", "consumergroup", "topic")
    at_sum = Gauge("kafka_consumergroup_current_offset_sum", "Committed offsets", "consumergroup", "topic")
    ends = Gauge("kafka_topic_partition_current_offset", "Log end", "topic", "partition")
    starts = Gauge("kafka_topic_partition_oldest_offset", "Log start", "topic", "partition")
    told: set[str] = set()
    for name, r in seen.items():
        consumer, topic = group(name), _topic(r)
        lag_sum.set(r.lag, consumer, topic)
        at_sum.set(sum(p.committed_end for p in r.partitions), consumer, topic)
        for p in r.partitions:
            index = str(p.partition.index)
            lag.set(p.lag, consumer, topic, index)
            at.set(p.committed_end, consumer, topic, index)
            if topic not in told:
                ends.set(p.log_end, topic, index)
                starts.set(p.log_start, topic, index)
        told.add(topic)
    yield from (g.family for g in (lag, at, lag_sum, at_sum, ends, starts))


def _lag_exporter(seen: Mapping[str, LagReport]) -> Iterator[Metric]:
    of_group = ("cluster_name", "group")
    seconds = Gauge(
        "kafka_consumergroup_group_lag_seconds",
        "Age of the first uncommitted",
        *of_group,
        "topic",
        "partition",
    )
    most_seconds = Gauge("kafka_consumergroup_group_max_lag_seconds", "Worst partition's age", *of_group)
    most = Gauge("kafka_consumergroup_group_max_lag", "Worst partition's lag", *of_group)
    total = Gauge("kafka_consumergroup_group_sum_lag", "Offsets not committed", *of_group)
    by_topic = Gauge("kafka_consumergroup_group_topic_sum_lag", "Offsets not committed", *of_group, "topic")
    for name, r in seen.items():
        labels, topic = (CLUSTER, group(name)), _topic(r)
        most_seconds.set(r.lag_seconds, *labels)
        most.set(max((p.lag for p in r.partitions), default=0), *labels)
        total.set(r.lag, *labels)
        by_topic.set(r.lag, *labels, topic)
        for p in r.partitions:
            seconds.set(p.lag_seconds, *labels, topic, str(p.partition.index))
    yield from (g.family for g in (seconds, most_seconds, most, total, by_topic))


def _kminion(seen: Mapping[str, LagReport]) -> Iterator[Metric]:
    labels = ("group_id", "topic_name")
    lag = Gauge("kminion_kafka_consumer_group_topic_lag", "Offsets not committed", *labels)
    at = Gauge("kminion_kafka_consumer_group_topic_offset_sum", "Committed offsets", *labels)
    for name, r in seen.items():
        lag.set(r.lag, group(name), _topic(r))
        at.set(sum(p.committed_end for p in r.partitions), group(name), _topic(r))
    yield from (lag.family, at.family)


def _tally(tally: Tally) -> Iterator[Metric]:
    batches = Gauge("spike_batches", "Unfinished batches by state", "spike", "state")
    files = Gauge("spike_files", "Files of unfinished batches by state", "spike", "state")
    _fill(batches, tally.batches)
    _fill(files, tally.files)
    commits = CounterMetricFamily("spike_commits", "Batches committed, ever", labels=["spike"])
    for spike, n in tally.committed.items():
        commits.add_metric([spike], n)
    incident = Gauge("spike_incident", "Whether many spikes are in trouble at once")
    incident.set(in_incident(tally.incident, tally.at))
    latency = Gauge(
        "spike_commit_latency_seconds", "From staged to committed, last five minutes", "spike", "quantile"
    )
    for spike, (median, longest) in tally.latencies.items():
        latency.set(median, spike, "0.5")
        latency.set(longest, spike, "1")
    yield _about("batches", tally)
    yield _about("files", tally)
    duties = Gauge("spike_duty_success_timestamp_seconds", "When a duty last succeeded", "duty")
    for duty, at in tally.duties.items():
        duties.set(at.timestamp(), duty)
    yield from (batches.family, files.family, commits, incident.family, latency.family, duties.family)


def _about(table: str, tally: Tally) -> Metric:
    text = (
        f"About how many {table} of all spikes the ledger has, by state: PostgreSQL's statistics as of its "
        "last ANALYZE, without a state of fewer than one row in 30,000 or so"
    )
    gauge = Gauge(f"spike_ledger_{table}", text, "state")
    for (of, state), n in tally.rows.items():
        if of == table:
            gauge.set(n, state)
    return gauge.family


def _restarts(spikes: Iterable[str], recoveries: Mapping[tuple[str, str], int]) -> Metric:
    """Every cause of every spike, those that never happened too: `increase()` sees no step in a series that
    begins at 1."""
    labels = ["spike", "cause"]
    counter = CounterMetricFamily("spike_restarts", "Recoveries by what was wrong, ever", labels=labels)
    never = {(spike, str(cause)): 0 for spike in spikes for cause in sorted(MENDED)}
    for of, n in (never | dict(recoveries)).items():
        if of[0] != FLEET:
            counter.add_metric(of, n)
    return counter


def _fill(gauge: Gauge, counts: Mapping[tuple[str, str], int]) -> None:
    for labels, n in counts.items():
        gauge.set(n, *labels)


def _topic(report: LagReport) -> str:
    return report.partitions[0].partition.topic if report.partitions else ""


def _unix(at: datetime | None) -> float | None:
    return at.timestamp() if at else None
