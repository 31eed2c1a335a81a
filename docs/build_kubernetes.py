"""Writes what docs/kubernetes.md says of states, causes and rungs: `python docs/build_kubernetes.py`.

The page's words are a person's; what stands between `generated` comments is asked of the code itself: each
row of the table of states is what `supervise_application` decides. `tests/docs/test_kubernetes.py` holds them
together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spike_pipelines.domain.application_facts import ApplicationFacts
from spike_pipelines.domain.application_supervision import supervise_application
from spike_pipelines.domain.causes import CAUSES, Trouble
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.ladder import LADDERS, TRANSITIONS
from spike_pipelines.domain.loops import LOOP, LOOP_ELSE
from spike_pipelines.domain.overlays import LASTS
from spike_pipelines.domain.sightings import Sighting
from spike_pipelines.domain.spark_application import STATES, AppState, ObservedApplication, StateRule
from spike_pipelines.domain.spike import Dataset, Location, Objectives, Resources, Spike, Start

PAGE = Path(__file__).parent / "kubernetes.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SPIKE = Spike(
    name="any",
    description="any",
    version="v1",
    topic="any",
    start=Start.EARLIEST,
    schema="a INT",
    filter=None,
    transform=None,
    trigger=MINUTE,
    max_offsets_per_trigger=100_000,
    max_staged_batches=4,
    driver=Resources(1, "1g"),
    executor=Resources(1, "1g"),
    staging=Location("b", "staging"),
    final=Location("b", "final"),
    dataset=Dataset("any", NOW),
    objectives=Objectives(MINUTE, MINUTE, MINUTE),
)
# Troubles that no single look at an operator's error text shows, and what does.
SEEN_ELSEWHERE: Mapping[Trouble, str] = {
    Trouble.STUCK: "longer in a state than its patience",
    Trouble.OUT_OF_MEMORY_CATCHING_UP: "3 times out of memory, and the lag says that it is catching up",
    Trouble.HUNG: "no heartbeat, no epoch, or no progress though records wait",
    Trouble.DELETED: "no resource, and there was one",
    Trouble.DRIFTED: "the driver that is heard says another version than the resource has",
    Trouble.UNSEEN: "the operator has submitted the same spec again, and what was in between cannot be read, "
    "or is only that it was killed",
}


def decided(state: AppState, rule: StateRule, *, late: bool, heard: bool) -> str:
    """`VERDICT: action` of a spike in this state."""
    patience = rule.patience if rule.patience is not None else MINUTE
    since = NOW - (patience + MINUTE if late else timedelta(0))
    suspended = state in {AppState.SUSPENDED, AppState.SUSPENDING}
    app = ObservedApplication(
        "any", "any", "u", "1", state, str(state), submission="s", submitted_at=since, spec_hash="v1",
        suspend=suspended,
    )  # fmt: skip
    epoch = Epoch(
        "any", 1, "n", "s", EpochState.OPEN, since, NOW if heard else NOW - 5 * MINUTE, phase=Phase.READING,
        application_version="v1",
    )  # fmt: skip
    facts = ApplicationFacts(
        SPIKE,
        app,
        Sighting("any", "u", str(state), since, "v1", since),
        None,
        epoch,
        (),
        (),
        NOW - 60 * MINUTE,
    )
    facts = facts if late or heard else replace(facts, epoch=None)
    decision = supervise_application(facts, NOW)
    return f"{decision.verdict}: {decision.action.noted}" if decision.action else str(decision.verdict)


def states() -> Iterable[str]:
    yield "| operator's state | what it is | patience | in time | late, driver silent | late, driver heard |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for state, rule in STATES.items():
        patience = "-" if rule.patience is None else f"{rule.patience.total_seconds():.0f} s"
        in_time = decided(state, rule, late=False, heard=False)
        silent, heard = (decided(state, rule, late=True, heard=h) for h in (False, True))
        name = f"`{state}`" if state else "(new)"
        yield f"| {name} | {rule.meaning} | {patience} | {in_time} | {silent} | {heard} |"


def causes() -> Iterable[str]:
    yield "| trouble | how it is known | acted on | ladder |"
    yield "| --- | --- | --- | --- |"
    signs = {rule.trouble: rule.sign for rule in CAUSES}
    for trouble in (*signs, *SEEN_ELSEWHERE):
        loop = f"{LOOP.get(trouble, LOOP_ELSE)} within 30 min" if trouble in {*signs, *LOOP} else "at once"
        loop = "`SUBMITTED` for too long" if trouble in {Trouble.IMAGE, Trouble.UNSCHEDULABLE} else loop
        ladder = " → ".join(LADDERS[trouble])
        yield f"| {trouble} | {signs.get(trouble) or SEEN_ELSEWHERE[trouble]} | {loop} | {ladder} |"


def diagram() -> Iterable[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    for rung, targets in TRANSITIONS.items():
        yield from (f"  {_node(rung)} --> {_node(target)}" for target in sorted(targets))
    yield "```"


def overlays() -> Iterable[str]:
    yield "| overlay | lasts |"
    yield "| --- | --- |"
    for kind, lasts in LASTS.items():
        yield f"| {kind} | {lasts.total_seconds() / 3600:.0f} h |"


def _node(rung: str) -> str:
    return rung.replace("-", "_")


PARTS = {"states": states, "causes": causes, "diagram": diagram, "overlays": overlays}


def built(page: str) -> str:
    """The page with its generated parts as the code is now."""
    for name, lines in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        body = "\n".join(lines())
        page, found = re.subn(
            f"{begin}\n.*?{end}", lambda _, b=begin, t=body, e=end: f"{b}\n{t}\n{e}", page, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"{PAGE.name} has {found} places '{begin}', and should have one")
    return page


if __name__ == "__main__":
    PAGE.write_text(built(PAGE.read_text()))
