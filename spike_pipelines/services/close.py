"""Closes hours of datasets: log ends are written down when an hour is due, and reached by commits later.

Killed before the ends are written down: the next look asks Kafka again. Killed before the hour is closed: the
next look closes it. Two that look at once write the same things once.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from spike_pipelines.domain.batch import ONE_HOUR, hour_of
from spike_pipelines.domain.closed import Behind, Closing, behind, due_at, due_hours, last_due
from spike_pipelines.domain.errors import Transient
from spike_pipelines.domain.offsets import Partition, Position, TopicOffsets
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Broker, DatasetHours, HoursLedger, HoursView, Surveyor

log = logging.getLogger(__name__)

MOST_HOURS = 1000  # of one dataset that one look begins to wait for; older ones follow an hour later


@dataclass(frozen=True, slots=True)
class HoursSeen:
    """Where a dataset's hours stand at `now`. `closed` is the newest closed hour; `waiting` the oldest that
    is not closed although it was due at `due_at`, with the partitions it waits for; if `unobserved`, nobody
    has seen Kafka's log ends since then. `problem` says what could not be observed now."""

    now: datetime | None
    closed: datetime | None = None
    waiting: datetime | None = None
    due_at: datetime | None = None
    behind: tuple[Behind, ...] = ()
    unobserved: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Closer:
    """`look` has no effect, `close` does what is due; both answer by spike."""

    ledger: HoursLedger
    broker: Broker
    surveyor: Surveyor
    spikes: Mapping[str, Spike]

    def look(self) -> Mapping[str, HoursSeen]:
        """What does not answer is a problem, never a closed hour (I12)."""
        try:
            return self._seen(self.ledger.hours_view(), {})
        except Transient as error:
            return self._blind(error)

    def close(self) -> Mapping[str, HoursSeen]:
        """Write down what is due, close what is reached. Most looks find nothing to do and write nothing."""
        try:
            view, problems = self.ledger.hours_view(), {}
            if due := self._due(view):
                problems = self._await(due, view.now)
                view = self.ledger.hours_view()
            if [name for name, dataset in self._mine(view).items() if self._close(dataset)]:
                view = self.ledger.hours_view()
            return self._seen(view, problems)
        except Transient as error:
            return self._blind(error)

    def _blind(self, error: Transient) -> Mapping[str, HoursSeen]:
        log.warning("hours were not looked at: %s", error)
        return dict.fromkeys(self.spikes, HoursSeen(None, problem=str(error)))

    def _mine(self, view: HoursView) -> Mapping[str, DatasetHours]:
        """By spike; datasets that no application file describes are left as they are."""
        found = {name: view.datasets.get(spike.dataset.name) for name, spike in self.spikes.items()}
        return {name: dataset for name, dataset in found.items() if dataset and dataset.spike == name}

    # log ends of what is due

    def _due(self, view: HoursView) -> Mapping[str, DatasetHours]:
        """Datasets with an hour whose time has come, by spike."""
        return {
            name: dataset
            for name, dataset in self._mine(view).items()
            if dataset.positions
            and (dataset.newest is None or dataset.newest < self._last(name, view.now))
            and self._last(name, view.now) >= hour_of(dataset.created_at)
        }

    def _last(self, name: str, now: datetime) -> datetime:
        return last_due(self.spikes[name].dataset.lateness, now)

    def _await(self, due: Mapping[str, DatasetHours], now: datetime) -> dict[str, str]:
        """Answers the spikes whose topic did not answer, with why. `now` is before the ends are asked for:
        what had arrived by then lies before them."""
        topics, problems = self._topics({self.spikes[name].topic for name in due})
        for name, dataset in due.items():
            if found := topics.get(self.spikes[name].topic):
                ends = {p: found.log_end[p.index] for p in found.partitions()}
                self._await_one(self.spikes[name], dataset, ends, now)
        nowhere = "topic {} does not exist: nothing tells what had arrived"
        missing = {name: self.spikes[name].topic for name in due if self.spikes[name].topic not in topics}
        return {name: problems.get(topic, nowhere.format(topic)) for name, topic in missing.items()}

    def _topics(self, names: set[str]) -> tuple[Mapping[str, TopicOffsets], Mapping[str, str]]:
        """One request for all. If it fails, a survey tells whose broker is down, and the others do not wait
        for it (I11). A survey's own ends would not do: they leave open transactions out."""
        try:
            return self.broker.topics(names), {}
        except Transient as error:
            log.warning("not all topics answered, those that do are asked again: %s", error)
        try:
            survey = self.surveyor.survey(names)
            return self.broker.topics(survey.topics), survey.problems
        except Transient as error:
            return {}, dict.fromkeys(names, str(error))

    def _await_one(
        self, spike: Spike, dataset: DatasetHours, ends: Mapping[Partition, int], now: datetime
    ) -> None:
        filed, known = self.ledger.filed_hours(dataset.dataset), self.ledger.known_hours(dataset.dataset)
        hours = due_hours(dataset.created_at, self._last(spike.name, now), filed, known)[-MOST_HOURS:]
        due = {hour: due_at(hour, spike.dataset.lateness) for hour in hours}
        self.ledger.await_ends(dataset.dataset, due, ends, now)

    # what is reached

    def _close(self, dataset: DatasetHours) -> bool:
        """Looked at again under the spike's lock: a rewind comes before or after, never in between."""
        if not _reached(dataset.waiting, dataset.positions):
            return False
        with self.ledger.begin() as tx:
            tx.lock_spike(dataset.spike, dataset.dataset)
            waiting = tx.waiting_hours(dataset.dataset)
            tx.close_hours(dataset.dataset, _reached(waiting, tx.ever_positions(dataset.spike)))
        return True

    def _seen(self, view: HoursView, problems: Mapping[str, str]) -> Mapping[str, HoursSeen]:
        mine, due = self._mine(view), self._due(view)
        seen = {name: HoursSeen(view.now, problem=problems.get(name)) for name in self.spikes}
        for name, dataset in mine.items():
            seen[name] = replace(seen[name], closed=dataset.closed)
            if dataset.waiting:
                oldest = dataset.waiting[0]
                short = behind(oldest.ends, dataset.positions)
                seen[name] = replace(seen[name], waiting=oldest.hour, due_at=oldest.due_at, behind=short)
            elif name in due:
                hour = dataset.newest + ONE_HOUR if dataset.newest else hour_of(dataset.created_at)
                at = due_at(hour, self.spikes[name].dataset.lateness)
                seen[name] = replace(seen[name], waiting=hour, due_at=at, unobserved=True)
        return seen


def _reached(waiting: Iterable[Closing], positions: Mapping[Partition, Position]) -> list[int]:
    return [c.id for c in waiting if not behind(c.ends, positions)]
