"""What the operator itself made of applications, as `record.py` wrote it down, seen and judged."""

import json
from pathlib import Path

import pytest

from spike_pipelines.adapters.kubernetes import fields
from spike_pipelines.domain.application_facts import newest
from spike_pipelines.domain.causes import Evidence, Trouble, in_words, trouble_of
from spike_pipelines.domain.spark_application import AppState

RECORDED = Path(__file__).parent / "recorded"
LINES = [json.loads(line) for path in RECORDED.glob("*.jsonl") for line in path.read_text().splitlines()]
NEVER_SHOWN = {AppState.UNSEEN, AppState.UNKNOWN}  # ours; the operator's, for a node that does not answer

BEGINS = [AppState.NEW, AppState.SUBMITTED, AppState.RUNNING]
AGAIN = [AppState.FAILING, AppState.PENDING_RERUN]
STORIES = {
    # killed, then deleted and made again, then robbed of its servers
    "pods-v1-1-0": [*BEGINS, *AGAIN, *BEGINS[1:], *BEGINS, *AGAIN],
    "hungry-v1-1-0": [*BEGINS, *AGAIN, *BEGINS[1:], *AGAIN],
    "refused": [AppState.NEW, AppState.SUBMISSION_FAILED],
    "no-image": BEGINS[:2],
    "too-large": BEGINS[:2],
    "ends-well": [*BEGINS, AppState.SUCCEEDING, AppState.PENDING_RERUN, *BEGINS[1:]],
    "ends-once": [*BEGINS, AppState.SUCCEEDING, AppState.COMPLETED],
    "fails-once": [*BEGINS, AppState.FAILING, AppState.FAILED],
    # suspended, resumed, given another spec, its pod deleted
    "long": [
        *BEGINS, AppState.SUSPENDING, AppState.SUSPENDED, AppState.RESUMING, *BEGINS[1:],
        AppState.INVALIDATING, AppState.PENDING_RERUN, *BEGINS[1:],
        *AGAIN, *BEGINS[1:],
    ],
}  # fmt: skip


def applications(story):
    mine = [one for one in LINES if one["story"] == story and one["kind"] == "SparkApplication"]
    return [fields.application(one) for one in mine]


def evidence(story):
    """At each line of a story: the newest application, and its driver's pod as it was then."""
    app, pods = None, {}
    for one in LINES:
        if one["story"] != story:
            continue
        if one["kind"] == "Pod":
            _, _, pod = fields.pod(one)
            pods[pod.uid] = pod
        else:
            app = fields.application(one)
        if app is not None:
            yield Evidence(app, newest(tuple(pods.values()), app.submission))


def test_every_state_that_it_can_show_was_recorded_and_is_known():
    seen = {app.state for story in STORIES for app in applications(story)}
    assert seen == set(AppState) - NEVER_SHOWN
    assert {one["story"] for one in LINES} == set(STORIES)


@pytest.mark.parametrize("story", STORIES)
def test_each_story_goes_through_the_states_that_supervision_counts_on(story):
    seen = applications(story)
    assert not [app.problem for app in seen if app.problem]
    states = [app.state for app in seen]
    assert [s for s, before in zip(states, [None, *states], strict=False) if s is not before] == STORIES[
        story
    ]


@pytest.mark.parametrize(
    ("story", "trouble", "words"),
    [
        ("hungry-v1-1-0", Trouble.OUT_OF_MEMORY, "ExitCode: 137, Reason: OOMKilled"),
        ("no-image", Trouble.IMAGE, "ErrImageNeverPull"),
        ("too-large", Trouble.UNSCHEDULABLE, "Insufficient cpu"),
        ("fails-once", Trouble.CRASHING, "ExitCode: 1"),
        ("ends-once", Trouble.ENDED, "Completed"),
    ],
)
def test_the_cause_of_what_went_wrong_is_found(story, trouble, words):
    found = [one for one in evidence(story) if trouble_of(one) is trouble]
    assert any(words in in_words(one) for one in found)


def test_of_a_submission_that_failed_a_person_reads_the_reason_and_no_log():
    last = list(evidence("refused"))[-1]
    assert in_words(last) == (
        'pods "refused-driver" is forbidden: error looking up service account tries/nobody: '
        'serviceaccount "nobody" not found'
    )
