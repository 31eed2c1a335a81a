"""Rows of the ledger's tables as the domain's values."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.domain.batch import Batch, BatchState, Counts, FileKind, FileState
from spike_pipelines.domain.binding import Binding
from spike_pipelines.domain.epochs import Epoch, EpochState, Phase
from spike_pipelines.domain.offsets import OffsetRange, Partition, Position
from spike_pipelines.domain.operations import Author, Move, Operation, OperationKind
from spike_pipelines.domain.overlays import Overlay, OverlayKind
from spike_pipelines.domain.promotion import LedgerFile
from spike_pipelines.domain.spike import Location
from spike_pipelines.domain.swap import Scope, Swap, SwapKind, SwapState

Row = sa.RowMapping


def epoch(row: Row) -> Epoch:
    return Epoch(
        spike=row["spike"],
        number=row["number"],
        nonce=row["nonce"],
        driver=row["driver"],
        state=EpochState(row["state"]),
        opened_at=row["opened_at"],
        heartbeat_at=row["heartbeat_at"],
        after=row["after"],
        phase=Phase(row["phase"]) if row["phase"] else None,
        problem=row["problem"],
        batch_started_at=row["batch_started_at"],
        progress_at=row["progress_at"],
        read={Partition(topic, topic_id, i): offset for topic, topic_id, i, offset in row["read_offsets"]},
        application_version=row["application_version"],
    )


def binding(row: Row) -> Binding:
    return Binding(
        topic=row["topic"],
        dataset=row["dataset"],
        staging=Location(row["staging_bucket"], row["staging_prefix"]),
        final=Location(row["final_bucket"], row["final_prefix"]),
        schema=row["schema"],
    )


def position(row: Row) -> Position:
    partition = Partition(row["topic"], row["topic_id"], row["partition"])
    return Position(
        partition,
        row["baseline"],
        row["staged_end"],
        row["committed_end"],
        closed=row["closed_by"] is not None,
    )


def offset_range(row: Row) -> OffsetRange:
    return OffsetRange(
        Partition(row["topic"], row["topic_id"], row["partition"]), row["start_offset"], row["end_offset"]
    )


def batch(row: Row, ranges: Iterable[OffsetRange]) -> Batch:
    return Batch(
        number=row["number"],
        spike=row["spike"],
        lane=row["lane"],
        epoch=row["epoch"] or 0,
        state=BatchState(row["state"]),
        ranges=tuple(sorted(ranges)),
        counts=Counts(
            row["records_read"],
            row["records_final"],
            row["records_dead_letter"],
            row["records_filtered"],
            row["records_unaccounted"],
        ),
        staged_at=row["staged_at"],
        committed_at=row["committed_at"],
        held_reason=row["held_reason"],
        application_version=row["application_version"],
        lost=row["lost"],
        removed=row["removed"],
        operation=row["operation"],
    )


def file(row: Row) -> LedgerFile:
    return LedgerFile(
        id=row["id"],
        batch=row["batch"],
        kind=FileKind(row["kind"]),
        hour=row["hour"],
        rows=row["rows"],
        size=row["size"],
        state=FileState(row["state"]),
        staging_key=row["staging_key"],
        staging_etag=row["staging_etag"],
        final_key=row["final_key"],
        final_etag=row["final_etag"],
        added=row["added"],
        removed=row["removed"],
    )


def operation(row: Row) -> Operation:
    return Operation(
        id=row["id"],
        at=row["at"],
        request=row["request"],
        spike=row["spike"],
        kind=OperationKind(row["kind"]),
        author=Author(row["who"], row["why"]),
        summary=row["summary"],
        batch=row["batch"],
        epoch=row["epoch"],
        sequence=row["sequence"],
        moves=tuple(
            Move(Partition(topic, topic_id, index), staged, committed, to)
            for topic, topic_id, index, staged, committed, to in row["moves"]
        ),
    )


def swap(row: Row) -> Swap:
    return Swap(
        number=row["number"],
        spike=row["spike"],
        dataset=row["dataset"],
        kind=SwapKind(row["kind"]),
        state=SwapState(row["state"]),
        who=row["who"],
        why=row["why"],
        application_version=row["application_version"],
        scope=Scope(row["since"], row["until"], row["reason"]),
        planned_at=row["planned_at"],
        batch=row["batch"],
        ended_at=row["ended_at"],
        problem=row["problem"],
        expected=row["records_expected"],
        elsewhere=row["records_elsewhere"] or 0,
        so_far=row["records_so_far"] or 0,
    )


def array(numbers: Collection[int]) -> sa.BindParameter[Sequence[int]]:
    """One parameter, however many there are."""
    return sa.bindparam(None, list(numbers), type_=sa.ARRAY(sa.BigInteger))


def load_batches(connection: sa.Connection, query: sa.Select[Any]) -> tuple[Batch, ...]:
    """The batches that `query` selects from `batches`, with their ranges, in its order (two statements)."""
    rows = connection.execute(query).mappings().all()
    ranges: Mapping[int, list[OffsetRange]] = defaultdict(list)
    if rows:
        r = s.batch_ranges
        wanted = sa.select(r).where(r.c.batch == sa.any_(array([row["number"] for row in rows])))
        for row in connection.execute(wanted).mappings():
            ranges[row["batch"]].append(offset_range(row))
    return tuple(batch(row, ranges[row["number"]]) for row in rows)


def overlay(row: sa.RowMapping) -> Overlay:
    values = dict(row)
    return Overlay(**(values | {"kind": OverlayKind(values["kind"])}))
