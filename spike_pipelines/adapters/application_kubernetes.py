"""Optional keys of application files that only Kubernetes needs, under the names SparkApplications have.

Nothing of it reaches the `Spike`: the chart `deployments/charts/spike` reads them. What has no key here
goes into `sparkApplication`, which the chart merges over the rest of the resource's spec.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from spike_pipelines.adapters.application_part import Part

MAX_GRACE_SECONDS = 3600


_CPU = r"[1-9]\d{0,5}m|\d{1,3}(?:\.\d{1,3})?"
_OVERHEAD = r"[1-9]\d{0,5}[mg]"


def _amount(pattern: str, of: str, example: str) -> Callable[[str], str]:
    """Text that Kubernetes or Spark reads as an amount."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"'{value}' is not an amount of {of}: write it as in {example}")
        return value

    return check


def _text_like(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


CpuQuantity = Annotated[StrictStr, AfterValidator(_amount(_CPU, "CPU", "500m or 1.5")), _text_like(_CPU)]
Overhead = Annotated[StrictStr, AfterValidator(_amount(_OVERHEAD, "memory", "384m")), _text_like(_OVERHEAD)]
ConfKey = Annotated[StrictStr, Field(pattern=r"^spark\.[A-Za-z0-9._-]+$")]
HadoopKey = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Strings = dict[StrictStr, StrictStr]
# By its end: `…token.file` and `…oauthTokenFile` name a file, and Spark's own keys of Secrets name Secrets.
_SECRET = re.compile(r"(?i)(password|secret|token|access[.]?key|secret[.]?key|account[.]key[.].*)$")
_NAMES_A_SECRET = re.compile(r"^spark[.]kubernetes[.](driver|executor)[.](secrets|secretKeyRef)[.]")


def _without_secrets(conf: dict[str, str]) -> dict[str, str]:
    """What an application file says is in git, in the resource, and in its driver's command line."""
    for key in conf:
        if _SECRET.search(key) and not _NAMES_A_SECRET.match(key):
            raise ValueError(
                f"'{key}' is a secret by its name, and this file is no place for one: take it out, "
                f"rotate it, and give it to pods by a Secret (docs/deploying.md)"
            )
    return conf


SparkConf = Annotated[dict[ConfKey, StrictStr], AfterValidator(_without_secrets)]
HadoopConf = Annotated[dict[HadoopKey, StrictStr], AfterValidator(_without_secrets)]


class Toleration(Part):
    key: StrictStr | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: StrictStr | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[StrictInt, Field(ge=0)] | None = None


class Pod(Part):
    """Of a driver or an executor. `affinity` is Kubernetes' own."""

    core_request: CpuQuantity | None = None
    core_limit: CpuQuantity | None = None
    memory_overhead: Overhead | None = None
    java_options: StrictStr | None = None
    priority_class_name: StrictStr | None = None
    termination_grace_period_seconds: Annotated[StrictInt, Field(ge=0, le=MAX_GRACE_SECONDS)] | None = None
    labels: Strings | None = None
    annotations: Strings | None = None
    node_selector: Strings | None = None
    affinity: dict[StrictStr, Any] | None = None
    tolerations: list[Toleration] | None = None


class Spot(Part):
    """Which pods may stand on spot nodes, where the platform's values say what a spot node is."""

    driver: StrictBool | None = None
    executor: StrictBool | None = None


class KubernetesKeys(Part):
    """Top-level keys."""

    image: Annotated[StrictStr, Field(min_length=1)] | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    spark_conf: SparkConf | None = None
    hadoop_conf: HadoopConf | None = None
    spot: Spot | None = None
    spark_application: dict[StrictStr, Any] | None = None
