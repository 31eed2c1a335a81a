"""Application files in a ConfigMap (port `ApplicationShelf`), which appender and code location mount."""

from contextlib import suppress
from dataclasses import dataclass

from spike_pipelines.adapters.applications import SUFFIX
from spike_pipelines.adapters.kubernetes import paths
from spike_pipelines.adapters.kubernetes.api import Api
from spike_pipelines.domain.errors import AlreadyExists, InvalidSpec, ObjectMissing

MOST_BYTES = 900_000  # of the 1 MiB that a ConfigMap may have; a patch that is too large is refused anyway


@dataclass(frozen=True, slots=True)
class ConfigMapShelf:
    """`place` is `namespace/name`. A patch touches one key: other spikes' files stay as they are."""

    api: Api
    place: str

    def get(self, name: str) -> str | None:
        try:
            found = self.api.get(self._path)
        except ObjectMissing:
            return None
        text: str | None = (found.get("data") or {}).get(_file(name))
        return text

    def remove(self, name: str) -> None:
        with suppress(ObjectMissing):
            self.api.patch(self._path, {"data": {_file(name): None}})

    def put(self, name: str, text: str) -> None:
        if len(text.encode()) > MOST_BYTES:
            raise InvalidSpec(f"{name}: an application file of {len(text)} characters fits into no ConfigMap")
        data = {_file(name): text}
        try:
            self.api.patch(self._path, {"data": data})
        except ObjectMissing:
            with suppress(AlreadyExists):  # somebody else's first deployment made it just now
                self.api.post(self._collection, {"metadata": {"name": self._name}, "data": data})
                return
            self.api.patch(self._path, {"data": data})

    @property
    def _collection(self) -> str:
        return paths.config_maps(self.place.partition("/")[0])

    @property
    def _name(self) -> str:
        return self.place.partition("/")[2]

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._name}"


def _file(name: str) -> str:
    return f"{name}{SUFFIX}"
