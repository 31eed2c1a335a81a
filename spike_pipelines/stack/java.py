"""Finding a Java that runs Spark and Kafka: ours to use, or fetched where there is none."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cjdk

from spike_pipelines.stack.certificates import system_certificates
from spike_pipelines.stack.errors import NoJava

OLDEST = 17  # what Spark 4 and Kafka 4 ask for
NEWEST = 21  # the newest LTS with which Spark 4.1 is tested; from 24 on, Hadoop's logins (getSubject) fail
FETCHED = "17"
ASK_SECONDS = 20
_VERSION = re.compile(r'version "(?P<first>\d+)(?:\.(?P<second>\d+))?')


def find_java() -> Path:
    """The home of a Java 17 to 21: `JAVA_HOME`, else `java` on the PATH, else fetched by cjdk.

    Raises `NoJava` saying what was tried and what to install.
    """
    tried = []
    for place, home in _installed():
        version = _version(home)
        if version is not None and OLDEST <= version <= NEWEST:
            return home
        tried.append(f"{place} has {f'Java {version}' if version else 'no Java that runs'}")
    return _fetch(tried or ["JAVA_HOME is not set and there is no java on the PATH"])


def _installed() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield f"JAVA_HOME ({home})", Path(home)
    if program := shutil.which("java"):
        yield f"the PATH ({program})", Path(program).resolve().parent.parent


def _version(home: Path) -> int | None:
    """The major version that `java -version` prints (8 for `1.8`); None if it does not run."""
    try:
        done = subprocess.run(
            (home / "bin" / "java", "-version"),
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stderr + done.stdout)
    if done.returncode != 0 or found is None:
        return None
    major = found["second"] if found["first"] == "1" else found["first"]
    return int(major or 0)


def _fetch(tried: list[str]) -> Path:
    """A JDK that cjdk (the library jgo uses) keeps in the user's cache; `CJDK_*` variables configure it."""
    try:
        with system_certificates():
            return Path(cjdk.java_home(version=FETCHED))
    except (cjdk.CjdkError, OSError) as error:
        raise NoJava(
            f"Spark and Kafka need Java {OLDEST} to {NEWEST}: {'; '.join(tried)}; and fetching one failed "
            f"({error}). Install one (Debian, Ubuntu: apt install openjdk-{OLDEST}-jre-headless; macOS: "
            f"brew install openjdk@{OLDEST}) or set JAVA_HOME to one"
        ) from error
