"""Why a driver is in trouble: one table of rules over what Kubernetes and the operator say.

The first rule that matches names the trouble, and the trouble chooses the ladder (`domain/ladder.py`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from spike_pipelines.domain.exits import Exit
from spike_pipelines.domain.spark_application import ENDING, AppState, ObservedApplication, PodSight


class Trouble(StrEnum):
    STUCK = "stuck"  # the operator does not go on
    ENDED = "ended"  # the operator is done with a stream that has no end
    CRASHING = "crashing"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_MEMORY_CATCHING_UP = "out of memory while catching up"
    EVICTED = "evicted"
    IMAGE = "no image"
    UNSCHEDULABLE = "unschedulable"
    INVALID = "invalid"  # application file or environment: a person mends it, or the last stable spec does
    REFUSED = "refused"  # the topic changed or records are lost: only a person decides
    HUNG = "hung"
    DELETED = "deleted"
    DRIFTED = "drifted"  # the driver runs another spec than its resource has
    TWO_DRIVERS = "two drivers"
    UNSEEN = "unseen"  # between two looks; the operator has submitted again


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one submission left: the operator's error text, its state and, of a suspect, the driver pod."""

    app: ObservedApplication
    pod: PodSight | None = None

    @property
    def exit_code(self) -> int | None:
        if self.pod is not None and self.pod.exit_code is not None:
            return self.pod.exit_code
        found = re.search(r"ExitCode: (\d+)", self.app.error)
        return int(found[1]) if found else None

    def says(self, *words: str) -> bool:
        pod = self.pod
        texts = [self.app.error]
        if pod is not None:
            texts += [pod.reason, pod.message, pod.waiting, pod.terminated, pod.disrupted]
        return any(word in text for word in words for text in texts)


@dataclass(frozen=True, slots=True)
class CauseRule:
    trouble: Trouble
    sign: str  # what a person would look for
    holds: Callable[[Evidence], bool]


_MOST_TOLD = 500  # characters

CAUSES: Sequence[CauseRule] = (
    CauseRule(
        Trouble.OUT_OF_MEMORY,
        "`OOMKilled`, `java.lang.OutOfMemoryError`, exit 52",
        lambda e: e.says("OOMKilled", "OutOfMemoryError") or _ended_with(e, 52),
    ),
    CauseRule(
        Trouble.EVICTED,
        "`Evicted`, `Preempt…`, `NodeLost`, `NodeShutdown`, `TerminationByKubelet`, `DeletionByTaintManager`",
        lambda e: e.says(
            "Evicted", "Preempt", "NodeLost", "NodeShutdown", "TerminationByKubelet", "DeletionByTaintManager"
        ),
    ),
    CauseRule(
        Trouble.IMAGE,
        "`ErrImagePull`, `ImagePullBackOff`, `InvalidImageName`",
        lambda e: e.says("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
    ),
    CauseRule(Trouble.UNSCHEDULABLE, "`Unschedulable`", lambda e: e.says("Unschedulable")),
    CauseRule(Trouble.TWO_DRIVERS, f"exit {int(Exit.FENCED)}", lambda e: _ended_with(e, Exit.FENCED)),
    CauseRule(Trouble.REFUSED, f"exit {int(Exit.REFUSED)}", lambda e: _ended_with(e, Exit.REFUSED)),
    CauseRule(
        Trouble.INVALID,
        f"exit {int(Exit.INVALID)}, `CreateContainerConfigError`",
        lambda e: _ended_with(e, Exit.INVALID) or e.says("CreateContainerConfigError"),
    ),
    CauseRule(
        Trouble.CRASHING,
        "any other failure",
        lambda e: e.app.state in {AppState.FAILING, AppState.FAILED} or bool(e.exit_code),
    ),
    CauseRule(Trouble.ENDED, "ended well", lambda e: e.app.state in ENDING),
)


KILLED = frozenset({128 + 9, 128 + 15})  # SIGKILL, SIGTERM


def untold(evidence: Evidence) -> bool:
    """Whether its error text alone does not tell why it ended: it was killed. Its pod would say by whom, such
    as by a kubelet that evicts it."""
    killed = evidence.pod is None and evidence.exit_code in KILLED
    return killed and trouble_of(evidence) is Trouble.CRASHING


def trouble_of(evidence: Evidence) -> Trouble | None:
    """None while nothing speaks of trouble: a driver that runs, or one that is only being started."""
    return next((rule.trouble for rule in CAUSES if rule.holds(evidence)), None)


def _told(error: str) -> str:
    """Of a submission that failed the operator keeps its whole log: what the API server said, or else the
    line with the exception."""
    lines = error.strip().splitlines() or [""]
    told = next((line for line in lines if line.startswith("Exception in thread")), lines[0])
    said = re.search(r" Message: (.+?)\.? Received status:", told)
    return (said[1] if said else told)[:_MOST_TOLD]


def in_words(evidence: Evidence) -> str:
    """What was seen, for a person: `driver container failed with ExitCode: 137, Reason: OOMKilled`."""
    pod = evidence.pod
    if evidence.app.error:
        return _told(evidence.app.error)
    if pod is None:
        return f"the operator says {evidence.app.state_text or 'nothing yet'}"
    said = [pod.waiting, pod.terminated, pod.reason, pod.disrupted, pod.message]
    code = "" if pod.exit_code is None else f"exit {pod.exit_code}"
    return ": ".join(dict.fromkeys(text for text in (*said, code) if text)) or f"pod {pod.phase}"


def _ended_with(evidence: Evidence, code: int) -> bool:
    return evidence.exit_code == code
