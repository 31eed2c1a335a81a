"""Events of the four example topics, as their application files describe them.

An event's content is a function of (seed, topic, number); its times also of `at`, the moment it is for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

from spike_pipelines.producer.dice import Dice, zipf

# An event as JSON will have it: the one place where a dict is the thing itself.
Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it is spoilt and encoded. `key` decides the partition."""

    key: str
    fields: Fields


CAMPAIGNS = zipf(range(1001, 1301))
CREATIVES = zipf(range(1, 900))
USERS = zipf([f"u{n * 7919 % 1_000_003:06d}" for n in range(1, 3001)], exponent=0.8)
PUBLISHERS: tuple[Fields, ...] = zipf(
    [
        {"id": n, "site": f"{word}{n}.example"}
        for n, word in enumerate(["news", "play", "cook", "auto"] * 40, 1)
    ]
)
DEVICES = zipf(
    [
        {"os": os, "model": model, "language": language}
        for language in ("en", "de", "fr", "pl", "pt")
        for os, model in (("android", "SM-A536B"), ("ios", "iPhone15,2"), ("windows", "pc"), ("macos", "mac"))
    ]
)
PLACES = zipf(
    [
        {"country": country, "city": city, "lat": lat, "lon": lon}
        for country, city, lat, lon in (
            ("DE", "Berlin", 52.52, 13.405),
            ("FR", "Paris", 48.8566, 2.3522),
            ("PL", "Kraków", 50.0647, 19.945),
            ("GB", "London", 51.5072, -0.1276),
            ("PT", "Porto", 41.1579, -8.6291),
            ("US", "New York", 40.7128, -74.006),
            ("JP", "東京", 35.6764, 139.65),
        )
    ]
)
ACTIONS = ("impression",) * 90 + ("click",) * 9 + ("conversion",)
CURRENCIES = ("EUR",) * 6 + ("USD",) * 3 + ("eur", " EUR")  # what the payout transform is for
ERRORS: tuple[Fields, ...] = zipf(
    [
        {"code": 504, "message": "upstream timed out", "retryable": True},
        {"code": 429, "message": "too many requests", "retryable": True},
        {"code": 400, "message": "unknown placement", "retryable": False},
        {"code": 410, "message": "campaign has ended", "retryable": False},
    ]
)
EXPERIMENTS: tuple[list[Fields], ...] = (
    [],
    [],
    [{"name": "bidder", "variant": "b"}],
    [{"name": "lazy", "variant": "a"}],
)
LABELS: tuple[Fields, ...] = (
    {},
    {"placement": "top"},
    {"placement": "side", "slot": "2"},
    {"placement": "feed"},
)
PATHS = zipf(["/", "/search", "/article/climate", "/article/cup", "/basket", "/checkout", "/about"])
REFERRERS = zipf(["https://search.example", None, "https://social.example/feed", "https://mail.example"])
UTM: tuple[Fields, ...] = (
    {},
    {},
    {"source": "newsletter", "medium": "email"},
    {"source": "search", "medium": "cpc"},
)
STATES = ("requested",) * 4 + ("approved",) * 3 + ("paid",) * 3 + ("rejected",)
METHODS = zipf(["sepa", "wire", "card"])


def adtracking_success(dice: Dice, at: datetime) -> Draft:
    user = dice.pick(USERS)
    fields = _adtracking(dice, at, user) | {
        "creative_id": dice.pick(CREATIVES),
        "bid": dice.below(5_000_000) / 1_000_000,
        "currency": "EUR",
        "latency_ms": 3 + dice.below(180),
        "experiments": dice.pick(EXPERIMENTS),
    }
    return Draft(user, fields)


def adtracking_failure(dice: Dice, at: datetime) -> Draft:
    user = dice.pick(USERS)
    fields = _adtracking(dice, at, user)
    error = dice.pick(ERRORS)
    tries = 1 + dice.below(3) if error["retryable"] else 1
    fields["error"] = error
    fields["attempts"] = [
        {
            "at": fields["event_time"] + timedelta(milliseconds=250 * n),
            "status": error["code"],
            "latency_ms": dice.below(900),
        }
        for n in range(tries)
    ]
    return Draft(user, fields)


def payout(dice: Dice, at: datetime) -> Draft:
    publisher = dice.pick(PUBLISHERS)["id"]
    lines = [_payout_line(dice) for _ in range(1 + dice.below(3))]
    amount = round(sum(line["amount"] for line in lines), 4)
    first = date(at.year, at.month, 1)
    fields = {
        "payout_id": f"p{dice.hex(12)}",
        "event_time": _event_time(dice, at),
        "publisher_id": publisher,
        "state": dice.pick(STATES),
        "amount": amount,
        "currency": dice.pick(CURRENCIES),
        "period": {"first_day": first, "last_day": date(at.year, at.month, 28)},
        "lines": lines,
        "tax": {"country": dice.pick(PLACES)["country"], "rate": 0.19, "amount": round(amount * 0.19, 4)},
        "method": dice.pick(METHODS),
        "labels": dice.pick(LABELS),
    }
    return Draft(str(publisher), fields)


def session(dice: Dice, at: datetime) -> Draft:
    user = dice.pick(USERS)
    ended = _event_time(dice, at)
    pages: list[Fields] = []
    began = ended
    for _ in range(1 + dice.below(4)):
        stay = 500 + dice.below(60_000)
        began -= timedelta(milliseconds=stay)
        pages.append({"path": dice.pick(PATHS), "at": began, "ms": stay})
    fields = {
        "session_id": f"s{dice.hex(12)}",
        "event_time": ended,
        "user_id": user,
        "started_at": began,
        "duration_ms": sum(page["ms"] for page in pages),
        "consent": not dice.chance(0.03),
        "referrer": dice.pick(REFERRERS),
        "pages": pages[::-1],
        "device": dice.pick(DEVICES),
        "geo": dice.pick(PLACES),
        "utm": dice.pick(UTM),
    }
    return Draft(user, fields)


def _adtracking(dice: Dice, at: datetime, user: str) -> Fields:
    fields: Fields = {
        "event_id": f"e{dice.hex(12)}",
        "event_time": _event_time(dice, at),
        "action": dice.pick(ACTIONS),
        "campaign_id": dice.pick(CAMPAIGNS),
        "publisher": dice.pick(PUBLISHERS),
        "user_id": user,
        "device": dice.pick(DEVICES),
        "geo": dice.pick(PLACES),
        "labels": dice.pick(LABELS),
    }
    if dice.chance(0.01):
        fields["is_test"] = True
    return fields


def _payout_line(dice: Dice) -> Fields:
    impressions = 100 + dice.below(90_000)
    return {
        "campaign_id": dice.pick(CAMPAIGNS),
        "impressions": impressions,
        "clicks": impressions // (40 + dice.below(100)),
        "amount": round(impressions * 0.0023, 4),
    }


def _event_time(dice: Dice, at: datetime) -> datetime:
    """Out of order by up to two seconds; one in ten late by minutes, some of these by hours."""
    late = timedelta(milliseconds=dice.below(2_000))
    if dice.chance(0.1):
        late += timedelta(seconds=dice.below(600) * (1 + 18 * dice.below(2)))
    return (at - late).astimezone(UTC)


Maker: TypeAlias = Callable[[Dice, datetime], Draft]
MAKERS: Mapping[str, Maker] = {
    "cct.adtracking.success": adtracking_success,
    "cct.adtracking.failure": adtracking_failure,
    "crt.payout": payout,
    "crt.session": session,
}
# What a schema's NOT NULL columns and the producer's flaws both go by.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "cct.adtracking.success": ("event_id", "event_time", "action", "campaign_id"),
    "cct.adtracking.failure": ("event_id", "event_time", "action", "campaign_id"),
    "crt.payout": ("payout_id", "event_time", "publisher_id", "state", "amount", "currency"),
    "crt.session": ("session_id", "event_time", "user_id", "consent"),
}
