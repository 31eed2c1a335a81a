"""Figures, the sentence at the end, and what makes a run fail."""

import json
from datetime import UTC, datetime

import pytest

from spike_pipelines.services.audit import Finding
from spike_pipelines.stack.chaos.balance import Balance
from spike_pipelines.stack.chaos.kinds import Kind
from spike_pipelines.stack.chaos.report import Report, Thrown, percentile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def thrown(
    number=0, kind=Kind.KILL_BROKER, *, effect=True, flight=True, recovery: float | None = 2.0
) -> Thrown:
    return Thrown(
        number,
        kind,
        "x",
        NOW,
        0.0,
        NOW if effect else None,
        ("s",) if flight else (),
        (f"s #{number}",) if flight else (),
        recovery,
    )


def report(**changes) -> Report:
    found = Report(seed=7, wanted=2, spikes=("s",), rate=100.0, snapshots=9, seconds=60.0)
    found.throws = [thrown(0), thrown(1, recovery=8.0), thrown(1, effect=False, flight=False, recovery=None)]
    found.balances = [Balance("s", acknowledged=1000, in_log=1001, filtered=3)]
    found.findings = [Finding("I1", "no record is lost", "1,000")]
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_good_run_says_so_in_one_sentence():
    assert report().breaches == ()
    assert report().sentence() == (
        "chaos ok: seed 7, 2 faults of 1 kinds with a batch in flight (2 batches were), "
        "1,000 records acknowledged, 0 lost, 0 duplicated, 0 misplaced, 0 partial views in 9 snapshots, "
        "1/1 audits ok; "
        "recovery p50 2.0 s, p99 8.0 s; 60 s"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"balances": [Balance("s", 1000, 1000, lost=1, breaches=("s: 1 records lost",))]},
        {"partial": ["payout #4: 1 live files are missing"]},
        {"findings": [Finding("I2", "no record is there twice", "2", ("again",))]},
        {"findings": [Finding("I9", "staged files", "not observed", observed=False)]},
        {"stuck": "no commit of s"},
        {"problems": ["reading the tables broke: KeyError"]},
        {"wanted": 3},
        {"snapshots": 0},
        {"balances": [Balance("s")]},
    ],
    ids=lambda change: str(next(iter(change.items()))),
)
def test_each_breach_and_each_thing_not_proven_fails_the_run(change):
    assert report(**change).breaches
    assert report(**change).sentence().startswith("chaos FAILED")


def test_figures_by_kind_tell_thrown_observed_and_in_flight():
    kinds = {k.kind: k for k in report().kinds}
    assert len(kinds) == len(Kind)
    broker = kinds[Kind.KILL_BROKER]
    assert (broker.thrown, broker.observed, broker.in_flight) == (3, 2, 2)
    assert (broker.recovery_p50, broker.recovery_p99) == (2.0, 8.0)
    assert kinds[Kind.KILL_STORE].recovery_p50 is None


def test_percentile_is_the_nearest_rank():
    values = [float(n) for n in range(1, 201)]
    assert (percentile(values, 50), percentile(values, 99)) == (100.0, 198.0)
    assert percentile([3.0], 99) == 3.0


def test_json_has_the_sentence_the_breaches_and_every_fault(tmp_path):
    report(stuck="x").write(tmp_path / "new" / "r.json")
    found = json.loads((tmp_path / "new" / "r.json").read_text())
    assert found["sentence"].startswith("chaos FAILED")
    assert found["breaches"] == ["stuck: x"]
    assert [t["number"] for t in found["throws"]] == [0, 1, 1]
    assert found["kinds"][0]["kind"] == "kill driver"
