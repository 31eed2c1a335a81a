"""An hour is backfilled by the command line on the whole stack, while its stream runs."""

import dagster as dg
import pytest
from test_stack import audited, published

from spike_pipelines import read as reading
from spike_pipelines.domain.swap import SwapKind, SwapState
from spike_pipelines.orchestration.assets import dataset_key, partition_key

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_an_hour_is_read_again_after_a_change_and_the_stream_goes_on(stack, spike, spec):
    """Of the rows, a new filter leaves those of one state."""
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    hour = reading.hours(spec.dataset.name).index[-1].to_pydatetime()
    file = stack.applications / f"{spike}.yaml"
    was = file.read_text()
    file.write_text(f"{was}\nfilter: state = 'paid'\n")
    committed = stack.committed(spike)
    try:
        arguments = ("--from", f"{hour:%Y-%m-%dT%H}", "--why", "only what is paid", "--wait")
        told = stack.run("backfill", spike, *arguments)
    finally:
        file.write_text(was)
    assert "1 of 1 hours" in told
    assert "the run ended: SUCCESS" in told
    assert stack.committed(spike) > committed, "the live stream went on"

    swap = next(s for s in stack.platform.ledger.swaps(spike, 9) if s.kind is SwapKind.BACKFILL)
    assert (swap.state, swap.scope.since, swap.why) == (SwapState.SWAPPED, hour, "only what is paid")
    state = next(d for d in stack.platform.ledger.datasets() if d.name == spec.dataset.name)
    live = stack.platform.ledger.live_files(state.name, state.sequence)
    mine = {f.final_key for f in live if f.batch == swap.batch}
    stack.await_("publication", lambda: published(stack, spec.dataset.name))
    frame = reading.read(spec.dataset.name, hour)
    assert not frame.duplicated(["kafka_partition", "kafka_offset"]).any()
    assert mine, "some payouts are paid"

    with dg.DagsterInstance.get() as instance:
        key = partition_key(hour)
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dataset_key(spec.dataset.name), asset_partitions=[key]), limit=50
        )
    assert any("swaps" in r.asset_materialization.metadata for r in records.records), "the partition turned"
    assert audited(stack) == []
