"""What puts a spike into a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spike_pipelines.domain.spike import Spike


@dataclass(frozen=True, slots=True)
class Deployed:
    """`revision` numbers the deployments of a spike; `changed`: its spec is another than that of the
    deployment before, as far as the records say; `spec` names what was deployed, as
    `ObservedApplication.deployed` does."""

    revision: int
    changed: bool
    spec: str


class Deployer(Protocol):
    """What puts a spike into the cluster, and remembers what was there before. Raises `InvalidSpec` where the
    application cannot be deployed as it is, `Conflict` while somebody else deploys the same."""

    def deploy(self, spike: Spike, application: Path) -> Deployed: ...

    def good_revision(self, spike: Spike, bad: int, stable: str | None) -> int | None:
        """What to go back to from revision `bad`: of spec `stable`, if one is known to have worked.
        None if there is none, or if another revision was deployed after `bad`."""

    def roll_back(self, spike: Spike, revision: int) -> None: ...

    def uninstall(self, name: str) -> bool:
        """End the release of this resource name; False if there was none."""

    def application(self, spike: Spike, revision: int) -> str:
        """The text of the application file of that revision."""
