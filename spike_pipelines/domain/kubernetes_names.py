"""What a spike is called in Kubernetes, and the keys under which our marks stand on its resources.

A display name may have dots (`crt-payout-v1-1.0`); the operator takes DNS-1035 labels only, since pods
and services are named after the application. The chart does the same (`spike.name` in its
`_helpers.tpl`); a test holds the two together.
"""

import re

from spike_pipelines.domain.errors import InvalidSpec

MAX_NAME = 50  # of 63: pods and services of an application append to it
DNS_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")

GROUP = "sparkoperator.k8s.io"
VERSION = "v1beta2"
PLURAL = "sparkapplications"

SPIKE_LABEL = "spike-pipelines.io/spike"  # the display name; on the SparkApplication and all its pods
PART_OF_LABEL = ("app.kubernetes.io/part-of", "spike-pipelines")
SPEC_HASH_ANNOTATION = "spike-pipelines.io/spec-hash"  # `Spike.version` of the file it was made from
SPEC_DIGEST_ANNOTATION = "spike-pipelines.io/spec-digest"  # of the whole spec, as Helm rendered it
FILE_LABEL = "spike-pipelines.io/application-file"  # on a ConfigMap with an application file: its version


def resource_name(display_name: str) -> str:
    """`crt-payout-v1-1-0` for `crt-payout-v1-1.0`. Raises `InvalidSpec` where no such name can be made."""
    name = display_name.replace(".", "-")
    if len(name) > MAX_NAME or DNS_1035.fullmatch(name) is None:
        raise InvalidSpec(
            f"'{display_name}' cannot be a name in Kubernetes: at most {MAX_NAME} small letters, "
            "digits, - and ., beginning with a letter and ending with a letter or digit"
        )
    return name


def advice_on(found: str) -> str | None:
    """What to do about a SparkApplication named `found` that the operator refuses; None if it does not."""
    if DNS_1035.fullmatch(found) is not None and len(found) <= MAX_NAME:
        return None
    fitting = found.replace(".", "-")
    if DNS_1035.fullmatch(fitting) is None or len(fitting) > MAX_NAME:
        return (
            f"{found} is no DNS-1035 name and cannot become one: give the spike another name, then delete it"
        )
    return (
        f"{found} is no DNS-1035 name, which the operator has refused since 2.4: deploy the spike as "
        f"{fitting} (`spike deploy {found}`), see it commit, then `kubectl delete sparkapplication {found}`"
    )
