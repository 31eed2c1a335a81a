"""The jars of Kafka and of Spark's connectors: fetched once from Maven's repository, verified, kept.

Which jars, and the SHA-256 of each, stands in `locks/` (written by `stack/lock.py`). Repositories and
the local Maven cache are those of jgo's own configuration.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext
from jgo.util import http
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from spike_pipelines.stack.certificates import system_certificates
from spike_pipelines.stack.errors import DownloadFailed

LOCKS = Path(__file__).parent / "locks"
CHUNK_BYTES = 256 * 1024
TIMEOUT_SECONDS = 30
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Jar:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Where Maven repositories keep it."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file}"

    @classmethod
    def parse(cls, line: str) -> "Jar":
        coordinate, digest = line.split(" sha256:")
        group, artifact, version = coordinate.split(":")
        return cls(group, artifact, version, digest.strip())


def kafka_classpath() -> list[Path]:
    """The jars of a Kafka broker and its tools."""
    return fetched("kafka")


def spark_jars() -> list[Path]:
    """Spark's Kafka source and S3A with its committers: what PySpark does not bring itself. All lie in
    one folder, which has nothing else in it."""
    return fetched("spark")


def iceberg_jars() -> list[Path]:
    """What Spark needs besides to read the tables through the JDBC catalog."""
    return fetched("iceberg")


def locked(name: str) -> tuple[Jar, ...]:
    return tuple(Jar.parse(line) for line in (LOCKS / f"{name}.txt").read_text().splitlines())


def fetched(name: str) -> list[Path]:
    """The jars of a lock file, downloaded where they are missing. Raises `DownloadFailed`.

    A jar has its name only once it is whole and its digest was checked, so a file that is there is right
    and the next call asks no network. The folder is named by the lock's content.
    """
    jars = locked(name)
    digest = hashlib.sha256((LOCKS / f"{name}.txt").read_bytes()).hexdigest()
    folder = cache_dir() / "jars" / f"{name}-{digest[:12]}"
    if any(not (folder / jar.file).exists() for jar in jars):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")), system_certificates():
            _fetch([jar for jar in jars if not (folder / jar.file).exists()], folder, name)
    return [folder / jar.file for jar in jars]


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spike-pipelines"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for other processes that fetch the same. The lock ends with the process that holds it."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(jars: list[Jar], folder: Path, name: str) -> None:
    settings = GlobalSettings.load()
    maven = MavenContext(repo_cache=settings.repo_cache)
    repositories = tuple((maven.remote_repos | settings.repositories).values())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"jars of {name}", total=len(jars))
        for jar in jars:
            if not _copy_cached(jar, maven.repo_cache, folder):
                _download(jar, repositories, folder)
            progress.advance(task)


def _copy_cached(jar: Jar, repository: Path, folder: Path) -> bool:
    """Take the jar from the local Maven cache, if it is there and the right one."""
    cached = repository / jar.path
    if not cached.is_file():
        return False
    with cached.open("rb") as source:
        if hashlib.file_digest(source, "sha256").hexdigest() != jar.sha256:
            return False
        source.seek(0)
        with _named_when_whole(folder / jar.file) as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
    return True


def _download(jar: Jar, repositories: tuple[str, ...], folder: Path) -> None:
    problems = []
    for attempt in range(ATTEMPTS):
        url = f"{repositories[attempt % len(repositories)].rstrip('/')}/{jar.path}"
        try:
            _download_from(url, jar, folder)
            return
        except (requests.RequestException, DownloadFailed) as error:
            problems.append(str(error))
    raise DownloadFailed(
        f"{jar.group}:{jar.artifact}:{jar.version} could not be fetched: {problems[-1]}. "
        "Check the network, or name a Maven repository that this machine reaches in jgo's configuration "
        "(`jgo config`), and start again: what is already here is not fetched twice"
    )


def _download_from(url: str, jar: Jar, folder: Path) -> None:
    digest = hashlib.sha256()
    with http.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        with _named_when_whole(folder / jar.file) as target:
            for chunk in response.iter_content(CHUNK_BYTES):
                target.write(chunk)
                digest.update(chunk)
            if digest.hexdigest() != jar.sha256:
                raise DownloadFailed(f"{url} has SHA-256 {digest.hexdigest()}, expected {jar.sha256}")


@contextmanager
def _named_when_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name at the end of the block, and is deleted on an exception."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        try:
            yield partial
        except BaseException:
            Path(partial.name).unlink()
            raise
    Path(partial.name).chmod(0o644)
    Path(partial.name).replace(path)
