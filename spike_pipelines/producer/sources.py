"""Where records come from: made-up events of one topic, or the lines of a file."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import orjson

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.producer.events import MAKERS
from spike_pipelines.producer.records import Shares, make

log = logging.getLogger(__name__)
Now: TypeAlias = Callable[[], datetime]
MAX_LINE_BYTES = 1024 * 1024  # what a broker takes by default
MOST_TOLD = 5  # lines that become dead letters


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record for one topic. Kafka does not take a null value without a key."""

    key: bytes | None
    value: bytes | None
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, and which of the example topics its events are like."""

    name: str
    kind: str

    @classmethod
    def parse(cls, text: str) -> "Topic":
        """`crt.payout`, or `my.topic=crt.payout` for payout events in another topic."""
        name, _, kind = text.strip().partition("=")
        kind = kind or name
        if kind not in MAKERS:
            raise InvalidSpec(
                f"--topics: no events are known for '{kind}': one of {', '.join(MAKERS)}; "
                f"NAME={next(iter(MAKERS))} sends such events to topic NAME"
            )
        return cls(name, kind)


def events(
    topic: Topic, *, seed: int, numbers: Iterable[int], records: int | None, shares: Shares, now: Now
) -> Iterator[Outgoing]:
    """The events of these numbers, at most `records` of them; all if that is None."""
    for number in islice(numbers, records):
        record = make(topic.kind, seed, number, now(), shares)
        yield Outgoing(record.key, record.value, record.timestamp)


def lines(path: Path, *, key_field: str | None, now: Now) -> Iterator[Outgoing]:
    """The lines of a JSON-lines file as they are, but for empty ones; the first few that no spike can make a
    row of are told. Raises `InvalidSpec` with the line."""
    strange = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                value = line.rstrip(b"\r\n")
                if len(value) > MAX_LINE_BYTES:
                    raise InvalidSpec(
                        f"{path}:{number}: {len(value)} bytes; Kafka takes at most {MAX_LINE_BYTES}"
                    )
                if value and strange < MOST_TOLD and not _is_object(value):
                    strange += 1
                    log.warning("%s:%d: no JSON object: sent as it is, a dead letter", path, number)
                if value:
                    yield Outgoing(_key(value, key_field, f"{path}:{number}"), value, now())
    except OSError as error:
        raise InvalidSpec(f"--replay {path}: cannot be read: {error.strerror}") from error


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False


def _key(value: bytes, field: str | None, where: str) -> bytes | None:
    if field is None:
        return None
    try:
        found = orjson.loads(value)[field]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidSpec(
            f"{where}: no field '{field}' for the key: leave out --key, or mend the line"
        ) from error
    return found.encode() if isinstance(found, str) else orjson.dumps(found)
