"""`spike up --detach` and its companions on the real stores, as a person types them."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from leaks import arguments_with_secrets, files_with_secrets, secrets_in_environment, secrets_of
from waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]
SPIKE = (sys.executable, "-m", "spike_pipelines.cli.main")
STORES = "kafka,postgres,s3,appender"
DEADLINE_SECONDS = 120

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


class Cli:
    """The `spike` command on a state folder of its own."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SPIKE, *arguments],
            env=self.environ() | environ,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SPIKE_", "AWS_"))}
        return clean | {"SPIKE_STATE_DIR": str(self.state_dir)}

    def up(self) -> None:
        done = self.run("up", "--detach", "--only", STORES, "--no-producer", "--no-drivers")
        assert done.returncode == 0, done.stderr
        assert "ready" in done.stdout

    def part(self, name: str) -> dict:
        snapshot = json.loads((self.state_dir / "stack.json").read_text())
        return next(part for part in snapshot["parts"] if part["name"] == name)

    def environment(self) -> dict[str, str]:
        """What a POSIX shell makes of `spike env`."""
        exports = self.run("env").stdout
        shell = [
            "/bin/sh",
            "-c",
            f'{exports}\nexec "{sys.executable}" -c "import json, os; print(json.dumps(dict(os.environ)))"',
        ]
        done = subprocess.run(shell, env={}, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def spike(tmp_path_factory: pytest.TempPathFactory):
    cli = Cli(tmp_path_factory.mktemp("stack") / "state")
    cli.up()
    yield cli
    cli.run("down")


def test_status_lists_every_spike_and_part(spike):
    shown = json.loads(spike.run("status", "-o", "json").stdout)
    applications = {path.stem for path in (REPOSITORY / "deployments" / "applications").glob("*.yaml")}
    assert {row["spike"] for row in shown["spikes"]} == applications
    assert {part["name"] for part in shown["parts"]} == set(STORES.split(","))
    assert {part["state"] for part in shown["parts"]} == {"ready"}


def test_env_makes_a_shell_reach_every_store(spike):
    environ = spike.environment()
    script = (
        "from spike_pipelines.platform import Platform; p = Platform(); "
        "print(len(p.broker.topics([s.topic for s in p.spikes.values()])), p.ledger.datasets(), "
        "p.store.head('spike-lake', 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.stdout.split() == ["4", "()", "None"], done.stderr


def test_no_secret_is_in_any_file_argument_or_in_the_environment_of_a_part_that_does_not_need_it(spike):
    assert len(secrets_of(spike.state_dir)) >= 12
    assert files_with_secrets(spike.state_dir) == []
    assert arguments_with_secrets(spike.state_dir) == []
    told = {
        name: secrets_in_environment(spike.state_dir, spike.part(name)["process"]["pid"])
        for name in STORES.split(",")
    }
    assert told == {
        "kafka": set(),
        "postgres": set(),
        "s3": {"s3-access-key", "s3-secret-key"},
        "appender": {"postgres-spike_api"},
    }


def test_a_token_is_rotated_where_drivers_read_it_shown_once_listed_and_revoked(spike):
    name = "crt-payout-v1-1.0"
    file = spike.state_dir / "secrets" / "tokens" / name
    before = file.read_text()
    rotated = spike.run("token", "rotate", name, "--grace", "1h")
    assert rotated.returncode == 0, rotated.stderr
    assert file.read_text() != before
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() not in rotated.stdout + rotated.stderr
    made = spike.run("token", "new", name)
    secret = made.stdout.strip()
    assert secret.startswith("spk_")
    listed = spike.run("token", "list").stdout
    assert secret not in listed
    assert listed.count(name) == 3
    number = made.stderr.split()[1]
    assert (
        spike.run("token", "revoke", name, number).stdout
        == f"token {number} of {name} is refused from now on\n"
    )
    assert "over" in spike.run("token", "list").stdout
    unknown = spike.run("token", "new", "crt-payuot")
    assert (unknown.returncode, "no application file" in unknown.stderr) == (1, True)


def test_part_killed_with_sigkill_comes_back(spike):
    pid = spike.part("s3")["process"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: spike.part("s3")["restarts"] == 1 and spike.part("s3")["state"] == "ready")
    assert spike.part("s3")["process"]["pid"] != pid


def test_part_is_stopped_and_started_on_request(spike):
    assert spike.run("stack", "stop", "postgres").stdout == "postgres stopped\n"
    unknown = json.loads(spike.run("status", "-o", "json").stdout)["spikes"]
    assert {row["verdict"] for row in unknown} == {"UNKNOWN"}
    assert spike.run("stack", "start", "postgres").stdout == "postgres ready\n"


def test_unknown_part_is_refused_with_the_names_there_are(spike):
    done = spike.run("stack", "stop", "postgers")
    assert done.returncode == 1
    assert "no part is called 'postgers': there are kafka, postgres, s3, appender" in done.stderr


def test_second_stack_in_the_same_folder_is_refused(spike):
    done = spike.run("up", "--only", STORES, "--no-drivers", "--no-producer")
    assert done.returncode == 1
    assert "runs already" in done.stderr


def test_after_down_nothing_runs_and_after_up_the_data_is_there(spike):
    environ = spike.environment()
    put = "from spike_pipelines.platform import Platform; Platform().store.put('spike-lake', 'kept', b'data')"
    subprocess.run([sys.executable, "-c", put], env=environ, cwd=REPOSITORY, check=True)
    pids = [spike.part(name)["process"]["pid"] for name in STORES.split(",")]
    assert spike.run("stack", "stop", "kafka").stdout == "kafka stopped\n"
    assert "stopped on request: spike stack start kafka" in " ".join(spike.run("status").stdout.split())
    assert spike.run("down").returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    spike.up()
    assert spike.environment() == environ
    look = (
        "from spike_pipelines.platform import Platform as P; print(P().store.head('spike-lake', 'kept').size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], env=environ, cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert done.stdout == "4\n"


def test_stack_whose_manager_was_killed_is_cleaned_up_by_down(spike):
    snapshot = json.loads((spike.state_dir / "stack.json").read_text())
    os.kill(snapshot["manager"]["pid"], signal.SIGKILL)
    pids = [part["process"]["pid"] for part in snapshot["parts"]]
    until(lambda: spike.run("status").returncode == 1)
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert spike.run("down").returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("already", ["assembling", "handed over", "with a part"])
def test_down_ends_a_stack_that_still_starts(tmp_path, already):
    cli = Cli(tmp_path / "state")
    file = cli.state_dir / "stack.json"
    command = (*SPIKE, "up", "--detach", "--only", STORES, "--no-producer", "--no-drivers")
    starting = subprocess.Popen(command, env=cli.environ(), cwd=REPOSITORY, stderr=subprocess.PIPE)

    def reached() -> bool:
        snapshot = json.loads(file.read_text()) if file.exists() else {"manager": {}, "parts": []}
        manager = snapshot["manager"].get("pid")
        handed = manager not in {None, starting.pid}
        parts = [part for part in snapshot["parts"] if part["process"]]
        return {"assembling": bool(manager), "handed over": handed, "with a part": bool(parts)}[already]

    until(reached)
    done = cli.run("down")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"nothing runs any more; the data is in {cli.state_dir}\n"
    assert starting.wait(DEADLINE_SECONDS) != 0
    starting.stderr.close()
    assert not file.exists()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(cli.state_dir) in str(p.info["cmdline"])]
    assert not left


def test_terminal_shows_a_live_table_and_ctrl_c_ends_everything(tmp_path):
    """In a terminal of its own, where Ctrl-C is a key."""
    state_dir, shown, pid = attached(tmp_path)
    parts = json.loads((state_dir / "stack.json").read_text())["parts"]
    os.write(shown.descriptor, b"\x03")
    shown.until("stopped; the data is in")
    _, status = os.waitpid(pid, 0)
    os.close(shown.descriptor)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not any(psutil.pid_exists(part["process"]["pid"]) for part in parts)


def test_a_terminal_that_is_closed_ends_everything(tmp_path):
    state_dir, shown, pid = attached(tmp_path)
    parts = json.loads((state_dir / "stack.json").read_text())["parts"]
    os.close(shown.descriptor)
    os.waitpid(pid, 0)
    assert not any(psutil.pid_exists(part["process"]["pid"]) for part in parts)
    assert not (state_dir / "stack.json").exists()


def attached(tmp_path):
    """The stores in a terminal, once its table is there."""
    state_dir = tmp_path / "state"
    command = [
        sys.executable,
        "-m",
        "spike_pipelines.cli.main",
        "up",
        "--only",
        STORES,
        "--no-producer",
        "--no-drivers",
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"SPIKE_STATE_DIR": str(state_dir), "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
        os.chdir(REPOSITORY)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under `nohup`
        os.execv(sys.executable, command)
    shown = Terminal(terminal)
    shown.until("crt-payout-v1-1.0")
    return state_dir, shown, pid


class Terminal:
    """What was written to a terminal so far."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.text = ""

    def until(self, expected: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while expected not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.descriptor], [], [], 1)[0]:
                self.text += self._read()

    def _read(self) -> str:
        try:
            return os.read(self.descriptor, 65536).decode(errors="replace")
        except OSError as error:  # its process has ended
            raise AssertionError(self.text) from error


@pytest.mark.parametrize("command", ["status", "env"])
def test_without_a_stack_the_error_says_how_to_start_one(tmp_path, command):
    done = Cli(tmp_path / "none").run(command)
    assert done.returncode == 1
    assert "start one with `spike up`" in done.stderr
    assert not done.stdout
