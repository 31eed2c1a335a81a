"""Application files in a ConfigMap (port `ApplicationShelf`), which appender and code location mount."""

from contextlib import suppress
from dataclasses import dataclass

from spike_pipelines.adapters.kubernetes.api import Api
from spike_pipelines.domain.errors import AlreadyExists, InvalidSpec, ObjectMissing

MOST_BYTES = 900_000  # of the 1 MiB that a ConfigMap may have; a patch that is too large is refused anyway


@dataclass(frozen=True, slots=True)
class ConfigMapShelf:
    """`place` is `namespace/name`. A patch touches one key: other spikes' files stay as they are."""

    api: Api
    place: str

    def put(self, name: str, text: str) -> None:
        if len(text.encode()) > MOST_BYTES:
            raise InvalidSpec(f"{name}: an application file of {len(text)} characters fits into no ConfigMap")
        namespace, _, config_map = self.place.partition("/")
        collection = f"/api/v1/namespaces/{namespace}/configmaps"
        one, data = f"{collection}/{config_map}", {f"{name}.yaml": text}
        try:
            self.api.patch(one, {"data": data})
        except ObjectMissing:
            with suppress(AlreadyExists):  # somebody else's first deployment made it just now
                self.api.post(collection, {"metadata": {"name": config_map}, "data": data})
                return
            self.api.patch(one, {"data": data})
