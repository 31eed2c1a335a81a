"""Which parts a stack has, with which settings: from the state folder, the application files and options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spike_pipelines.adapters.ledger.grants import API, WORKER
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Spike
from spike_pipelines.stack.jars import spark_jars
from spike_pipelines.stack.java import find_java
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.appender import Appender
from spike_pipelines.stack.parts.classes import class_archive
from spike_pipelines.stack.parts.dagster import Dagster
from spike_pipelines.stack.parts.kafka import PORTS as KAFKA_PORTS
from spike_pipelines.stack.parts.kafka import Kafka
from spike_pipelines.stack.parts.postgres import Postgres
from spike_pipelines.stack.parts.postgres_roles import CATALOG, DAGSTER, ROLES
from spike_pipelines.stack.parts.producer import Producer
from spike_pipelines.stack.parts.s3 import PORTS as S3_PORTS
from spike_pipelines.stack.parts.s3 import REGION, S3, S3Ports
from spike_pipelines.stack.ports import remembered
from spike_pipelines.stack.probes import LOOPBACK
from spike_pipelines.stack.state import StateDir

LAKE = "spike-lake"
DAGSTER_BUCKET = "spike-dagster"
PARTITIONS = 2
PROXIED = ("kafka", "postgres", "s3", "appender")  # what `via` may name
TUNING = ("SPIKE_RECOVERY_WINDOW_SECONDS",)  # settings that parts take over from our environment
ADMIN_URL = "SPIKE_LEDGER_ADMIN_URL"
# What these are told; the rest of the environment has secrets that are none of theirs.
PRODUCER_ENV = ("SPIKE_KAFKA_BOOTSTRAP", "SPIKE_APPLICATIONS_DIR", "SPIKE_STATE_DIR")
CLASSES_ENV = ("JAVA_HOME", "SPIKE_SPARK_JARS", "SPIKE_STATE_DIR")
APPENDER_ENV = (*PRODUCER_ENV, "SPIKE_APPENDER_URL")
PORTS = ("postgres", *S3_PORTS, *KAFKA_PORTS, "appender", "dagster", "dagster.code")


@dataclass(frozen=True, slots=True)
class Options:
    """What `spike up` was asked for. `only` limits the parts to these, for tests; empty: all. `via` has
    ports at which clients are to reach `kafka`, `postgres`, `s3` and `appender` instead of their own."""

    applications: Path
    rate: float = 100.0
    seed: int = 1
    records: int | None = None
    producer: bool = True
    drivers: bool = True
    only: Sequence[str] = ()
    via: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assembly:
    state_dir: StateDir
    spikes: Sequence[Spike]
    options: Options
    ports: Mapping[str, int]

    @classmethod
    def of(cls, state_dir: StateDir, spikes: Sequence[Spike], options: Options) -> "Assembly":
        """Chooses ports where none are remembered yet."""
        return cls(state_dir, spikes, options, remembered(state_dir.ports, PORTS))

    def parts(self) -> tuple[Part, ...]:
        """In the order in which they are started; ended in reverse. Java and jars are fetched first, where
        they are missing. Raises `InvalidSpec` for an unknown name in `only`."""
        env = self.environment()
        cwd = Path.cwd()
        parts = (
            self.kafka.part(),  # the slowest to start
            self.postgres.part(),
            self.s3.part(),
            self._appender(cwd),
            *((self._producer(_only(env, PRODUCER_ENV), cwd),) if self.options.producer else ()),
            class_archive(_only(env, CLASSES_ENV), cwd),
            *self._dagster({k: v for k, v in env.items() if k != ADMIN_URL}, cwd),
        )
        return self._chosen(parts)

    def environment(self) -> dict[str, str]:
        """What parts, drivers and a user's shell (`spike env`) are told. Holds secrets."""
        database, s3 = self._reached("postgres"), f"http://{LOOPBACK}:{self._reached('s3')}"
        return {
            **{name: os.environ[name] for name in TUNING if name in os.environ},
            "SPIKE_LEDGER_URL": self.postgres.url("ledger", WORKER, port=database),
            ADMIN_URL: self.postgres.url("ledger", port=database),
            "SPIKE_CATALOG_URL": self.postgres.url("iceberg", CATALOG, port=database),
            "SPIKE_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{self._reached('kafka')}",
            "SPIKE_S3_ENDPOINT": s3,
            "SPIKE_APPENDER_URL": f"http://{LOOPBACK}:{self._reached('appender')}",
            "SPIKE_WAREHOUSE": f"s3://{LAKE}/warehouse",
            "SPIKE_APPLICATIONS_DIR": str(self.options.applications.resolve()),
            "SPIKE_STATE_DIR": str(self.state_dir.root),
            "SPIKE_SPARK_JARS": str(spark_jars()[0].parent),
            "JAVA_HOME": str(find_java()),
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": s3,
            "DAGSTER_HOME": str(self.state_dir.dagster_home),
            "DAGSTER_POSTGRES_URL": self.postgres.url("dagster", DAGSTER, port=database).replace(
                "+psycopg2", ""
            ),
            "DAGSTER_COMPUTE_LOGS_BUCKET": DAGSTER_BUCKET,
            "DAGSTER_COMPUTE_LOGS_DIR": str(self.state_dir.dagster_home / "compute-logs"),
            "DAGSTER_S3_ENDPOINT": s3,
        }

    def tokens(self) -> dict[str, str]:
        return {spike.name: self.state_dir.token(spike.name) for spike in self.spikes}

    @property
    def dagster_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['dagster']}"

    @property
    def postgres(self) -> Postgres:
        password = self.state_dir.secret("postgres-password")
        roles = {role: self.state_dir.secret(f"postgres-{role}") for role in ROLES}
        return Postgres(self.state_dir.data / "postgres", self.ports["postgres"], password, roles)

    @property
    def s3(self) -> S3:
        buckets = {LAKE, DAGSTER_BUCKET}
        buckets |= {place.bucket for spike in self.spikes for place in (spike.staging, spike.final)}
        return S3(
            data=self.state_dir.data / "s3",
            ports=S3Ports.of(self.ports),
            access_key=self.state_dir.secret("s3-access-key"),
            secret_key=self.state_dir.secret("s3-secret-key"),
            buckets=tuple(sorted(buckets)),
        )

    @property
    def kafka(self) -> Kafka:
        return Kafka(
            data=self.state_dir.data / "kafka",
            port=self.ports["kafka"],
            controller_port=self.ports["kafka.controller"],
            topics={spike.topic: PARTITIONS for spike in self.spikes},
            client_port=self._reached("kafka"),
        )

    def _reached(self, name: str) -> int:
        """The port at which clients reach a server."""
        return self.options.via.get(name, self.ports[name])

    def _appender(self, cwd: Path) -> Part:
        """With the one role that it needs, and no credentials of S3: it never touches a file."""
        env = _only(self.environment(), APPENDER_ENV)
        env["SPIKE_LEDGER_URL"] = self.postgres.url("ledger", API, port=self._reached("postgres"))
        return Appender(self.ports["appender"], self.postgres.url("ledger"), self.tokens(), env, cwd).part()

    def _dagster(self, env: Mapping[str, str], cwd: Path) -> tuple[Part, ...]:
        home, ports = self.state_dir.dagster_home, self.ports
        return Dagster(home, ports["dagster"], ports["dagster.code"], env, cwd).parts()

    def _producer(self, env: Mapping[str, str], cwd: Path) -> Part:
        data, asked = self.state_dir.data, self.options
        files = (data / "produced.txt", data / "produced-numbers.json")
        return Producer(asked.rate, asked.seed, asked.records, *files, env, cwd).part()

    def _chosen(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        only = self.options.only
        names = {part.name for part in parts}
        if unknown := set(only) - names:
            raise InvalidSpec(
                f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(sorted(names))}"
            )
        return tuple(part for part in parts if not only or part.name in only)


def _only(env: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: env[name] for name in names}
