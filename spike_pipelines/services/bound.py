"""Who acts on a spike's rows looks first whether its application file still names their places: files would
be removed where they are not, and written where nobody looks for them."""

from spike_pipelines.domain.binding import check_unmoved
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import Ledger, LedgerTransaction


def lock_bound(tx: LedgerTransaction, spike: Spike) -> None:
    """Nobody else decides on the spike until the transaction ends. Raises `SpecChanged`."""
    tx.lock_spike(spike.name, spike.dataset.name)
    check_unmoved(spike, tx.bound(spike.name))


def require_bound(ledger: Ledger, spike: Spike) -> None:
    """Raises `SpecChanged`, `Transient`."""
    with ledger.begin() as tx:
        check_unmoved(spike, tx.bound(spike.name))
