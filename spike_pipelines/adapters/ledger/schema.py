"""The ledger's tables. Constraints repeat what the services already check: the second line of defence."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.functions import GenericFunction

metadata = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s"})

Time = sa.DateTime(timezone=True)


class clock_timestamp(GenericFunction[Any]):  # noqa: N801 - PostgreSQL's name
    """The database's time. SQLAlchemy is told its type, so that every driver's answer is a `datetime`."""

    type = Time
    inherit_cache = True


_now = sa.func.clock_timestamp()

spikes = sa.Table(
    "spikes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    # The last answer other than success that a driver got: what a person looks for first.
    sa.Column("refused_at", Time),
    sa.Column("refused_code", sa.Text),
    sa.Column("refused_message", sa.Text),
    sa.Column("refused_driver", sa.Text),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("token_sha256", sa.Text, primary_key=True),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False, unique=True),
    # Past it the token is refused. The row stays, so that a revoked token is never registered anew.
    sa.Column("expires_at", Time),
    sa.Column("last_used_at", Time),
)

epochs = sa.Table(
    "epochs",
    metadata,
    sa.Column("spike", sa.Text, sa.ForeignKey("spikes.name"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("driver", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("opened_at", Time, nullable=False),
    sa.Column("heartbeat_at", Time, nullable=False),
    sa.Column("after", sa.BigInteger),
    sa.Column("phase", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Column("batch_started_at", Time),
    sa.Column("progress_at", Time),
    sa.Column("read_offsets", JSONB, nullable=False, server_default="[]"),
    sa.Column("application_version", sa.Text, nullable=False),
    sa.CheckConstraint("state in ('open', 'superseded', 'retired')", name="epochs_state"),
    sa.Index("one_open_epoch", "spike", unique=True, postgresql_where=sa.text("state = 'open'")),
    sa.Index(None, "spike", "driver"),
)

# What each epoch's application file said of the places that its rows are bound to.
bindings = sa.Table(
    "bindings",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("staging_bucket", sa.Text, nullable=False),
    sa.Column("staging_prefix", sa.Text, nullable=False),
    sa.Column("final_bucket", sa.Text, nullable=False),
    sa.Column("final_prefix", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    # True once a batch of the epoch was registered: before that nothing is bound to it.
    sa.Column("used", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.ForeignKeyConstraint(["spike", "epoch"], ["epochs.spike", "epochs.number"]),
)

# What people did to the ledger, for ever: the only way in which offsets go back or are skipped (I5).
operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    # Made by the caller, so that a commit of unknown outcome can be looked up.
    sa.Column("request", sa.Text, nullable=False, unique=True),
    sa.Column("spike", sa.Text, sa.ForeignKey("spikes.name"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False, server_default=_now),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("batch", sa.BigInteger),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("sequence", sa.BigInteger),
    # [topic, topic id, partition, staged end before, committed end before, both ends after]
    sa.Column("moves", JSONB, nullable=False, server_default="[]"),
    sa.CheckConstraint(
        "kind in ('release', 'discard', 'rewind', 'accept_loss', 'project')", name="operations_kind"
    ),
    sa.CheckConstraint("who <> '' and why <> ''", name="operations_who_why"),
    sa.Index(None, "spike", "at"),
    sa.Index(None, "batch"),
)

positions = sa.Table(
    "positions",
    metadata,
    sa.Column("spike", sa.Text, sa.ForeignKey("spikes.name"), primary_key=True),
    sa.Column("lane", sa.Text, primary_key=True),
    sa.Column("topic_id", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("baseline", sa.BigInteger, nullable=False),
    sa.Column("committed_end", sa.BigInteger, nullable=False),
    sa.Column("staged_end", sa.BigInteger, nullable=False),
    # The operation after which this topic id is read no more: the topic was deleted and made again.
    sa.Column("closed_by", sa.BigInteger, sa.ForeignKey("operations.id")),
    sa.CheckConstraint(
        "0 <= baseline and baseline <= committed_end and committed_end <= staged_end", name="positions_order"
    ),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("identity", sa.Text, nullable=False, unique=True),
    sa.Column("spike", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger),  # null for a swap's: no driver wrote it
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("records_read", sa.BigInteger, nullable=False),
    sa.Column("records_final", sa.BigInteger, nullable=False),
    sa.Column("records_dead_letter", sa.BigInteger, nullable=False),
    sa.Column("records_filtered", sa.BigInteger, nullable=False),
    sa.Column("application_version", sa.Text, nullable=False),
    sa.Column("staged_at", Time, nullable=False),
    sa.Column("committed_at", Time),
    sa.Column("held_reason", sa.Text),
    sa.Column("cleaned_at", Time),
    # read = final + dead letter + filtered + unaccounted (I8): what a person let pass.
    sa.Column("records_unaccounted", sa.BigInteger, nullable=False, server_default="0"),
    # Ranges that a person declared lost, without a record.
    sa.Column("lost", sa.Boolean, nullable=False, server_default=sa.false()),
    # The dataset's sequence number at which a rewind superseded the batch.
    sa.Column("removed", sa.BigInteger),
    sa.Column("operation", sa.BigInteger, sa.ForeignKey("operations.id")),
    sa.ForeignKeyConstraint(["spike", "epoch"], ["epochs.spike", "epochs.number"]),
    sa.CheckConstraint(
        "state in ('staged', 'intended', 'held', 'committed', 'aborted')", name="batches_state"
    ),
    sa.CheckConstraint("(state = 'committed') = (committed_at is not null)", name="batches_committed"),
    sa.CheckConstraint("removed is null or state = 'committed'", name="batches_removed"),
    sa.CheckConstraint(
        "operation is not null or lane <> 'live' or"
        " (state <> 'aborted' and removed is null and not lost and records_unaccounted = 0)",
        name="batches_audited",
    ),
    sa.CheckConstraint("(lane = 'live') = (epoch is not null)", name="batches_epoch"),
    # Small however many batches were ever committed: a drain looks at nothing else.
    sa.Index(
        "unfinished_batches",
        "spike",
        "lane",
        "number",
        postgresql_where=sa.text("state in ('staged', 'intended', 'held')"),
    ),
    sa.Index(
        "uncleaned_batches",
        "number",
        postgresql_where=sa.text("state = 'committed' and cleaned_at is null"),
    ),
    sa.Index(None, "spike", "committed_at"),
)

batch_ranges = sa.Table(
    "batch_ranges",
    metadata,
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), primary_key=True),
    sa.Column("topic_id", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("spike", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("start_offset", sa.BigInteger, nullable=False),
    sa.Column("end_offset", sa.BigInteger, nullable=False),
    # False once the batch is aborted or superseded: its offsets may then be read again.
    sa.Column("live", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("0 <= start_offset and start_offset < end_offset", name="batch_ranges_order"),
    sa.Index(
        "one_live_range",
        "spike",
        "lane",
        "topic_id",
        "partition",
        "start_offset",
        unique=True,
        postgresql_where=sa.text("live"),
    ),
    # Small: written when a batch is given up or superseded.
    sa.Index(
        "past_ranges",
        "topic_id",
        "partition",
        "start_offset",
        postgresql_where=sa.text("not live"),
    ),
)

batch_hours = sa.Table(
    "batch_hours",
    metadata,
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), primary_key=True),
    sa.Column("hour", Time, primary_key=True),
    sa.Column("records_final", sa.BigInteger, nullable=False),
    sa.Column("records_dead_letter", sa.BigInteger, nullable=False),
    sa.Column("records_filtered", sa.BigInteger, nullable=False),
    # A backfill asks which batches fed an hour.
    sa.Index(None, "hour"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("hour", Time, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # A staged object is registered once: two batches with the same file would commit its records twice.
    sa.Column("staging_key", sa.Text, nullable=False, unique=True),
    sa.Column("staging_etag", sa.Text, nullable=False),
    sa.Column("final_key", sa.Text, unique=True),
    sa.Column("final_etag", sa.Text),
    sa.Column("dataset", sa.Text),
    sa.Column("added", sa.BigInteger),
    sa.Column("removed", sa.BigInteger),
    # Retention's: when the final object was first deleted, and when it was deleted again for good.
    sa.Column("condemned_at", Time),
    sa.Column("swept_at", Time),
    sa.CheckConstraint("kind in ('final', 'dead_letter')", name="files_kind"),
    sa.CheckConstraint("state in ('staged', 'live', 'superseded', 'aborted')", name="files_state"),
    sa.CheckConstraint(
        "state <> 'live' or (final_key is not null and final_etag is not null and added is not null)",
        name="files_live",
    ),
    sa.CheckConstraint("condemned_at is null or state <> 'live'", name="files_condemned"),
    sa.CheckConstraint("(state = 'superseded') = (removed is not null)", name="files_superseded"),
    sa.Index(None, "batch"),
    sa.Index(None, "dataset", "added"),
    # Most files are never removed: their commits have one index less to write.
    sa.Index(None, "dataset", "removed", postgresql_where=sa.text("removed is not null")),
    sa.Index(None, "dataset", "hour"),
    # Retention asks for keys and for the beginnings of keys.
    sa.Index(None, "staging_key", postgresql_ops={"staging_key": "text_pattern_ops"}),
    sa.Index(
        "unswept_files",
        "state",
        "id",
        postgresql_where=sa.text("state <> 'live' and final_key is not null and swept_at is null"),
    ),
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("spike", sa.Text, sa.ForeignKey("spikes.name"), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("published", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reported", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint(
        "0 <= reported and reported <= published and published <= sequence", name="datasets_order"
    ),
)

commits = sa.Table(
    "commits",
    metadata,
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), nullable=False, unique=True),
    sa.Column("committed_at", Time, nullable=False),
    sa.Column("run_id", sa.Text),  # of the Dagster run that promoted it
)

swaps = sa.Table(
    "swaps",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("spike", sa.Text, sa.ForeignKey("spikes.name"), nullable=False),
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("application_version", sa.Text, nullable=False),
    sa.Column("since", Time),
    sa.Column("until", Time),
    sa.Column("reason", sa.Text),
    sa.Column("planned_at", Time, nullable=False),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), unique=True),
    sa.Column("ended_at", Time),
    sa.Column("problem", sa.Text),
    # Not of a replay: how many records its hour had when it was planned (its batch must have as many), and
    # those of other hours that it read beside them.
    sa.Column("records_expected", sa.BigInteger),
    sa.Column("records_elsewhere", sa.BigInteger),
    # A note for whoever waits: of its hour and others, how many it has read as yet.
    sa.Column("records_so_far", sa.BigInteger),
    # With which its batch was registered; null before that, and for swaps older than this column.
    sa.Column("schema", sa.Text),
    sa.CheckConstraint("(kind = 'replay') = (records_expected is null)", name="swaps_expected"),
    sa.CheckConstraint("kind in ('replay', 'backfill', 'earlier')", name="swaps_kind"),
    sa.CheckConstraint("state in ('planned', 'staged', 'swapped', 'aborted')", name="swaps_state"),
    sa.CheckConstraint(
        "case state when 'planned' then batch is null when 'aborted' then true else batch is not null end",
        name="swaps_batch",
    ),
    sa.CheckConstraint("(state in ('swapped', 'aborted')) = (ended_at is not null)", name="swaps_ended"),
    sa.Index("open_swaps", "spike", postgresql_where=sa.text("state in ('planned', 'staged')")),
)

swap_files = sa.Table(
    "swap_files",
    metadata,
    sa.Column("swap", sa.BigInteger, sa.ForeignKey("swaps.number"), primary_key=True),
    sa.Column("file", sa.BigInteger, sa.ForeignKey("files.id"), primary_key=True),
    # False once the swap is aborted: another one may then replace the file.
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Index("one_swap_of_a_file", "file", unique=True, postgresql_where=sa.text("held")),
)

# The drivers' batches whose ranges a backfill reads again, those of which it takes only filtered records too.
swap_sources = sa.Table(
    "swap_sources",
    metadata,
    sa.Column("swap", sa.BigInteger, sa.ForeignKey("swaps.number"), primary_key=True),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.number"), primary_key=True),
    sa.Index(None, "batch"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
)

recoveries = sa.Table(
    "recoveries",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("spike", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Index(None, "spike", "at"),
)

# What the supervisor remembers of each SparkApplication: since when it is as it is. A note, not a record.
# The row of `*` is the look itself: its uid is the version of the cluster that the other rows are of.
sightings = sa.Table(
    "sightings",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("since", Time, nullable=False),
    sa.Column("spec_hash", sa.Text),
    sa.Column("spec_since", Time, nullable=False),
    # [submission, seen at (ISO 8601), how it ended, its pod's uid], the last few, oldest first
    sa.Column("lives", JSONB, nullable=False, server_default="[]"),
)

# Specs that were deployed: to make a deleted resource again, to go back to the last one that worked.
specs = sa.Table(
    "specs",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, primary_key=True),  # digest as rendered, a dot, digest as it was first seen
    sa.Column("manifest", JSONB, nullable=False),
    sa.Column("seen_at", Time, nullable=False, server_default=_now),
    sa.Column("stable_at", Time),
)

# What the supervisor lays over a deployed spec for a while.
overlays = sa.Table(
    "overlays",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("spike", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("before", sa.Text),  # what it replaced, as JSON; null: there was nothing
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("spec_hash", sa.Text),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("ended_at", Time),
    sa.CheckConstraint("created_at < expires_at", name="overlays_expire"),
    sa.Index("open_overlays", "spike", postgresql_where=sa.text("ended_at is null")),
)

# The newest look at each spike's lag: what `/metrics` shows and what a look compares itself with.
lag_latest = sa.Table(
    "lag_latest",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("observed_at", Time, nullable=False),
    sa.Column("report", JSONB, nullable=False),
    # The committed ends (their sum) that the consumer group has; null: not known, write them again.
    sa.Column("mirrored", sa.BigInteger),
)

# Rings: a slot is written over when its time comes again, so the table never grows beyond its slots.
lag_history = sa.Table(
    "lag_history",
    metadata,
    sa.Column("spike", sa.Text, primary_key=True),
    sa.Column("step_seconds", sa.Integer, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("topic_id", sa.Text),
    sa.Column("log_start", sa.BigInteger, nullable=False),
    sa.Column("log_end", sa.BigInteger, nullable=False),
    sa.Column("staged_end", sa.BigInteger, nullable=False),
    sa.Column("committed_end", sa.BigInteger, nullable=False),
    sa.Column("lag", sa.BigInteger),
    sa.Column("staged_lag", sa.BigInteger),
    sa.Column("read_lag", sa.BigInteger),
    sa.Column("lag_seconds", sa.Float),
    sa.Column("time_to_loss_seconds", sa.Float),
    # By partition number: how fast each log is deleted.
    sa.Column("log_starts", ARRAY(sa.BigInteger), nullable=False, server_default=sa.text("'{}'")),
    sa.Column("staged_ends", ARRAY(sa.BigInteger), nullable=False, server_default=sa.text("'{}'")),
)

losses = sa.Table(
    "losses",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("spike", sa.Text, nullable=False),
    sa.Column("seen_at", Time, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    # All that is missing, each offset once, so that a second loss is told from the first one seen again.
    sa.Column("ranges", JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("acknowledged_at", Time),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("why", sa.Text),
    sa.CheckConstraint(
        "(acknowledged_at is null) = (acknowledged_by is null) and (acknowledged_at is null) = (why is null)",
        name="losses_acknowledged",
    ),
    sa.Index("one_open_loss", "spike", unique=True, postgresql_where=sa.text("acknowledged_at is null")),
)

# When each of the platform's own duties last succeeded: who watches the watcher.
duties = sa.Table(
    "duties",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("succeeded_at", Time, nullable=False),
)

# Hours of datasets that are closed, or wait for what had arrived when they were due. A row stays: one that
# an operation reopened is followed by another.
closings = sa.Table(
    "closings",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("dataset", sa.Text, sa.ForeignKey("datasets.name"), nullable=False),
    sa.Column("hour", Time, nullable=False),
    sa.Column("due_at", Time, nullable=False),
    # Before Kafka was asked for its log ends: [topic, topic id, partition, end].
    sa.Column("observed_at", Time, nullable=False),
    sa.Column("ends", JSONB, nullable=False),
    sa.Column("closed_at", Time),
    # The dataset's sequence number when it was closed: what is added to the hour later is late.
    sa.Column("sequence", sa.BigInteger),
    # The sequence number up to which an event has told of the hour.
    sa.Column("told", sa.BigInteger),
    sa.Column("reopened_by", sa.BigInteger, sa.ForeignKey("operations.id")),
    sa.CheckConstraint("due_at <= observed_at", name="closings_due"),
    sa.CheckConstraint("(closed_at is null) = (sequence is null)", name="closings_closed"),
    sa.CheckConstraint("told is null or told >= sequence", name="closings_told"),
    sa.CheckConstraint("reopened_by is null or closed_at is not null", name="closings_reopened"),
    sa.Index("one_closing", "dataset", "hour", unique=True, postgresql_where=sa.text("reopened_by is null")),
    sa.Index("open_closings", "dataset", postgresql_where=sa.text("closed_at is null")),
    sa.Index(None, "dataset", "told"),
    sa.Index(
        "untold_closings",
        "dataset",
        postgresql_where=sa.text("closed_at is not null and told is null and reopened_by is null"),
    ),
)
