"""Whose ServiceAccount speaks for which spike."""

from dataclasses import dataclass

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.kubernetes_names import resource_name


@dataclass(frozen=True, slots=True)
class TokenReview:
    """What the API server said of a token. `audiences` are those of the asked for that the token has; an
    API server that knows no audiences names none."""

    authenticated: bool
    username: str = ""
    audiences: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trusted:
    """Tokens that count: for `audience`, of ServiceAccounts in `namespace`. Each spike has one there that is
    called as the spike is in Kubernetes, which the chart makes; nothing else maps one to the other."""

    namespace: str
    audience: str

    def username(self, spike: str) -> str | None:
        """The only user that speaks for `spike`; None if no resource can have its name."""
        try:
            return f"system:serviceaccount:{self.namespace}:{resource_name(spike)}"
        except InvalidSpec:
            return None

    def allows(self, spike: str, review: TokenReview) -> bool:
        expected = self.username(spike)
        return (
            review.authenticated
            and expected is not None
            and review.username == expected
            and self.audience in review.audiences
        )
