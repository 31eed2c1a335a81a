"""Another application file from an existing one: the same text, comments and all, but for what is its own."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from spike_pipelines.adapters import yaml_document
from spike_pipelines.adapters.applications import application_path, load_applications, parse_application
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Spike

_NAME = re.compile(r"[a-z][a-z0-9.-]*")
_PLAIN = re.compile(r"[A-Za-z][\w .;,-]*")


def copy_application(
    directory: Path,
    *,
    name: str,
    like: str,
    topic: str | None,
    more: Mapping[yaml_document.Path, str] = MappingProxyType({}),
) -> Path:
    """Write `name`.yaml and return its path. `more` are other values than `like` has. Raises `InvalidSpec`;
    then nothing was written."""
    path, text, _ = _prepared(directory, name, like, topic, more)
    try:
        with path.open("x") as file:
            file.write(text)
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be written: {error.strerror}") from error
    return path


def check_copy(
    directory: Path, *, name: str, like: str, topic: str | None, more: Mapping[yaml_document.Path, str]
) -> Spike:
    """The spike that `copy_application` would describe. Raises `InvalidSpec` where it would."""
    return _prepared(directory, name, like, topic, more)[2]


def _prepared(
    directory: Path, name: str, like: str, topic: str | None, more: Mapping[yaml_document.Path, str]
) -> tuple[Path, str, Spike]:
    """Path and text of the new file, and what they say."""
    spikes = {spike.name: spike for spike in load_applications(directory)}
    if like not in spikes:
        raise InvalidSpec(f"--from {like}: no such application; there are: {', '.join(spikes) or 'none'}")
    if _NAME.fullmatch(name) is None:
        raise InvalidSpec(f"'{name}' is not a name: small letters, digits, - and ., as in crt-refund-v1-1.0")
    path = application_path(directory, name)
    if path.exists():
        raise InvalidSpec(f"{path} exists already: choose another name, or edit it")
    source = application_path(directory, like)
    base = re.sub(r"-v\d.*$", "", name)
    values: dict[yaml_document.Path, str] = {
        ("name",): name,
        ("description",): f"Made from {like}; say what it is for.",
        ("topic",): topic or base.replace("-", "."),
        ("dataset", "name"): _free_dataset(name, base, spikes),
    }
    text = replace_values(source.read_text(), str(source), values | dict(more))
    spike = parse_application(text, path)
    _check(spike, spikes)
    return path, text, spike


def replace_values(text: str, source: str, values: Mapping[yaml_document.Path, str]) -> str:
    """The same text with other scalars at these paths; everything around them stays as it was."""
    document = yaml_document.read(text, source)
    places = sorted(
        ((document.values[path], value) for path, value in values.items()), key=lambda p: -p[0].start
    )
    for place, value in places:
        ending = "\n" if place.block else ""
        text = f"{text[: place.start]}{_scalar(value)}{ending}{text[place.end :]}"
    return text


def _scalar(value: str) -> str:
    """As YAML writes it: plain where nothing in it has a meaning to YAML, else quoted."""
    plain = _PLAIN.fullmatch(value) is not None and value.lower() not in ("true", "false", "null")
    return value if plain else json.dumps(value)


def _free_dataset(name: str, base: str, spikes: Mapping[str, Spike]) -> str:
    """`crt_refund`, or with the version where another spike has that table."""
    taken = {table for spike in spikes.values() for table in spike.dataset.tables.values()}
    short = re.sub(r"[.-]", "_", base)
    return re.sub(r"[.-]", "_", name) if short in taken else short


def _check(spike: Spike, others: Mapping[str, Spike]) -> None:
    for other in others.values():
        if spike.resource_name == other.resource_name:
            raise InvalidSpec(f"'{spike.name}' and {other.name} are both {spike.resource_name} in Kubernetes")
        if {*spike.dataset.tables.values()} & {*other.dataset.tables.values()}:
            raise InvalidSpec(f"dataset {spike.dataset.name} belongs to {other.name}: choose another name")
