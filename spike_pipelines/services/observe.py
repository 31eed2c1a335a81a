"""Lag of all spikes: one round of requests to the broker, one snapshot of the ledger, one verdict each."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from spike_pipelines.domain.epochs import EpochState
from spike_pipelines.domain.errors import TopicChanged, TopicMissing, Transient
from spike_pipelines.domain.lag import LagFacts, LagReport, LagVerdict, Life, cut_off, uncommitted, unstaged
from spike_pipelines.domain.lag_history import WINDOW
from spike_pipelines.domain.lag_verdict import judge
from spike_pipelines.domain.log_start import LOOK_BACK, Look
from spike_pipelines.domain.offsets import Partition, Position, RecordTime
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import (
    Cluster,
    DriverState,
    LagLedger,
    LagView,
    ObservedDriver,
    OffsetMirror,
    Survey,
    SurveyedTopic,
    Surveyor,
)
from spike_pipelines.services.mirror import committed, group

log = logging.getLogger(__name__)

DUTY = "observer"
RESTARTS = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Observer:
    """`look` has no effect; `watch` also writes down what it saw and sets the mirror right."""

    ledger: LagLedger
    broker: Surveyor
    cluster: Cluster
    spikes: Mapping[str, Spike]
    mirror: OffsetMirror | None = None

    def lag(self) -> Mapping[str, LagReport]:
        """A report for each spike. What does not answer makes UNKNOWN with the reason (I12)."""
        return self._look()[0]

    def watch(self) -> Mapping[str, LagReport]:
        """Look, keep it as history, and let consumer groups follow the ledger, after a rewind too.

        Killed in between: the next look writes the same again. The mirror is best effort: what could not be
        set is set next time.
        """
        reports, view = self._look()
        if view is None:
            return reports
        try:
            self.ledger.record_lag(reports)
            self._follow(reports, view)
            self.ledger.succeeded(DUTY)
        except Transient as error:
            log.warning("lag was seen and not written down: %s", error)
        return reports

    def _look(self) -> tuple[Mapping[str, LagReport], LagView | None]:
        began = monotonic()
        survey = self._survey({spike.topic for spike in self.spikes.values()})
        try:
            view = self.ledger.lag_view(WINDOW, RESTARTS)
        except Transient as error:
            sentence = f"not observed: {error}"
            now = datetime.now(UTC)
            blind = LagReport(LagVerdict.UNKNOWN, sentence, 0, None, (), observed=False, at=now)
            return dict.fromkeys(self.spikes, blind), None
        asked_at = view.now - timedelta(seconds=monotonic() - began)  # a little early by the ledger's clock
        survey = self._looked_again(survey, view)
        begins, starts = self._begins(survey, view), self._log_starts(survey, view)
        sights = _Sights(survey, view, begins, starts, asked_at)
        firsts = self._firsts(sights)
        drivers = self._drivers()
        return {
            name: judge(self._facts(spike, sights, firsts, drivers), view.now)
            for name, spike in self.spikes.items()
        }, view

    def _survey(self, topics: Collection[str], *, elsewhere: bool = False) -> Survey:
        try:
            return self.broker.survey(topics, elsewhere=elsewhere)
        except Transient as error:
            return Survey({}, dict.fromkeys(topics, str(error)))

    def _looked_again(self, survey: Survey, view: LagView) -> Survey:
        """Topics that are gone or whose log seems cut off are asked for once more, by way of another broker:
        the ledger's answer is the newer one, and a broker or a replica that is behind is not blamed."""
        doubtful = {
            s.topic
            for s in self.spikes.values()
            if (positions := view.positions.get(s.name)) and _doubtful(s.topic, survey, positions)
        }
        if not doubtful:
            return survey
        again = self._survey(doubtful, elsewhere=True)
        known = {name: seen for name, seen in survey.topics.items() if name not in doubtful}
        return Survey({**known, **again.topics}, {**survey.problems, **again.problems})

    def _drivers(self) -> Mapping[str, tuple[ObservedDriver, ...]] | None:
        """None if the cluster did not answer, which is not the same as no driver."""
        try:
            drivers = self.cluster.drivers()
        except Transient:
            return None
        found: dict[str, tuple[ObservedDriver, ...]] = defaultdict(tuple)
        for driver in drivers:
            found[driver.spike] += (driver,)
        return found

    def _begins(self, survey: Survey, view: LagView) -> Mapping[str, Mapping[Partition, int]]:
        """Where spikes begin that start at a time and have not begun: by the broker, as their first epoch
        will ask it. One that could not be asked for every partition is absent."""
        new = {n: s for n, s in self.spikes.items() if _begins_at(s, view) and s.topic in survey.topics}
        asked: dict[datetime, set[Partition]] = defaultdict(set)
        for spike in new.values():
            assert isinstance(spike.start, datetime)
            asked[spike.start] |= set(survey.topics[spike.topic].offsets.partitions())
        found = {at: self._offsets_at(partitions, at) for at, partitions in asked.items()}
        mine = {
            name: (survey.topics[s.topic].offsets.partitions(), found[s.start])
            for name, s in new.items()
            if isinstance(s.start, datetime)
        }
        return {
            name: {p: offsets[p] for p in partitions}
            for name, (partitions, offsets) in mine.items()
            if offsets.keys() >= set(partitions)
        }

    def _offsets_at(self, partitions: Collection[Partition], at: datetime) -> Mapping[Partition, int]:
        try:
            return self.broker.offsets_at(partitions, at)
        except (Transient, TopicChanged, TopicMissing) as error:
            log.warning("where spikes begin that start at %s could not be asked: %s", at, error)
            return {}

    def _log_starts(self, survey: Survey, view: LagView) -> Mapping[str, tuple[Look, ...]]:
        """Of spikes that have not staged all of a topic from which Kafka deletes by size."""
        asked = [
            name
            for name, spike in self.spikes.items()
            if (seen := survey.topics.get(spike.topic))
            and seen.by_size
            and unstaged(spike, view.positions.get(name, {}), seen.offsets)
        ]
        try:
            return self.ledger.log_starts(asked, view.now - LOOK_BACK) if asked else {}
        except Transient as error:
            log.warning("how fast logs are deleted is told from the last minutes only: %s", error)
            return {}

    def _firsts(self, sights: "_Sights") -> "_Firsts":
        """The first record at or after each offset that a lagging spike stands at: those that are not
        committed and, where they differ, those that are not staged."""
        wanted: set[tuple[Partition, int]] = set()
        for spike in self.spikes.values():
            for behind in sights.behind(spike):
                wanted |= set(behind.items())
        records: dict[tuple[Partition, int], RecordTime | None] = {}
        problems: dict[tuple[Partition, int], str] = {}
        try:
            for one_each in _layers(wanted):
                seen = self.broker.first_records_after(one_each)
                records |= {(p, one_each[p]): record for p, record in seen.records.items()}
                problems |= {(p, one_each[p]): problem for p, problem in seen.problems.items()}
        except Transient as error:
            log.warning("the first unread records could not be read: %s", error)
            problems = dict.fromkeys(wanted - records.keys(), str(error)) | problems
        return _Firsts(records, problems)

    def _facts(
        self,
        spike: Spike,
        sights: "_Sights",
        firsts: "_Firsts",
        drivers: Mapping[str, tuple[ObservedDriver, ...]] | None,
    ) -> LagFacts:
        name, view, seen = spike.name, sights.view, sights.topic(spike)
        behind, unsafe = sights.behind(spike)
        return LagFacts(
            spike=spike,
            positions=view.positions.get(name, {}),
            topic=seen.offsets if seen else None,
            unobserved=sights.problem(spike),
            retention=seen.retention if seen else None,
            first_uncommitted=firsts.after(behind),
            first_unstaged=firsts.after(unsafe),
            unread_problems={**firsts.unseen(behind), **firsts.unseen(unsafe)},
            read=view.read.get(name, {}),
            life=_life(name, view, None if drivers is None else drivers.get(name, ())),
            waiting=view.waiting.get(name),
            last_commit_at=view.commits.get(name),
            created_at=view.created.get(name),
            restarts=tuple(r.cause for r in view.recoveries.get(name, ())),
            loss=view.losses.get(name),
            history=view.history.get(name, ()),
            by_size=bool(seen and seen.by_size),
            looks=sights.log_starts.get(name, ()),
            begins=sights.begins.get(name, {}),
            ends=view.ends.get(name, ()),
            watermarks=view.watermarks.get(name, ()),
            high_watermarks=seen.high_watermarks if seen else {},
            asked_at=sights.asked_at,
        )

    def _follow(self, reports: Mapping[str, LagReport], view: LagView) -> None:
        if self.mirror is None:
            return
        sums = {name: _committed(view.positions[name]) for name in reports if name in view.positions}
        stale = [name for name, total in sums.items() if view.mirrored.get(name) != total]
        groups = {group(name): committed(view.positions[name], reports[name].topic_id) for name in stale}
        try:
            refused = self.mirror.mirror(groups)
        except Transient as error:
            log.warning("consumer groups do not follow the ledger now: %s", error)
            return
        for name, reason in refused.items():
            log.warning("consumer group %s does not follow the ledger: %s", name, reason)
        self.ledger.mark_mirrored({name: None if group(name) in refused else sums[name] for name in stale})


@dataclass(frozen=True, slots=True)
class _Sights:
    """Broker and ledger side by side; the broker was asked after `asked_at`, by the ledger's clock."""

    survey: Survey
    view: LagView
    begins: Mapping[str, Mapping[Partition, int]]
    log_starts: Mapping[str, tuple[Look, ...]]
    asked_at: datetime

    def topic(self, spike: Spike) -> SurveyedTopic | None:
        """None where it is not there, or where a new spike begins in it is not known."""
        unknown = _begins_at(spike, self.view) and spike.name not in self.begins
        return None if unknown else self.survey.topics.get(spike.topic)

    def problem(self, spike: Spike) -> str | None:
        if spike.topic in self.survey.topics and self.topic(spike) is None:
            return f"topic {spike.topic}: the offsets at {spike.start:%Y-%m-%d %H:%M}Z could not be asked for"
        return self.survey.problems.get(spike.topic)

    def behind(self, spike: Spike) -> tuple[Mapping[Partition, int], Mapping[Partition, int]]:
        """Where it stands in lagging partitions: the first that is not committed, and not staged."""
        if (seen := self.topic(spike)) is None:
            return {}, {}
        positions, begins = self.view.positions.get(spike.name, {}), self.begins.get(spike.name)
        return (
            uncommitted(spike, positions, seen.offsets, begins),
            unstaged(spike, positions, seen.offsets, begins),
        )


def _begins_at(spike: Spike, view: LagView) -> bool:
    return isinstance(spike.start, datetime) and not view.positions.get(spike.name)


@dataclass(frozen=True, slots=True)
class _Firsts:
    """By partition and offset: spikes of one topic stand at offsets of their own."""

    records: Mapping[tuple[Partition, int], RecordTime | None]
    problems: Mapping[tuple[Partition, int], str]

    def after(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, RecordTime | None]:
        return {p: self.records[p, o] for p, o in offsets.items() if (p, o) in self.records}

    def unseen(self, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        return {p: self.problems[p, o] for p, o in offsets.items() if (p, o) in self.problems}


def _doubtful(name: str, survey: Survey, positions: Mapping[Partition, Position]) -> bool:
    if (seen := survey.topics.get(name)) is None:
        return name not in survey.problems
    return cut_off(positions, seen.offsets)


def _committed(positions: Mapping[Partition, Position]) -> int:
    return sum(position.committed_end for position in positions.values())


def _life(name: str, view: LagView, drivers: Iterable[ObservedDriver] | None) -> Life:
    restarted = (r.at for r in view.recoveries.get(name, ()))
    life = replace(_process(drivers), tried_at=(*view.opened.get(name, ()), *restarted))
    epoch = view.epochs.get(name)
    if epoch is None or epoch.state is not EpochState.OPEN:
        return life
    return replace(
        life,
        opened_at=epoch.opened_at,
        batch_started_at=epoch.batch_started_at,
        problem=epoch.problem,
    )


def _process(drivers: Iterable[ObservedDriver] | None) -> Life:
    if drivers is None:
        return Life(running=None)
    mine = tuple(drivers)
    return Life(
        running=any(d.state is not DriverState.EXITED for d in mine),
        started_at=max((d.started_at for d in mine), default=None),
    )


def _layers(wanted: Iterable[tuple[Partition, int]]) -> Iterable[Mapping[Partition, int]]:
    """The offsets as few mappings with one offset for each partition."""
    layers: list[dict[Partition, int]] = []
    for partition, offset in sorted(wanted):
        layer = next((found for found in layers if partition not in found), None)
        if layer is None:
            layers.append(layer := {})
        layer[partition] = offset
    return layers
