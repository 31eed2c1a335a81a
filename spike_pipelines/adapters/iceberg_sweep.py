"""Removing the metadata files that only expired snapshots needed."""

import logging
from collections.abc import Collection, Iterable, Sequence

from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from spike_pipelines.adapters.iceberg_history import Moment, linear, neighbours

log = logging.getLogger(__name__)


def sweep(table: Table, before: TableMetadata, moments: Sequence[Moment], expired: Collection[int]) -> None:
    """Delete manifest lists and manifests of `expired`, after the commit that expired them.

    Never data files. What cannot be deleted, or told apart because somebody rolled the table back, stays
    behind and costs a little storage: the commit stands either way, so this does not fail it.
    """
    if not expired or not linear(moments):
        return
    try:
        kept = _manifests(table.io, before, neighbours(moments, expired))
        lists = {s.manifest_list for i in expired if (s := before.snapshot_by_id(i)) is not None}
        doomed = lists | (_manifests(table.io, before, expired) - kept)
        # One by one: Arrow looks after the folder's marker object with each, and in parallel they stall.
        for path in sorted(doomed):
            table.io.delete(path)
    except OSError as error:
        log.warning("metadata of expired snapshots of %s stays behind: %s", table.name(), error)


def _manifests(io: FileIO, metadata: TableMetadata, snapshots: Iterable[int]) -> set[str]:
    found = (metadata.snapshot_by_id(snapshot) for snapshot in snapshots)
    return {m.manifest_path for s in found if s is not None for m in s.manifests(io)}
