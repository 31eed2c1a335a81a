"""Whether the appender API answers, and since when (port `Appender`)."""

from datetime import UTC, datetime, timedelta

import httpx
from pydantic import ValidationError

from spike_pipelines.wire import Health

TIMEOUT_SECONDS = 3.0


class AppenderProbe:
    def __init__(self, url: str) -> None:
        self._url = f"{url}/healthz"

    def since(self) -> datetime | None:
        """An answer that is late, an error, or not this API's counts as none."""
        try:
            answer = httpx.get(self._url, timeout=TIMEOUT_SECONDS).raise_for_status()
            health = Health.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError):
            return None
        return datetime.now(UTC) - timedelta(seconds=health.up_seconds)
