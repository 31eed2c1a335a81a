"""Write the lock files of jars: `python -m spike_pipelines.stack.lock`.

To be run by hand when a version below changes. It resolves Maven coordinates with jgo and notes the
SHA-256 of what it got, so that everybody else gets the same bytes, from whatever repository.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyspark
from jgo.maven import Dependency, MavenContext

from spike_pipelines.stack.jars import LOCKS

KAFKA = ("org.apache.kafka:kafka_2.13:4.1.1",)
# hadoop-aws asks for the bundle of the whole AWS SDK (690 MB); these are the parts of it that S3A uses.
SPARK = (
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1",
    "org.apache.spark:spark-hadoop-cloud_2.13:4.1.1",
    "org.apache.hadoop:hadoop-aws:3.4.2",
    "software.amazon.awssdk:s3:2.29.52",
    "software.amazon.awssdk:s3-transfer-manager:2.29.52",
    "software.amazon.awssdk:sts:2.29.52",
)
# What Spark needs to read the tables: for readers, and the test that is one. Drivers do without.
ICEBERG = (
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
    "org.postgresql:postgresql:42.7.7",
)
EXCLUDED = (
    "software.amazon.awssdk:bundle",
    # clouds of others, which spark-hadoop-cloud brings along
    "org.apache.hadoop:hadoop-aliyun",
    "org.apache.hadoop:hadoop-azure",
    "org.apache.hadoop:hadoop-azure-datalake",
    "org.apache.hadoop:hadoop-huaweicloud",
    "com.google.cloud.bigdataoss:gcs-connector",
)


def resolve(coordinates: Iterable[str]) -> tuple[Dependency, ...]:
    """The artifacts and all they need at run time. No BOM is derived from them: the AWS SDK's are
    written in a way that jgo cannot read."""
    maven = MavenContext(timeout=60)
    excluded = [maven.project(*name.split(":")) for name in EXCLUDED]
    wanted = [maven.create_dependency(coordinate, excluded) for coordinate in coordinates]
    for dependency in wanted:
        dependency.raw = True
    inputs, transitive = maven.resolver.resolve(wanted)
    return tuple(
        d for d in (*inputs, *transitive) if d.scope in (None, "compile", "runtime") and not d.optional
    )


def alone(coordinates: Iterable[str]) -> tuple[Dependency, ...]:
    """These artifacts only: what they need is inside them, or not needed."""
    maven = MavenContext(timeout=60)
    return tuple(maven.create_dependency(coordinate) for coordinate in coordinates)


def without_pyspark(dependencies: Iterable[Dependency]) -> tuple[Dependency, ...]:
    """Those of which PySpark brings no version of its own."""
    shipped = {jar.name.rpartition("-")[0] for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    return tuple(d for d in dependencies if d.artifactId not in {_stem(name) for name in shipped})


def _stem(name: str) -> str:
    """`netty-buffer` from `netty-buffer-4.1.115`: versions may themselves have a dash behind them."""
    words = name.split("-")
    numbers = [i for i, word in enumerate(words) if i and word[:1].isdigit() and "." in word]
    return "-".join(words[: numbers[-1]]) if numbers else name


def write(name: str, dependencies: Iterable[Dependency]) -> None:
    lines = []
    for dependency in sorted(dependencies, key=lambda d: (d.groupId, d.artifactId)):
        digest = hashlib.sha256(dependency.artifact.resolve().read_bytes()).hexdigest()
        lines.append(f"{dependency.groupId}:{dependency.artifactId}:{dependency.version} sha256:{digest}\n")
    (LOCKS / f"{name}.txt").write_text("".join(lines))


def main() -> None:
    write("kafka", resolve(KAFKA))
    write("spark", without_pyspark(resolve(SPARK)))
    write("iceberg", alone(ICEBERG))


if __name__ == "__main__":
    main()
