"""A single Apache Kafka node (KRaft: broker and controller in one process)."""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.jars import kafka_classpath
from spike_pipelines.stack.java import find_java
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.probes import LOOPBACK, tcp

PORTS = ("kafka", "kafka.controller")
# Formatting twice must give the same cluster: a new id would be another cluster with other topics.
CLUSTER_ID = "c3Bpa2UtcGlwZWxpbmVzMQ"
FORMAT_SECONDS = 60
# One broker cannot replicate; the rest keeps its memory small. Retention is Kafka's default of 7 days.
SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, never a new topic
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.segment.bytes": str(128 * 1024 * 1024),
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}
HEAP = ("-Xms128m", "-Xmx384m", "-XX:MaxDirectMemorySize=128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4")
# Java takes file names to be in the locale's letters, and a plain C has no others than ASCII's.
LOCALE: Mapping[str, str] = {"LC_ALL": "C.UTF-8"}
LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
"""


@dataclass(frozen=True, slots=True)
class Kafka:
    """`topics` (name → partitions) are created once it runs; one that exists is left as it is. Clients
    are told to come to `client_port`, where a proxy may stand in between."""

    data: Path
    port: int
    controller_port: int
    topics: Mapping[str, int] | None = None
    client_port: int | None = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def part(self) -> Part:
        return Part(
            name="kafka",
            command=(*self._java(), *HEAP, "kafka.Kafka", str(self._properties)),
            cwd=self.data,
            env=LOCALE,
            ports=(self.port, self.controller_port),
            prepare=self._format,
            ready=self._probe,
            furnish=lambda: self.create_topics(self.topics or {}),
            stop_seconds=30,
        )

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Create the topics (name → partitions) that are not there yet. Raises `PartFailed`: the broker may
        die again in the middle of it."""
        try:
            admin = self.admin()
            try:
                for name, partitions in topics.items():
                    _create_topic(admin, name, partitions)
            finally:
                admin.close()
        except KafkaError as error:
            raise PartFailed(f"kafka: topics {', '.join(topics)} cannot be created: {error}") from error

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    @property
    def _properties(self) -> Path:
        return self.data / "server.properties"

    def _java(self) -> tuple[str, ...]:
        classpath = f"{kafka_classpath()[0].parent}/*"
        logging = f"-Dlog4j2.configurationFile={self.data / 'log4j2.properties'}"
        return (str(find_java() / "bin" / "java"), "-cp", classpath, logging)

    def _format(self) -> None:
        """Write the configuration; lay out the log directory unless that was done before."""
        if "," in str(self.data):
            raise PartFailed(
                f"kafka: {self.data} has a comma in its name, which for Kafka is the end of it: "
                "choose another folder (SPIKE_STATE_DIR)"
            )
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "log4j2.properties").write_text(LOGGING)
        lines = (f"{key}={escaped(value)}\n" for key, value in self._settings().items())
        self._properties.write_text("".join(lines), encoding="ascii")
        command = (
            *self._java(), "kafka.tools.StorageTool", "format", "--ignore-formatted",
            "--cluster-id", CLUSTER_ID, "--config", str(self._properties),
        )  # fmt: skip
        done = subprocess.run(
            command,
            env=os.environ | LOCALE,
            capture_output=True,
            text=True,
            check=False,
            timeout=FORMAT_SECONDS,
        )
        if done.returncode != 0:
            raise PartFailed(f"kafka: formatting {self.data} failed:\n{done.stdout}{done.stderr}")

    def _settings(self) -> dict[str, str]:
        return dict(SETTINGS) | {
            "log.dirs": str(self.data / "log"),
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.client_port or self.port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self.controller_port}",
        }

    def _probe(self) -> str | None:
        """The port opens before the broker has registered; then an admin client gets an answer."""
        if (closed := tcp(self.port)) is not None:
            return closed
        try:
            self.admin().close()
        except KafkaError as error:
            return str(error)
        return None


def escaped(value: str) -> str:
    """As a value of a properties file, which Java reads as ISO 8859-1: UTF-16 units, four hex digits each."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    letters = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(letter) if letter < 0x80 else f"\\u{letter:04X}" for letter in letters)


def _create_topic(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    with contextlib.suppress(TopicAlreadyExistsError):
        admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])
