"""From a trouble to one action: the next rung that is possible here, when its time has come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.ladder import Rung, next_step
from spike_pipelines.domain.observed import Recovery
from spike_pipelines.domain.overlays import (
    LASTS,
    NewOverlay,
    Overlay,
    OverlayKind,
    mebibytes,
    more_memory,
    smaller_batches,
    value_of,
)
from spike_pipelines.domain.spark_application import TERMINAL, ObservedApplication
from spike_pipelines.domain.spike import Spike
from spike_pipelines.domain.supervision import Action, ActionKind


@dataclass(frozen=True, slots=True)
class Wound:
    """A trouble with all that bears on what may be done about it. `works` says that the driver is heard
    all the same, so that nothing is done which would end it; `owner` is the driver to fence."""

    spike: Spike
    app: ObservedApplication | None
    trouble: Trouble
    cause: str
    works: bool
    owner: tuple[str, ...]
    recoveries: Sequence[Recovery]
    holding: Sequence[Overlay]
    worked_at: datetime | None
    stable: str | None
    manifest_known: bool
    on_demand: str | None


def climb(wound: Wound, now: datetime) -> tuple[Action | None, str]:
    """The action, None if it is not yet time or nothing is left, and the cause with what is to be said."""
    step = next_step(
        wound.spike.name,
        wound.trouble,
        wound.recoveries,
        possible=_possible(wound),
        worked_at=wound.worked_at,
        now=now,
    )
    if step.rung is None:
        return None, f"{wound.cause}; all that could be tried was tried: a person is needed"
    if step.at is not None and now < step.at:
        wait = (step.at - now).total_seconds()
        return None, f"{wound.cause}; {step.rung} in {wait:.0f} s (attempt {step.attempt})"
    return _action(wound, step.rung), wound.cause


def _possible(wound: Wound) -> frozenset[Rung]:
    if wound.works:
        return frozenset({Rung.KICK, Rung.PAGE})
    if wound.app is None:
        return frozenset({Rung.PAGE, *([Rung.RECREATE] if wound.manifest_known else [])})
    rungs = {Rung.KICK, Rung.RESTART, Rung.QUARANTINE, Rung.PAGE}
    return frozenset(rungs | {rung for rung, value in _VALUES.items() if value(wound) is not None})


def _memory(wound: Wound) -> str | None:
    """More than was laid, and than the resource has: somebody may have given it more than the file says."""
    configured, app = wound.spike.driver.memory, wound.app
    laid = mebibytes(value_of(wound.holding, OverlayKind.MEMORY) or configured)
    return more_memory(configured, max(laid, (app.driver_memory if app else None) or 0))


def _batches(wound: Wound) -> str | None:
    present = value_of(wound.holding, OverlayKind.SMALLER_BATCHES)
    return smaller_batches(wound.spike.max_offsets_per_trigger, None if present is None else int(present))


def _nodes(wound: Wound) -> str | None:
    return None if value_of(wound.holding, OverlayKind.ON_DEMAND) else wound.on_demand


def _last_stable(wound: Wound) -> str | None:
    """Where the present spec was never seen to work, and another one was."""
    if wound.app is None or wound.stable in {None, wound.app.deployed}:
        return None
    return None if value_of(wound.holding, OverlayKind.STABLE_SPEC) else wound.stable


_VALUES: Mapping[Rung, Callable[[Wound], str | None]] = {
    Rung.MORE_MEMORY: _memory,
    Rung.SMALLER_BATCHES: _batches,
    Rung.ON_DEMAND: _nodes,
    Rung.STABLE_SPEC: _last_stable,
}


def _action(wound: Wound, rung: Rung) -> Action:
    name = wound.spike.name
    if rung in {Rung.KICK, Rung.PAGE, Rung.RECREATE}:
        return Action(ActionKind(rung.value), name, rung=rung)
    if rung is Rung.RESTART:
        over = wound.app is not None and wound.app.state in TERMINAL
        return Action(ActionKind.RESUBMIT if over else ActionKind.RESTART, name, wound.owner, rung=rung)
    value = "suspend" if rung is Rung.QUARANTINE else _VALUES[rung](wound)
    assert value is not None  # what is not possible is not chosen
    return Action(ActionKind.OVERLAY, name, wound.owner, rung=rung, overlay=_overlay(wound, rung, value))


def _overlay(wound: Wound, rung: Rung, value: str) -> NewOverlay:
    kind = OverlayKind(rung.value)
    return NewOverlay(
        spike=wound.spike.name,
        kind=kind,
        value=value,
        cause=wound.cause,
        spec_hash=wound.app.deployed if wound.app else None,
        lasts=LASTS[kind],
    )
