"""The producer's command line: `spike produce`, and `python -m spike_pipelines.producer`."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from spike_pipelines.domain.errors import InvalidSpec, SpikeError
from spike_pipelines.producer.acks import Acks
from spike_pipelines.producer.events import MAKERS
from spike_pipelines.producer.numbers import Numbers
from spike_pipelines.producer.records import Shares
from spike_pipelines.producer.run import Loop, Outcome
from spike_pipelines.producer.sender import Sender
from spike_pipelines.producer.sources import Outgoing, Topic, events, lines
from spike_pipelines.producer.topics import ensure_topics, until_up

log = logging.getLogger("spike_pipelines.producer")


def produce(  # noqa: PLR0917  # each is an option; typer passes them by name
    bootstrap: Annotated[
        str, typer.Option(envvar="SPIKE_KAFKA_BOOTSTRAP", help="Kafka's address.", show_default=False)
    ],
    rate: Annotated[float, typer.Option(min=0, help="Records per second and topic; 0: no limit.")] = 100.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same events.")] = 1,
    first: Annotated[int, typer.Option(min=0, help="Number of the first event.")] = 0,
    records: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many per topic.", show_default="never")
    ] = None,
    topics: Annotated[
        str, typer.Option(help="Comma-separated topics; NAME=TOPIC sends events like TOPIC's to NAME.")
    ] = ",".join(MAKERS),
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Of topics that are created.")] = 2,
    malformed: Annotated[float, typer.Option(min=0, max=1, help="Share of broken records.")] = 0.001,
    late: Annotated[
        float, typer.Option(min=0, max=1, help="Share with a Kafka timestamp of up to 3 hours ago.")
    ] = 0.015,
    replay: Annotated[
        Path | None, typer.Option(help="Send this JSON-lines file instead of made-up events.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="The topic for --replay.")] = None,
    key: Annotated[
        str | None, typer.Option(help="With --replay: the field that is the record's key.")
    ] = None,
    acks_file: Annotated[
        Path | None, typer.Option(help="Append what was acknowledged: topic partition start end.")
    ] = None,
    numbers_file: Annotated[
        Path | None, typer.Option(help="Go on behind the events that were sent before, as this file says.")
    ] = None,
) -> None:
    """Send realistic events to Kafka, or replay a JSON-lines file."""
    _set_up_logging()
    stop = threading.Event()
    _stop_on_signals(stop)
    try:
        shares = Shares(malformed=malformed, late=late)
        if replay is not None:
            sources = _replay(replay, topic, key)
        else:
            wanted = [Topic.parse(text) for text in topics.split(",")]
            numbers = _numbers(first, numbers_file)
            sources = _made_up(wanted, seed=seed, numbers=numbers, records=records, shares=shares)
        acks = Acks(acks_file)
        until_up(lambda: ensure_topics(bootstrap, sources, partitions), stop)
        sender = until_up(lambda: Sender(bootstrap, acks), stop)
        try:
            outcome = Loop(sender, acks, stop).run(sources, rate=rate)
        finally:
            sender.close()
    except SpikeError as error:
        log.error("%s", error)  # noqa: TRY400  # the message is made for people; the traceback is not
        raise typer.Exit(1) from error
    _tell(outcome)
    raise typer.Exit(0 if outcome.complete else 1)


def _set_up_logging() -> None:
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s producer %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # its troubles are told once, by us


def _numbers(first: int, file: Path | None) -> Callable[[str], Iterable[int]]:
    """Topic → numbers of its events."""
    if file is None:
        return lambda _: count(first)
    return partial(Numbers(file).of, first=first)


def _made_up(
    topics: list[Topic],
    *,
    seed: int,
    numbers: Callable[[str], Iterable[int]],
    records: int | None,
    shares: Shares,
) -> Mapping[str, Iterator[Outgoing]]:
    return {
        t.name: events(t, seed=seed, numbers=numbers(t.name), records=records, shares=shares, now=_now)
        for t in topics
    }


def _replay(path: Path, topic: str | None, key: str | None) -> Mapping[str, Iterator[Outgoing]]:
    if topic is None:
        raise InvalidSpec("--replay needs --topic: the topic its lines are sent to")
    if not path.is_file():
        raise InvalidSpec(f"--replay {path}: no such file")
    return {topic: lines(path, key_field=key, now=_now)}


def _now() -> datetime:
    return datetime.now(UTC)


def _stop_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _tell(outcome: Outcome) -> None:
    counts = ", ".join(f"{topic} {n}" for topic, n in sorted(outcome.acknowledged.items())) or "nothing"
    log.info("acknowledged in all: %s", counts)
    for reason, number in outcome.refused.items():
        log.error("%d records were refused: %s", number, reason)
    if outcome.unanswered:
        log.error("%d records were never acknowledged, and may or may not be there", outcome.unanswered)
