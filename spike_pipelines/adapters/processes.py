"""Drivers as processes of this machine (port `Cluster`), shared by all who know the state folder.

<state>/processes/drivers/<spike>/<driver>.json   who and how, see `driver_records`
<state>/logs/drivers/<spike>/<driver>.log         what it wrote
<state>/secrets/tokens/<spike>                    what it authenticates with at the appender
"""

import os
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGTERM

from spike_pipelines.adapters.applications import application_path
from spike_pipelines.adapters.driver_records import DriverRecord
from spike_pipelines.domain.errors import InvalidSpec, Transient
from spike_pipelines.domain.spike import Spike
from spike_pipelines.ports import DriverState, ObservedDriver
from spike_pipelines.settings import Settings

KEPT = 20  # ended drivers of a spike whose record and log stay
GRACE_SECONDS = 10.0
START_SECONDS = 30.0
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "JAVA_HOME")
INHERITED_PREFIXES = ("SPIKE_", "AWS_")
# Drivers know no database; what they cannot tell, a crash dump or a transform of theirs cannot tell either.
WITHHELD = frozenset({"SPIKE_LEDGER_URL", "SPIKE_LEDGER_ADMIN_URL", "SPIKE_CATALOG_URL", "SPIKE_TOKEN"})
PYTHON_DRIVER = (sys.executable, "-m", "spike_pipelines.spark")


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """`command` is started with the path of an application file behind it; `environ` is what drivers
    get `SPIKE_*`, `AWS_*`, `JAVA_HOME` and the like from (see `spike env`)."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    command: Sequence[str] = PYTHON_DRIVER
    grace_seconds: float = GRACE_SECONDS

    def drivers(self) -> tuple[ObservedDriver, ...]:
        """A record that cannot be read hides its own driver only."""
        found = [_look(path) for path in self._folder().glob("*/*.json")]
        return tuple(sorted(found, key=lambda driver: driver.started_at))

    def start(self, spike: Spike) -> ObservedDriver:
        application = application_path(self.settings.applications_dir, spike.name).resolve()
        self._forget_old(spike.name)
        record = DriverRecord(spike=spike.name, driver=str(uuid.uuid4()), started_at=_now())
        environment = self._environment(record)
        log = self._log(record)
        log.parent.mkdir(parents=True, exist_ok=True)
        record.write(self._path(record))
        keeper = (sys.executable, "-m", "spike_pipelines.adapters.driver_keeper")
        try:
            subprocess.run(
                (*keeper, self._path(record), log, *self.command, application),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=START_SECONDS,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise Transient(f"the driver of {spike.name} could not be started: {error}") from error
        return _observed(record, _now())

    def obstacle(self, spike: Spike) -> str | None:
        token = self._token(spike.name)
        return None if token.is_file() else _no_token(token, spike.name)

    def stop(self, driver: str) -> None:
        record = self._find(driver)
        if record is None:
            return
        if record.process is None:
            self._abandon(record)
        elif record.process.find() is not None:
            record.process.end(SIGTERM, self.grace_seconds)

    def log_tail(self, driver: str, lines: int) -> tuple[str, ...]:
        record = self._find(driver)
        if record is None or not self._log(record).exists():
            return ()
        with self._log(record).open(errors="replace") as log:
            return tuple(line.rstrip("\n") for line in deque(log, maxlen=lines))

    def _abandon(self, record: DriverRecord) -> None:
        """End a driver that is just being started: its keeper first, so that it cannot start it after."""
        if record.keeper is not None:
            record.keeper.kill_group()
        again = DriverRecord.read(self._path(record))
        if again.process is not None:
            again.process.end(SIGTERM, self.grace_seconds)

    def _find(self, driver: str) -> DriverRecord | None:
        paths = list(self._folder().glob(f"*/{uuid.UUID(driver)}.json"))
        return DriverRecord.read(paths[0]) if paths else None

    def _forget_old(self, spike: str) -> None:
        mine = [d for d in self.drivers() if d.spike == spike and d.state is DriverState.EXITED]
        for ended in mine[: -KEPT + 1]:
            self._path(ended).unlink(missing_ok=True)
            self._log(ended).unlink(missing_ok=True)

    def _environment(self, record: DriverRecord) -> dict[str, str]:
        token = self._token(record.spike)
        if not token.is_file():
            raise InvalidSpec(_no_token(token, record.spike))
        kept = {
            name: value
            for name, value in self.environ.items()
            if name in INHERITED or (name.startswith(INHERITED_PREFIXES) and name not in WITHHELD)
        }
        return kept | {"SPIKE_DRIVER_ID": record.driver, "SPIKE_TOKEN_FILE": str(token.resolve())}

    def _token(self, spike: str) -> Path:
        return self.settings.state_dir / "secrets" / "tokens" / spike

    def _folder(self) -> Path:
        return self.settings.state_dir.resolve() / "processes" / "drivers"

    def _path(self, record: DriverRecord | ObservedDriver) -> Path:
        return self._folder() / record.spike / f"{record.driver}.json"

    def _log(self, record: DriverRecord | ObservedDriver) -> Path:
        return self.settings.state_dir.resolve() / "logs" / "drivers" / record.spike / f"{record.driver}.log"


def _look(path: Path) -> ObservedDriver:
    try:
        return _observed(DriverRecord.read(path), _now())
    except Transient as error:
        problem = f"{error}: once no process of this driver runs, delete the file"
        return ObservedDriver(path.parent.name, path.stem, DriverState.UNKNOWN, _now(), problem=problem)


def _observed(record: DriverRecord, now: datetime) -> ObservedDriver:
    return ObservedDriver(
        spike=record.spike,
        driver=record.driver,
        state=_state(record, now),
        started_at=record.started_at,
        exit_code=record.exit_code,
        pid=record.process.pid if record.process else None,
    )


def _state(record: DriverRecord, now: datetime) -> DriverState:
    if record.exit_code is not None:
        return DriverState.EXITED
    if record.process is not None:
        return DriverState.RUNNING if record.process.find() else DriverState.EXITED
    if record.keeper is not None:
        return DriverState.PENDING if record.keeper.find() else DriverState.EXITED
    young = now - record.started_at < timedelta(seconds=START_SECONDS)
    return DriverState.PENDING if young else DriverState.EXITED


def _now() -> datetime:
    return datetime.now(UTC)


def _no_token(token: Path, spike: str) -> str:
    return (
        f"{token}: no token for {spike}: `spike up` makes one for each application file it finds when it "
        "starts; `spike down`, `spike up`, or ask whether SPIKE_STATE_DIR is the right folder"
    )
