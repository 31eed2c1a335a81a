"""`spike backfill NAME --as NEW`: the topic of one spike read again into a dataset of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import typer

from spike_pipelines.adapters import yaml_document
from spike_pipelines.adapters.application_copy import check_copy, copy_application
from spike_pipelines.adapters.applications import load_application
from spike_pipelines.domain.batch import hour_text
from spike_pipelines.domain.fork import Fork
from spike_pipelines.domain.offsets import total
from spike_pipelines.domain.spike import Spike, Start
from spike_pipelines.domain.words import count_of
from spike_pipelines.platform import Platform
from spike_pipelines.services.operate import Request

TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`since` is None for all that Kafka has; without `staging` and `final` files go where the old spike's
    go, below a name of their own."""

    name: str
    since: datetime | None
    staging: str | None = None
    final: str | None = None

    def values(self, spike: Spike) -> Mapping[yaml_document.Path, str]:
        """What the new application file says otherwise than the old one."""
        found: dict[yaml_document.Path, str] = {
            ("start",): Start.EARLIEST if self.since is None else f"{self.since:{TIME}}"
        }
        if self.since is not None and self.since < spike.dataset.start:
            found["dataset", "start"] = f"{self.since:{TIME}}"
        if self.staging is not None:
            found["staging",] = self.staging
        if self.final is not None:
            found["final",] = self.final
        return found


def fork(platform: Platform, spike: Spike, wanted: Wanted, request: Request | None, *, dry_run: bool) -> None:
    """`request` accepts a loss. What is wrong with the new file is said before anything is written."""
    directory = platform.settings.applications_dir
    values = wanted.values(spike)
    new = check_copy(directory, name=wanted.name, like=spike.name, topic=spike.topic, more=values)
    found = platform.forker.look(spike, wanted.since, accept_loss=request is not None)
    typer.echo(told(spike, wanted, found))
    if dry_run:
        return
    platform.forker.begin(spike, new, found, request)
    path = copy_application(directory, name=wanted.name, like=spike.name, topic=spike.topic, more=values)
    typer.echo(next_steps(path, load_application(path)))


def told(spike: Spike, wanted: Wanted, found: Fork) -> str:
    begin = "the first record that Kafka has" if wanted.since is None else hour_text(wanted.since)
    offsets = count_of(total(found.pieces), "offset")
    text = (
        f"{wanted.name} reads {spike.topic} from {begin} on: {offsets} up to now, then "
        f"along with it; {spike.name} stays as it is"
    )
    if found.lost:
        text += f"\nwithout {found.told_loss()}: Kafka no longer has them, {spike.name} has"
    return text


def next_steps(path: Path, new: Spike) -> str:
    return (
        f"wrote {path}: dataset {new.dataset.name}, final {new.final.uri()}\n"
        "Next:\n"
        f"  1. edit {path}: description, schema, filter, transform\n"
        "  2. spike applications   (checks every file)\n"
        "  3. spike down && spike up   (starts a driver for it)\n"
        f"  4. spike lag {new.name}   (how far it is)"
    )
