"""Leases: who promotes a spike's batches now. As data, with a token that only grows."""

from dataclasses import dataclass

PROMOTION = "promote:"


def lease_name(spike: str) -> str:
    """The resource that whoever promotes this spike's batches holds."""
    return f"{PROMOTION}{spike}"


@dataclass(frozen=True, slots=True)
class Lease:
    """`token` grows with every acquisition; each write of the holder is conditional on it."""

    resource: str
    token: int
    holder: str
