"""Events as Kafka records: encoded, some drifted from the schema, some late, a few broken."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import orjson

from spike_pipelines.producer.dice import Dice
from spike_pipelines.producer.events import MAKERS, REQUIRED, Draft

DRIFT_SHARE = 0.05  # events with a field the schema does not know, or without an optional one
MAX_LATE = timedelta(hours=3)
_JSON = orjson.OPT_UTC_Z


class Flaw(StrEnum):
    """What is wrong with a malformed record. Each must end as a dead letter."""

    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    EMPTY = "empty"
    NULL = "null"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"


@dataclass(frozen=True, slots=True)
class Shares:
    """How many in one of the records of a topic are malformed, and how many have a late Kafka timestamp."""

    malformed: float = 0.001
    late: float = 0.015


@dataclass(frozen=True, slots=True)
class Record:
    """`timestamp` is Kafka's CreateTime; `flaw` says what is wrong, for who counts dead letters."""

    key: bytes
    value: bytes | None
    timestamp: datetime
    flaw: Flaw | None


def make(kind: str, seed: int, number: int, at: datetime, shares: Shares) -> Record:
    """Record `number` of a topic of this kind, for the moment `at`."""
    dice = Dice(seed, kind, number)
    draft = MAKERS[kind](dice, at)
    fate = Dice(seed, f"{kind}/fate", number)
    timestamp = at
    if fate.chance(shares.late):
        timestamp -= timedelta(seconds=fate.below(int(MAX_LATE.total_seconds())))
    if fate.chance(shares.malformed):
        flaw = fate.pick(tuple(Flaw))
        return Record(draft.key.encode(), _SPOIL[flaw](kind, draft), timestamp, flaw)
    if fate.chance(DRIFT_SHARE):
        _drift(kind, draft, fate)
    return Record(draft.key.encode(), orjson.dumps(draft.fields, option=_JSON), timestamp, None)


def _drift(kind: str, draft: Draft, dice: Dice) -> None:
    """What other teams' releases do to events without a word."""
    if dice.chance(0.5):
        draft.fields["sdk_version"] = f"{7 + dice.below(3)}.{dice.below(20)}"
        draft.fields["extra"] = {"trace": dice.hex(16), "flags": [dice.below(9)]}
        return
    optional = [name for name in draft.fields if name not in REQUIRED[kind]]
    del draft.fields[dice.pick(optional)]


def _encoded(draft: Draft) -> bytes:
    return orjson.dumps(draft.fields, option=_JSON)


def _truncated(_: str, draft: Draft) -> bytes:
    value = _encoded(draft)
    return value[: len(value) * 2 // 3]


def _not_utf8(_: str, draft: Draft) -> bytes:
    """Invalid inside a key, so that a lenient decoder cannot make a good record of it."""
    return b'{"\xff\xfe' + _encoded(draft)[2:-3]


def _wrong_type(_: str, draft: Draft) -> bytes:
    draft.fields["event_time"] = {"when": "yesterday"}
    return _encoded(draft)


def _missing_field(kind: str, draft: Draft) -> bytes:
    del draft.fields[REQUIRED[kind][0]]
    return _encoded(draft)


_SPOIL: dict[Flaw, Callable[[str, Draft], bytes | None]] = {
    Flaw.TRUNCATED: _truncated,
    Flaw.NOT_JSON: lambda _, draft: f"event of {draft.key}: see log".encode(),
    Flaw.NOT_UTF8: _not_utf8,
    Flaw.EMPTY: lambda *_: b"",
    Flaw.NULL: lambda *_: None,
    Flaw.WRONG_TYPE: _wrong_type,
    Flaw.MISSING_FIELD: _missing_field,
}
