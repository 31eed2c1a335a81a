"""What a driver process is told by its environment: the same names on a laptop and in a pod."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from spike_pipelines.domain.errors import InvalidSpec, Transient


class SparkEnvironment(BaseModel):
    """What any Spark process of ours is told. Each field is `SPIKE_<FIELD>`.

    `spark_jars` is a folder of connector jars, or a comma-separated list of jars; `spark_master` is
    `local[driver.cores]` if not given. Started by spark-submit, Spark's own configuration counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_endpoint: str | None = None
    spark_jars: str | None = None
    spark_master: str | None = None
    spark_event_log: str | None = None  # where event logs go; none are written without it
    state_dir: Path = Path(".spike")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        env = os.environ if env is None else env
        found = {name: env[key] for name in cls.model_fields if (key := f"SPIKE_{name.upper()}") in env}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            fields = ", ".join(
                f"SPIKE_{str(e['loc'][0]).upper()} ({e['msg']})" if e["loc"] else e["msg"]
                for e in error.errors()
            )
            raise InvalidSpec(f"environment of the driver: {fields}. `spike up` sets these") from error

    def jars(self) -> tuple[str, ...]:
        given = [part.strip() for part in (self.spark_jars or "").split(",") if part.strip()]
        if len(given) == 1 and (folder := Path(given[0])).is_dir():
            return tuple(str(jar) for jar in sorted(folder.glob("*.jar")))
        return tuple(given)


class Environment(SparkEnvironment):
    """A driver's. `driver_id` names this process for ever.

    `token_file` has the spike's bearer token and is read at each request, so that a rotated one counts at
    once; `token` is the token itself, where there is no file to mount: every child process sees that one.
    `max_offsets_per_trigger` bounds a batch more tightly than the application file does, for a while.
    `metrics_port` is where Prometheus finds the driver in its pod; 0: any free port of this machine, told in
    `<state_dir>/prometheus/drivers/<spike>.json`.
    """

    driver_id: str
    max_offsets_per_trigger: int | None = Field(None, ge=1)
    token: SecretStr | None = None
    token_file: Path | None = None
    appender_url: str
    kafka_bootstrap: str
    metrics_port: int = Field(0, ge=0, le=65535)

    @model_validator(mode="after")
    def _has_a_token(self) -> Self:
        if self.token is None and self.token_file is None:
            raise ValueError("SPIKE_TOKEN_FILE or SPIKE_TOKEN must be set")
        return self

    def bearer(self) -> str:
        """The token to show now. Raises `Transient` while the file cannot be read (it is being replaced)."""
        if self.token_file is None:
            assert self.token is not None
            return self.token.get_secret_value()
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise Transient(f"SPIKE_TOKEN_FILE cannot be read: {error}") from error
