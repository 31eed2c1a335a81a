"""Builds the Grafana dashboards beside this file: `python deployments/grafana/build.py`.

`tests/unit/test_alerts.py` says when the JSON is not what this builds, and
`tests/integration/test_prometheus.py` runs every query against a real Prometheus.
"""

from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HERE = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True, slots=True)
class Plot:
    """One panel over time: legend → query."""

    title: str
    unit: str
    queries: dict[str, str]
    width: int = 12


def one(query: str, by: str = "spike") -> str:
    """Every replica of the appender tells the same of all spikes: taken once."""
    return f"max by ({by}) ({query})"


def of_spike(metric: str, by: str = "spike") -> str:
    """The same of the spike that the reader chose."""
    return one(f'{metric}{{spike="$spike"}}', by)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the whole fleet, as it is now. `absent` is what no number means; `alarming`: from 1 on it
    is red; `words` stand for the numbers 0 and 1."""

    title: str
    unit: str
    query: str
    absent: str = "not known"
    alarming: bool = False
    words: tuple[str, str] | None = None


FLEET_FIGURES = (
    Figure(
        "Incident: one trouble around many spikes",
        "short",
        "max(spike_incident)",
        alarming=True,
        words=("none", "INCIDENT"),
    ),
    Figure(
        "Spikes that are not OK or IDLE",
        "short",
        "sum(" + one('spike_verdict{verdict!~"OK|IDLE"}', "spike, verdict") + ")",
        alarming=True,
    ),
    Figure(
        "The oldest batch waits at the appender for",
        "s",
        "max(spike_oldest_batch_age_seconds)",
        absent="none waits",
    ),
    Figure("Readers do not see commits of up to", "s", "max(spike_dataset_unpublished_seconds)"),
)
FLEET_TABLE = {
    "loss in": one("spike_time_to_loss_seconds"),
    "behind": one("spike_lag_seconds"),
    "records": one('spike_lag_records{stage="committed"}'),
    "commit age": one("spike_commit_age_seconds"),
    "objective": one("spike_objective_seconds"),
    "batch waits": one("spike_oldest_batch_age_seconds"),
    "unseen by readers": one("spike_dataset_unpublished_seconds"),
    "lost": one("spike_lost_records"),
}
COUNTS = ("records", "lost")  # of the table's columns; the others are seconds
FLEET_PLOTS = (
    Plot(
        "Spikes by verdict",
        "short",
        {"{{verdict}}": f"sum by (verdict) ({one('spike_verdict', 'spike, verdict')})"},
    ),
    Plot("Ten furthest behind", "s", {"{{spike}}": f"topk(10, {one('spike_lag_seconds')})"}),
    Plot(
        "Ten whose oldest batch waits longest at the appender",
        "s",
        {"{{spike}}": f"topk(10, {one('spike_oldest_batch_age_seconds')})"},
    ),
    Plot(
        "Ten datasets with the oldest commit that readers do not see",
        "s",
        {"{{dataset}}": f"topk(10, {one('spike_dataset_unpublished_seconds', 'dataset')})"},
    ),
    Plot(
        "In and out, all spikes",
        "cps",
        {"{{stage}}": f"sum by (stage) ({one('spike_records_per_second', 'spike, stage')})"},
    ),
    Plot(
        "Since a duty last succeeded",
        "s",
        {"{{duty}}": f"time() - {one('spike_duty_success_timestamp_seconds', 'duty')}"},
    ),
    Plot(
        "What the ledger has, about",
        "short",
        {
            "batches {{state}}": one("spike_ledger_batches", "state"),
            "files {{state}}": one("spike_ledger_files", "state"),
        },
    ),
)
SPIKE_PLOTS = (
    Plot(
        "Seconds behind, and the objective",
        "s",
        {"behind": of_spike("spike_lag_seconds"), "objective": of_spike("spike_objective_seconds")},
    ),
    Plot("Three lags", "short", {"{{stage}}": of_spike("spike_lag_records", "stage")}),
    Plot("Rates", "cps", {"{{stage}}": of_spike("spike_records_per_second", "stage")}),
    Plot(
        "Batch duration, and its trigger",
        "s",
        {
            "batch": of_spike("spike_driver_batch_seconds"),
            "trigger": of_spike("spike_driver_trigger_seconds"),
        },
    ),
    Plot(
        "Where a batch spends its time",
        "s",
        {"{{step}}": of_spike("spike_driver_batch_step_seconds", "step")},
    ),
    Plot(
        "Rates as the driver sees them",
        "cps",
        {
            "input": of_spike("spike_driver_input_records_per_second"),
            "processing": of_spike("spike_driver_processed_records_per_second"),
        },
    ),
    Plot(
        "Appender latency: from staged to committed",
        "s",
        {"quantile {{quantile}}": of_spike("spike_commit_latency_seconds", "quantile")},
    ),
    Plot(
        "Until Kafka deletes what is unread",
        "s",
        {
            "loss in": of_spike("spike_time_to_loss_seconds"),
            "retention": of_spike("spike_retention_seconds"),
        },
    ),
    Plot(
        "Lag by partition",
        "short",
        {"{{partition}}": one('kafka_consumergroup_lag{consumergroup="spike.$spike"}', "partition")},
    ),
    Plot("Waiting at the appender", "short", {"{{state}}": of_spike("spike_batches", "state")}),
    Plot(
        "How long the oldest batch waits, and the objective",
        "s",
        {
            "oldest batch": of_spike("spike_oldest_batch_age_seconds"),
            "objective": of_spike("spike_objective_seconds"),
        },
    ),
    Plot(
        "Commits a minute",
        "short",
        {"commits": one('rate(spike_commits_total{spike="$spike"}[5m])') + " * 60"},
    ),
    Plot("Since the last commit", "s", {"age": of_spike("spike_commit_age_seconds")}),
    Plot(
        "Restarts in an hour",
        "short",
        {"{{cause}}": one('increase(spike_restarts_total{spike="$spike"}[1h])', "cause")},
    ),
    Plot(
        "Commits that readers do not see yet",
        "short",
        {
            "{{dataset}}": f"{of_spike('spike_dataset_sequence', 'dataset')} - "
            f"{of_spike('spike_dataset_published_sequence', 'dataset')}"
        },
    ),
    Plot(
        "Since the oldest commit that readers do not see, and the objective",
        "s",
        {
            "{{dataset}}": of_spike("spike_dataset_unpublished_seconds", "dataset"),
            "objective": of_spike("spike_objective_seconds"),
        },
    ),
)
POD = 'namespace="$namespace", container=~"spark-kubernetes-.*"'
POD_PLOTS = (
    Plot(
        "CPU used against requested",
        "percentunit",
        {
            "{{pod}}": f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{POD}}}[5m])) / "
            f'sum by (pod) (kube_pod_container_resource_requests{{{POD}, resource="cpu"}})'
        },
        24,
    ),
    Plot(
        "Memory used against requested",
        "percentunit",
        {
            "{{pod}}": f"sum by (pod) (container_memory_working_set_bytes{{{POD}}}) / "
            f'sum by (pod) (kube_pod_container_resource_requests{{{POD}, resource="memory"}})'
        },
        24,
    ),
)
INCIDENT = {"incident": "max(spike_incident) > 0"}  # then the trouble is no spike's own
ANNOTATIONS = {
    "driver's life begins": one('changes(spike_epoch_opened_timestamp_seconds{spike="$spike"}[2m])') + " > 0",
    "restart": one('increase(spike_restarts_total{spike="$spike"}[2m])', "spike, cause") + " > 0",
    **INCIDENT,
}
CREATED = f"{of_spike('spike_created_timestamp_seconds')} * 1000"


class StampedQuery(AnnotationQuery):
    """Marks the time that a series has as its value, in milliseconds; the SDK has no word for it."""

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"useValueForTime": True}


class Stamp(d.AnnotationQuery):
    def __init__(self) -> None:
        self._internal = StampedQuery()


def query(expr: str, legend: str, ref: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(SOURCE)


def panel(plot: Plot) -> timeseries.Panel:
    made = timeseries.Panel().title(plot.title).unit(plot.unit).datasource(SOURCE).span(plot.width).height(8)
    for n, (legend, expr) in enumerate(plot.queries.items()):
        made = made.with_target(query(expr, legend, chr(ord("A") + n)))
    return made.min(0)


def figure(of: Figure) -> stat.Panel:
    made = stat.Panel().title(of.title).unit(of.unit).datasource(SOURCE).span(6).height(4)
    made = made.with_target(query(of.query, of.title, "A").instant()).no_value(of.absent)
    if of.words:
        words = {str(n): ValueMappingResult(text=text) for n, text in enumerate(of.words)}
        made = made.mappings([ValueMap(options=words)])
    if of.alarming:
        steps = [Threshold(color="green"), Threshold(value=1, color="red")]
        thresholds = d.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
        made = made.thresholds(thresholds).color_mode(BigValueColorMode.BACKGROUND)
    return made


def annotation(made: d.AnnotationQuery, name: str, expr: str, colour: str) -> d.AnnotationQuery:
    return made.name(name).expr(expr).enable(True).datasource(SOURCE).icon_color(colour)


def fleet_table() -> table.Panel:
    made = table.Panel().title("Spikes, the nearest to loss first").datasource(SOURCE).span(24).height(12)
    for n, (name, expr) in enumerate(FLEET_TABLE.items()):
        target = query(expr, name, chr(ord("A") + n)).instant().format(PromQueryFormat.TABLE)
        made = made.with_target(target)
    sort = {"sort": [{"field": "Value #A", "desc": False}]}
    names = {f"Value #{chr(ord('A') + n)}": name for n, name in enumerate(FLEET_TABLE)}
    hidden = {"Time": True}
    made = made.unit("s").transformations(
        [
            _transformation("merge", {}),
            _transformation("sortBy", sort),
            _transformation("organize", {"renameByName": names, "excludeByName": hidden}),
        ]
    )
    for name in COUNTS:
        made = made.override_by_name(name, [DynamicConfigValue(id_val="unit", value="short")])
    return made


def _transformation(name: str, options: dict[str, object]) -> DataTransformerConfig:
    return DataTransformerConfig(id_val=name, options=options)


def start(title: str, uid: str) -> d.Dashboard:
    source = d.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    return (
        d.Dashboard(title)
        .uid(uid)
        .tags(["spike-pipelines"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(source)
    )


def variable(name: str, label: str, values: str) -> d.QueryVariable:
    return d.QueryVariable(name).label(label).datasource(SOURCE).query(values)


def fleet() -> d.Dashboard:
    made = start("Spikes: fleet", "spike-fleet")
    for name, expr in INCIDENT.items():
        made = made.annotation(annotation(d.AnnotationQuery(), name, expr, "red"))
    for shown in FLEET_FIGURES:
        made = made.with_panel(figure(shown))
    made = made.with_panel(fleet_table())
    for plot in FLEET_PLOTS:
        made = made.with_panel(panel(plot))
    return made


def spike() -> d.Dashboard:
    verdict = query(of_spike("spike_verdict", "verdict"), "{{verdict}}", "A")
    created = query(CREATED, "created", "A").instant()
    opened = query(
        f"{of_spike('spike_epoch_opened_timestamp_seconds')} * 1000", "driver's life", "B"
    ).instant()
    made = (
        start("Spikes: one spike", "spike-one")
        .with_variable(variable("spike", "Spike", "label_values(spike_verdict, spike)"))
        .with_panel(
            stat.Panel()
            .title("Spike Creation Timestamp")
            .unit("dateTimeAsIso")
            .datasource(SOURCE)
            .span(8)
            .height(8)
            .with_target(created)
            .with_target(opened)
        )
        .with_panel(
            statetimeline.Panel().title("Verdict").datasource(SOURCE).span(16).height(8).with_target(verdict)
        )
    )
    made = made.annotation(annotation(Stamp(), "spike created", CREATED, "green"))
    for name, expr in ANNOTATIONS.items():
        made = made.annotation(annotation(d.AnnotationQuery(), name, expr, "red"))
    for plot in SPIKE_PLOTS:
        made = made.with_panel(panel(plot))
    return made


def pods() -> d.Dashboard:
    made = start("Spikes: pods", "spike-pods").with_variable(
        variable("namespace", "Namespace", "label_values(kube_pod_container_resource_requests, namespace)")
    )
    for plot in POD_PLOTS:
        made = made.with_panel(panel(plot))
    return made


BOARDS = {"fleet": fleet, "spike": spike, "pods": pods}


def text(name: str) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(BOARDS[name]().build()) + "\n"


if __name__ == "__main__":
    for name in BOARDS:
        (HERE / f"{name}.json").write_text(text(name))
