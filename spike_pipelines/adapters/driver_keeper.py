"""The parent of one local driver: starts it, waits for it, writes down how it ended.

    python -m spike_pipelines.adapters.driver_keeper RECORD LOG COMMAND...

It detaches itself, so that the driver outlives whoever asked for it (a Dagster run, a shell) and
anyone can read the exit code later. Without it a driver that died looks the same as one that finished.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from spike_pipelines.adapters.driver_records import DriverRecord
from spike_pipelines.adapters.process_identity import ProcessIdentity


def main(arguments: list[str]) -> None:
    record, log, *command = arguments
    if os.fork() == 0:  # the parent returns at once: who started us waits for nothing, and has no zombie
        os.setsid()
        _keep(Path(record), Path(log), command)


def _keep(path: Path, log: Path, command: list[str]) -> None:
    """What if we die? Before the start: the record has no process, and counts as ended once we are
    gone. After it: the driver runs on, and ends without an exit code."""
    record = DriverRecord.read(path).model_copy(update={"keeper": ProcessIdentity.of(os.getpid())})
    record.write(path)
    with log.open("ab") as output:
        driver = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = record.model_copy(update={"process": ProcessIdentity.of(driver.pid)})
    record.write(path)
    # Its JVM is in its group. The group's number cannot be another's while the ended driver is not
    # waited for, so this is the moment to end what it left behind.
    os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(driver.pid, signal.SIGKILL)
    record.model_copy(update={"exit_code": driver.wait()}).write(path)


if __name__ == "__main__":
    main(sys.argv[1:])
