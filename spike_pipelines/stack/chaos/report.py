"""What a storm did and what it broke: figures by kind, every record, a sentence, and all of it as JSON."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from rich.table import Table

from spike_pipelines.services.audit import Finding
from spike_pipelines.stack.chaos.balance import Balance
from spike_pipelines.stack.chaos.kinds import Kind
from spike_pipelines.stack.chaos.storm import Throw


@dataclass(frozen=True, slots=True)
class Thrown:
    """One fault as it is reported. `in_flight` are the spikes with a batch on its way at the effect,
    `batches` what was on its way."""

    number: int
    kind: Kind
    what: str
    at: datetime
    lasted_seconds: float
    effect_at: datetime | None
    in_flight: tuple[str, ...]
    batches: tuple[str, ...]
    recovery_seconds: float | None

    @classmethod
    def of(cls, throw: Throw) -> "Thrown":
        return cls(
            number=throw.fault.number,
            kind=throw.fault.kind,
            what=throw.aimed.harm.what,
            at=throw.at,
            lasted_seconds=round(throw.fault.seconds, 1),
            effect_at=throw.effect_at,
            in_flight=tuple(sorted(throw.affected)),
            batches=tuple(sorted(n for name in throw.affected for n in throw.flights[name].names)),
            recovery_seconds=throw.recovery_seconds,
        )


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Faults of one kind: thrown, seen to work, seen with a batch in flight; recovery in seconds."""

    kind: str
    thrown: int
    observed: int
    in_flight: int
    recovery_p50: float | None
    recovery_p99: float | None


@dataclass(slots=True)
class Report:
    """`wanted` faults were asked for. `stuck` says what did not come back, `partial` each partial view,
    `problems` what broke in the looking itself."""

    seed: int
    wanted: int
    spikes: tuple[str, ...]
    rate: float
    throws: list[Thrown] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    snapshots: int = 0
    reader_looks: int = 0
    stuck: str | None = None
    storm_seconds: float = 0.0
    breather_seconds: float = 0.0
    stalled_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def kinds(self) -> tuple[KindFigures, ...]:
        return tuple(figures(kind, [t for t in self.throws if t.kind is kind]) for kind in Kind)

    @property
    def counted(self) -> int:
        return sum(bool(t.in_flight) for t in self.throws)

    @property
    def batches_hit(self) -> int:
        """Different batches that were on their way when a fault took effect."""
        return len({name for t in self.throws for name in t.batches})

    @property
    def breaches(self) -> tuple[str, ...]:
        """Everything that must not be, each with what it was seen by."""
        return tuple(self._breaches())

    def _breaches(self) -> Iterator[str]:
        for balance in self.balances:
            yield from balance.breaches
        yield from (f"partial view: {p}" for p in self.partial)
        yield from self.problems
        for finding in self.findings:
            if not finding.ok:
                what = "; ".join((finding.figure, *finding.breaches))
                yield f"audit {finding.invariant}, {finding.promise}: {what}"
        if self.stuck:
            yield f"stuck: {self.stuck}"
        if self.counted < self.wanted:
            yield f"only {self.counted} of {self.wanted} faults took effect with a batch in flight"
        if not self.stuck and not (self.snapshots and all(b.acknowledged for b in self.balances)):
            yield "nothing was produced or nothing was read: the run proves nothing"

    def sentence(self) -> str:
        hit = figures("all", self.throws)
        recovery = f"recovery p50 {_seconds(hit.recovery_p50)}, p99 {_seconds(hit.recovery_p99)}"
        return (
            f"chaos {'FAILED' if self.breaches else 'ok'}: seed {self.seed}, {self.counted} faults of "
            f"{sum(bool(k.in_flight) for k in self.kinds)} kinds with a batch in flight "
            f"({self.batches_hit} batches were), "
            f"{sum(b.acknowledged for b in self.balances):,} records acknowledged, "
            f"{sum(b.lost for b in self.balances)} lost, "
            f"{sum(b.duplicated for b in self.balances)} duplicated, "
            f"{sum(b.misplaced for b in self.balances)} misplaced, "
            f"{len(self.partial)} partial views in {self.snapshots:,} snapshots, "
            f"{sum(f.ok for f in self.findings)}/{len(self.findings)} audits ok; "
            f"{recovery}; {self.seconds:.0f} s"
        )

    def write(self, path: Path) -> None:
        shown = asdict(self) | {
            "sentence": self.sentence(),
            "breaches": self.breaches,
            "batches_hit": self.batches_hit,
            "kinds": [asdict(kind) for kind in self.kinds],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(shown, indent=2, default=str) + "\n")


def figures(kind: str, throws: Iterable[Thrown]) -> KindFigures:
    throws = list(throws)
    recoveries = sorted(t.recovery_seconds for t in throws if t.recovery_seconds is not None)
    return KindFigures(
        kind=kind,
        thrown=len(throws),
        observed=sum(t.effect_at is not None for t in throws),
        in_flight=sum(bool(t.in_flight) for t in throws),
        recovery_p50=percentile(recoveries, 50),
        recovery_p99=percentile(recoveries, 99),
    )


def percentile(ordered: list[float], percent: int) -> float | None:
    """Nearest rank: the smallest value that so many percent do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None


def faults_table(report: Report) -> Table:
    """By kind, and all together."""
    waited = (
        f"{report.breather_seconds:.0f} s of them breathers, {report.stalled_seconds:.0f} s without a commit"
    )
    shown = Table(caption=f"{report.storm_seconds:.0f} s, {waited}", min_width=80)
    shown.add_column("fault")
    for name in ("thrown", "observed", "in flight", "recovery p50", "p99"):
        shown.add_column(name, justify="right")
    for k in (*report.kinds, figures("all", report.throws)):
        shown.add_row(
            str(k.kind),
            str(k.thrown),
            str(k.observed),
            str(k.in_flight),
            _seconds(k.recovery_p50),
            _seconds(k.recovery_p99),
        )
    return shown


def records_table(report: Report) -> Table:
    shown = Table()
    shown.add_column("spike")
    for name in ("acknowledged", "in Kafka", "filtered", "lost", "duplicated", "misplaced"):
        shown.add_column(name, justify="right")
    for b in report.balances:
        counts = (b.acknowledged, b.in_log, b.filtered, b.lost, b.duplicated, b.misplaced)
        shown.add_row(b.spike, *(f"{count:,}" for count in counts))
    return shown


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
