"""Application files, the only place a spike is described, read into `Spike` values.

Every problem of a file is told at once, each as `file:line: what is wrong: way out`.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from spike_pipelines.adapters import application_hash, yaml_document
from spike_pipelines.adapters.application_schema import Application
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Spike

SUFFIX = ".yaml"
MAX_APPLICATIONS = 5_000


def load_application(path: Path) -> Spike:
    """Read one file. Raises `InvalidSpec` with one line for each problem."""
    try:
        raw = path.read_bytes()
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: cannot be read: {error}") from error
    return parse_application(text, path)


def parse_application(text: str, path: Path) -> Spike:
    """As `load_application`, for text that would be the file at `path`.

    The version changes with whatever the file says (`application_hash`).
    """
    document = yaml_document.read(text, str(path))
    problems = list(document.problems)
    application: Application | None = None
    try:
        application = Application.model_validate(document.root)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems += [_describe(document, detail) for detail in _each_once(details)]
    if application is not None and f"{application.name}{SUFFIX}" != path.name:
        line = document.line_of(("name",))
        problems.append(
            f"{path}:{line}: name is '{application.name}' but the file is {path.name}: "
            f"call the file {application.name}{SUFFIX}, or mend the name"
        )
    if application is None or problems:
        raise InvalidSpec("\n".join(problems))
    return application.as_spike(application_hash.version(document.root))


@dataclass(frozen=True, slots=True)
class Applications:
    """What a folder describes: its spikes by name, and by file name without suffix what is wrong with
    the files that describe none."""

    spikes: Mapping[str, Spike]
    broken: Mapping[str, str]


def fingerprint(directory: Path) -> str:
    """Of all that is read of it: another one as soon as a file is another."""
    digest = hashlib.sha256()
    for path in sorted((*directory.glob(f"*{SUFFIX}"), *directory.glob("*.yml"))):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def load_applications(directory: Path) -> tuple[Spike, ...]:
    """All spikes of a directory, by name. Raises `InvalidSpec` with the problems of all files."""
    found = read_applications(directory)
    if found.broken:
        raise InvalidSpec("\n".join(found.broken.values()))
    return tuple(found.spikes.values())


def read_applications(directory: Path) -> Applications:
    """As `load_applications`, but one file's mistake does not hide the other spikes (I11).

    Of two spikes that clash, the first by name stands. Raises `InvalidSpec` for the folder itself.
    """
    if not directory.is_dir():
        raise InvalidSpec(
            f"{directory}: no such directory: set SPIKE_APPLICATIONS_DIR to the folder of application files"
        )
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    if len(paths) > MAX_APPLICATIONS:
        raise InvalidSpec(f"{directory}: {len(paths)} application files, at most {MAX_APPLICATIONS} are read")
    spikes: dict[str, Spike] = {}
    broken = {
        path.stem: f"{path}: application files end in {SUFFIX}: rename it" for path in directory.glob("*.yml")
    }
    for path in paths:
        try:
            spikes[path.stem] = load_application(path)
        except InvalidSpec as error:
            broken[path.stem] = str(error)
    for name, problem in _clashes(directory, list(spikes.values())):
        spikes.pop(name, None)
        broken[name] = "\n".join(filter(None, (broken.get(name), problem)))
    return Applications(spikes, broken)


def application_path(directory: Path, name: str) -> Path:
    """Where the application file of the spike of this name is, or would be."""
    return directory / f"{name}{SUFFIX}"


def _clashes(directory: Path, spikes: Iterable[Spike]) -> Iterator[tuple[str, str]]:
    """Two spikes may not share a Kubernetes name or a table (their dead letters' included)."""
    names: dict[str, Spike] = {}
    tables: dict[str, Spike] = {}
    for spike in spikes:
        first = names.setdefault(spike.resource_name, spike)
        if first is not spike:
            yield spike.name, _clash(directory, spike, "name", f"becomes {spike.resource_name}", first)
        for table in spike.dataset.tables.values():
            first = tables.setdefault(table, spike)
            if first is not spike:
                yield spike.name, _clash(directory, spike, "dataset", f"writes table {table}", first)


def _clash(directory: Path, spike: Spike, key: str, what: str, first: Spike) -> str:
    path = application_path(directory, spike.name)
    line = yaml_document.read(path.read_text(), str(path)).line_of((key,))
    return f"{path}:{line}: {key} {what}, and so does {first.name}: give one of them another {key}"


def _each_once(details: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """A key that is written wrong is missing as well: the one who wrote it is told the former."""
    unknown = [tuple(d["loc"]) for d in details if d["type"] == "extra_forbidden"]
    meant = {(*path[:-1], name) for path in unknown for name in _meant(path)}
    for detail in details:
        if detail["type"] != "missing" or tuple(detail["loc"]) not in meant:
            yield detail


def _meant(unknown: yaml_document.Path) -> list[str]:
    """The allowed key that is most like it, if there is one."""
    return difflib.get_close_matches(str(unknown[-1]), _keys_at(unknown[:-1]), n=1)


def _describe(document: yaml_document.Document, detail: ErrorDetails) -> str:
    """One problem pydantic found, as a person reads it."""
    path = tuple(part for part in detail["loc"] if part != "function-plain")
    where = f"{document.source}:{document.line_of(path)}"
    name = ".".join(str(part) for part in path)
    writer = _WRITERS.get(detail["type"])
    if writer is not None:
        return writer(document, path, detail)
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:] if message.startswith("Input ") else message
    return f"{where}: {name}: {message}" if name else f"{where}: {message}"


def _unknown_key(document: yaml_document.Document, path: yaml_document.Path, _: ErrorDetails) -> str:
    allowed = _keys_at(path[:-1])
    meant = _meant(path)
    hint = f"; did you mean '{meant[0]}'?" if meant else ";"
    inside = ".".join(str(part) for part in path[:-1]) or "the application"
    return (
        f"{document.source}:{document.line_of(path)}: unknown key '{path[-1]}' in {inside}{hint} "
        f"allowed: {', '.join(allowed)}"
    )


def _missing_key(document: yaml_document.Document, path: yaml_document.Path, _: ErrorDetails) -> str:
    inside = ".".join(str(part) for part in path[:-1]) or "the application"
    line = document.line_of(path[:-1])
    return f"{document.source}:{line}: key '{path[-1]}' is missing in {inside}: add it"


def _not_a_mapping(document: yaml_document.Document, path: yaml_document.Path, _: ErrorDetails) -> str:
    name = ".".join(str(part) for part in path) or "the file"
    keys = ", ".join(_keys_at(path))
    return f"{document.source}:{document.line_of(path)}: {name}: must be a mapping with the keys {keys}"


def _bad_ddl(document: yaml_document.Document, path: yaml_document.Path, detail: ErrorDetails) -> str:
    """The DDL parser counts within the schema; a person looks for the line of the file."""
    place, inside = document.values[path], detail["ctx"]
    line = place.line + inside["line"] - (0 if place.block else 1)
    indent = 0
    if place.block:
        shown = document.text.splitlines()[line - 1 : line] or [""]
        indent = len(shown[0]) - len(shown[0].lstrip())
        base = str(document.root["schema"]).split("\n")[inside["line"] - 1]
        indent -= len(base) - len(base.lstrip())
    return f"{document.source}:{line}: schema, column {inside['column'] + indent}: {inside['problem']}"


_Writer = Callable[[yaml_document.Document, yaml_document.Path, ErrorDetails], str]
_WRITERS: dict[str, _Writer] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing_key,
    "model_type": _not_a_mapping,
    "ddl": _bad_ddl,
}


def _keys_at(path: yaml_document.Path) -> list[str]:
    """The keys a mapping at `path` of an application file may have, its own before those it shares."""
    model: type[BaseModel] = Application
    for part in path:
        if isinstance(part, int):
            continue  # the items of a list are all of one kind
        field = next((f for f in model.model_fields.values() if f.alias == part), None)
        inner = None if field is None else next(_models(field.annotation), None)
        if inner is None:
            return []
        model = inner
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] not in model.__annotations__)
    return [field.alias or name for name, field in fields]


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in a field's type: itself, of `… | None`, or of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _models(inner)
