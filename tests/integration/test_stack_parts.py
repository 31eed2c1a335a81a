"""The real parts do what the platform relies on."""

import psycopg2
import pytest
from botocore.exceptions import ClientError

from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.parts.kafka import Kafka, escaped
from spike_pipelines.stack.parts.postgres import DATABASES, Postgres
from spike_pipelines.stack.parts.s3 import S3

pytestmark = pytest.mark.real


@pytest.mark.parametrize("database", DATABASES)
def test_postgres_has_each_database_and_commits_synchronously(postgres: Postgres, database):
    connection = psycopg2.connect(postgres.url(database).replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('synchronous_commit'), current_setting('fsync')")
        assert cursor.fetchone() == ("on", "on")
    connection.close()


def test_postgres_refuses_a_wrong_password(postgres: Postgres):
    url = postgres.url("ledger").replace("+psycopg2", "").replace(postgres.password, "wrong")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url)


def test_s3_creates_an_object_only_once(s3: S3):
    client = s3.client()
    client.put_object(Bucket="spike-lake", Key="once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="spike-lake", Key="once", Body=b"2", IfNoneMatch="*")


def test_s3_refuses_unknown_keys_and_unknown_buckets(s3: S3):
    stranger = S3(data=s3.data, ports=s3.ports, access_key="stranger", secret_key="x" * 16, buckets=())
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        stranger.client().list_buckets()
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.client().put_object(Bucket="spike-lakr", Key="typo", Body=b"")


def test_kafka_has_the_partitions_asked_for_and_invents_no_topic(kafka: Kafka):
    kafka.create_topics({"stack-parts": 3})
    kafka.create_topics({"stack-parts": 3})
    admin = kafka.admin()
    described = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(["stack-parts"])}
    assert described == {"stack-parts": 3}
    assert "misspelt" not in admin.list_topics()
    admin.close()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_kafka_lays_out_its_data_in_a_folder_of_any_name(tmp_path, monkeypatch, locale):
    monkeypatch.setenv("LC_ALL", locale)
    data = tmp_path / "größer als 𝛑" / r"a\b" / "kafka"
    Kafka(data, 1, 2).part().prepare()
    assert (data / "log" / "meta.properties").exists()
    assert sorted(path.name for path in data.iterdir()) == ["log", "log4j2.properties", "server.properties"]


def test_kafka_refuses_a_folder_with_a_comma(tmp_path):
    with pytest.raises(PartFailed, match=r"one,two.* has a comma in its name.*SPIKE_STATE_DIR"):
        Kafka(tmp_path / "one,two", 1, 2).part().prepare()


def test_values_are_written_as_java_reads_them():
    assert escaped("/tmp/a b") == "/tmp/a b"
    assert escaped("ü\\𝛑") == r"\u00FC\\\uD835\uDED1"
