"""Where the parts of the platform are, from the environment: the same names on a laptop and in a pod."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from spike_pipelines.domain.errors import InvalidSpec


class Settings(BaseModel):
    """Each field is read from `SPIKE_<FIELD>`; see `spike env` for the embedded stack's values.

    `ledger_url` and `catalog_url` are SQLAlchemy URLs (`postgresql+psycopg2://…`), each process with the
    role it needs; `ledger_admin_url` is the owner's, for migrations and tokens. Without
    `s3_endpoint` it is AWS; credentials are the AWS SDK's own (`AWS_ACCESS_KEY_ID`, a role, …).
    `namespace` is where spikes run in Kubernetes; with `token_audience` the appender, in a pod, also takes
    tokens for that audience of ServiceAccounts there. `spike deploy` installs `chart` with `chart_values`,
    which are the same for all spikes, puts application files into `applications_config_map`
    (`namespace/name`), and has Dagster at `dagster_url` load its code location again.
    A recovery counts towards the back-off of the next for `recovery_window_seconds`.
    `state_dir` belongs to the embedded stack: processes, logs, secrets.
    `cluster` says where drivers run: as processes of this machine, or as SparkApplications in `namespace`
    of the Kubernetes cluster that this process is in or that KUBECONFIG names. `on_demand_nodes` is the label
    (`key=value`) of nodes that are not taken away, for drivers after a wave of evictions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ledger_url: SecretStr | None = None
    ledger_admin_url: SecretStr | None = None
    catalog_url: SecretStr | None = None
    kafka_bootstrap: str | None = None
    s3_endpoint: str | None = None
    appender_url: str | None = None
    warehouse: str = "s3://spike-lake/warehouse"
    applications_dir: Path = Path("deployments/applications")
    state_dir: Path = Path(".spike")
    cluster: Literal["processes", "kubernetes"] = "processes"
    namespace: str = "spike-streaming"
    on_demand_nodes: str | None = Field(None, pattern=r"^[A-Za-z0-9._/-]+=[A-Za-z0-9._-]+$")
    token_audience: str | None = None
    chart: Path = Path("deployments/charts/spike")
    chart_values: Path = Path("deployments/platform.yaml")
    dagster_url: str | None = None
    applications_config_map: str = Field(
        "spike-platform/spike-applications", pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$"
    )
    recovery_window_seconds: float = 3600.0
    retention_grace_hours: float = Field(24, gt=0)  # from "nobody needs it" to "it is deleted"
    retention_snapshot_hours: float = Field(
        7 * 24, gt=0
    )  # no reader travels further; publication thins before
    retention_keep_snapshots: int = Field(5, ge=1)  # of each table, however old
    retention_run_days: float = Field(30, gt=0)  # of Dagster's runs and their event logs

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Settings":
        env = os.environ if env is None else env
        found = {name: env[key] for name in cls.model_fields if (key := f"SPIKE_{name.upper()}") in env}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise InvalidSpec("; ".join(_in_words(e) for e in error.errors())) from error

    def admin_url(self) -> str:
        """Of the ledger, as its owner; where there is no such setting, one role does everything."""
        return self.require("ledger_url" if self.ledger_admin_url is None else "ledger_admin_url")

    def require(self, name: str) -> str:
        """The setting's plain value, or an error that says how to set it."""
        value = getattr(self, name)
        if value is None:
            raise InvalidSpec(
                f'SPIKE_{name.upper()} is not set: run `eval "$(spike env)"` beside a running `spike up`, '
                "or set it to your own server (on Kubernetes: docs/deploying.md)"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _in_words(error: ErrorDetails) -> str:
    """No field that is a secret can be refused, so the value may be told."""
    name = f"SPIKE_{str(error['loc'][0]).upper()}"
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"
