"""The stand-in for the operator: its states, on both API servers. The kubelet's part is the test's."""

from datetime import UTC, datetime, timedelta

import pytest
from reconciler import Reconciler, SubmissionFailed

from spike_pipelines.domain.errors import ObjectMissing

POLICY = {"type": "Always", "onFailureRetryInterval": 10, "onSubmissionFailureRetryInterval": 10}
POD = "payouts-driver"


class Operated:
    """A site whose operator is the stand-in; submissions are pods that no node has."""

    def __init__(self, site):
        self.site, self.at, self.refusal = site, datetime.now(UTC), ""
        self.operator = Reconciler(site.api, site.namespace, self.submit, lambda: self.at)
        site.deploy(restartPolicy=POLICY)

    def submit(self, app, submission):
        if self.refusal:
            raise SubmissionFailed(self.refusal)
        self.site.pod(submission, app["metadata"]["name"], phase="Pending")

    def look(self, times=1, seconds=0):
        self.at += timedelta(seconds=seconds)
        for _ in range(times):
            self.operator.reconcile()
            self.site.settle()
        return self.status["applicationState"]["state"]

    @property
    def status(self):
        return self.site.get()["status"]

    def seen(self):
        (app,) = self.site.cluster.applications()
        return app

    def passed(self, since):
        """The states that no look saw."""
        return [then.state for then in self.site.cluster.history(self.seen(), since.as_of)]

    def pod_is(self, phase, code=None, reason="Error"):
        self.site.pod_is(phase, code, reason)

    def pod(self):
        return self.site.api.get(f"{self.site.pods}/{POD}")["metadata"]["uid"]


@pytest.fixture
def operated(site):
    return Operated(site)


def running(operated):
    operated.look()
    operated.pod_is("Running")
    assert operated.look() == "RUNNING"
    return operated.status["submissionID"]


def test_a_new_application_is_submitted_and_follows_its_driver(operated):
    assert operated.look() == "SUBMITTED"
    assert operated.status["driverInfo"] == {"podName": POD}
    assert operated.look() == "SUBMITTED"
    operated.pod_is("Running")
    assert operated.look() == "RUNNING"
    (app,) = operated.site.cluster.applications()
    assert (app.state, app.submission, app.driver_pod) == ("RUNNING", operated.status["submissionID"], POD)


def test_a_driver_that_failed_is_told_as_the_operator_tells_it_and_run_again_after_the_wait(operated):
    first, pod = running(operated), operated.pod()
    operated.pod_is("Failed", 137, "OOMKilled")
    assert operated.look() == "FAILING"
    error = operated.status["applicationState"]["errorMessage"]
    assert error == "driver container failed with ExitCode: 137, Reason: OOMKilled"
    assert operated.look(seconds=9) == "FAILING"
    before = operated.seen()
    assert operated.look(seconds=2) == "SUBMITTED"
    assert operated.passed(before) == ["PENDING_RERUN"]
    assert operated.status["submissionID"] != first
    assert operated.pod() != pod
    assert (operated.status["submissionAttempts"], operated.status["executionAttempts"]) == (2, 2)


def test_how_a_driver_ended_that_outlived_its_wait_is_gone_before_anybody_looks(operated):
    first, before = running(operated), operated.seen()
    operated.pod_is("Failed", 137, "OOMKilled")
    assert operated.look(seconds=11) == "SUBMITTED"
    assert operated.status["submissionID"] != first
    assert not operated.status["applicationState"].get("errorMessage")
    assert operated.passed(before) == ["FAILING", "PENDING_RERUN"]


def test_the_wait_grows_with_the_attempts(operated):
    for seconds in (11, 21):
        running(operated)
        operated.pod_is("Failed", 1)
        assert operated.look() == "FAILING"
        assert operated.look(seconds=seconds - 2) == "FAILING"
        assert operated.look(seconds=2) == "SUBMITTED"


def test_a_stream_that_ended_well_is_run_again_at_once(operated):
    running(operated)
    operated.pod_is("Succeeded", 0, "Completed")
    assert operated.look() == "SUCCEEDING"
    assert operated.look() == "SUBMITTED"


def test_a_driver_pod_deleted_by_hand_is_made_again(operated):
    running(operated)
    operated.site.api.delete(f"{operated.site.pods}/{POD}")
    assert operated.look() == "FAILING"
    assert operated.status["applicationState"]["errorMessage"] == "driver pod not found"
    assert operated.look(seconds=11) == "SUBMITTED"
    assert operated.pod()


def test_what_is_suspended_has_no_driver_until_it_is_resumed(operated):
    running(operated)
    operated.site.change("payouts", {"spec": {"suspend": True}})
    assert operated.look() == "SUSPENDING"
    assert operated.look() == "SUSPENDED"
    with pytest.raises(ObjectMissing):
        operated.pod()
    assert operated.look() == "SUSPENDED"
    operated.site.change("payouts", {"spec": {"suspend": False}})
    assert operated.look() == "RESUMING"
    assert operated.look() == "SUBMITTED"


def test_another_spec_ends_the_driver_and_counts_attempts_from_nothing(operated):
    running(operated)
    operated.site.change("payouts", {"spec": {"driver": {"memory": "1g"}}})
    assert operated.look() == "INVALIDATING"
    assert operated.look() == "SUBMITTED"
    assert operated.status["submissionAttempts"] == 1


def test_a_submission_that_fails_is_tried_again(operated):
    operated.refusal = "Exception in thread main"
    assert operated.look() == "SUBMISSION_FAILED"
    assert operated.refusal in operated.status["applicationState"]["errorMessage"]
    operated.refusal = ""
    assert operated.look(seconds=9) == "SUBMISSION_FAILED"
    assert operated.look(seconds=2) == "SUBMITTED"


def test_an_event_that_was_lost_leaves_it_stuck_until_somebody_writes_an_annotation(operated):
    running(operated)
    operated.pod_is("Failed", 1)
    operated.operator.lose("payouts")
    operated.look(2, seconds=11)
    assert operated.look(3, seconds=600) == "PENDING_RERUN"
    operated.site.cluster.kick(operated.site.cluster.applications()[0])
    assert operated.look() == "SUBMITTED"


def test_an_application_that_is_gone_is_no_error(operated):
    running(operated)
    operated.site.delete()
    operated.operator.reconcile()
    assert operated.site.cluster.applications() == ()
