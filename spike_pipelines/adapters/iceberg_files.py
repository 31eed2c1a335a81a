"""Data files of an Iceberg table: made from Parquet footers, and found again by their URI."""

import io
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Lock
from typing import cast

import pyarrow as pa
from pyiceberg.expressions import BooleanExpression, In
from pyiceberg.expressions.visitors import manifest_evaluator
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from spike_pipelines.domain.batch import hour_number
from spike_pipelines.domain.errors import InvariantBroken, ObjectMissing
from spike_pipelines.ports import LiveFile, ParquetFooter

FOOTERS_AT_ONCE = 8


class Judged:
    """What `misfit` found of the newest files that fit: their publication need not read them again.

    It never ages: a final key is given once and its object made once, of the bytes that were judged. The
    table's columns are part of the key; another process, or one that has forgotten, reads the footer.
    """

    def __init__(self, most: int = 2_000) -> None:
        self._most = most
        self._found: OrderedDict[tuple[str, LiveFile], DataFile] = OrderedDict()
        self._lock = Lock()

    def keep(self, shape: str, file: LiveFile, data: DataFile) -> None:
        with self._lock:
            self._found[shape, file] = data
            while len(self._found) > self._most:
                self._found.popitem(last=False)

    def of(self, shape: str, file: LiveFile) -> DataFile | None:
        with self._lock:
            return self._found.get((shape, file))


def _shape(metadata: TableMetadata) -> str:
    """What a file's entry depends on, beside the file."""
    return f"{metadata.table_uuid} {metadata.default_spec_id} {metadata.schema().model_dump_json()}"


def from_footers(table: Table, files: Collection[LiveFile], judged: Judged) -> list[DataFile]:
    """What Iceberg notes of each file: rows, bytes, hour and the columns' bounds, from its footer.

    Raises `ObjectMissing`, and `InvariantBroken` where a file is not what the ledger says or does not
    fit the table.
    """
    name, shape = ".".join(table.name()), _shape(table.metadata)
    known = [judged.of(shape, file) for file in files]
    unknown = [file for file, data in zip(files, known, strict=True) if data is None]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        read = pool.map(lambda file: _from_footer(name, table.metadata, file, table.io), unknown)
        return [next(read) if data is None else data for data in known]


def misfit(
    name: str, metadata: TableMetadata, files: Iterable[tuple[LiveFile, ParquetFooter]], judged: Judged
) -> str | None:
    """Why `from_footers` would refuse one of the files for such a table; its footer was read before."""
    shape = _shape(metadata)
    for file, footer in files:
        try:
            source = _FooterOnly(file.size, footer.tail)
            judged.keep(shape, file, _from_footer(name, metadata, file, source))
        except InvariantBroken as error:
            return str(error)
    return None


class _FooterOnly(FileIO):
    """Every file is one whose last bytes are at hand."""

    def __init__(self, size: int, tail: bytes) -> None:
        super().__init__()
        self._size = size
        self._tail = tail

    def new_input(self, location: str) -> InputFile:
        return _Footer(location, self._size, self._tail)

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError(location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise NotImplementedError(location)


class _Footer(InputFile):
    def __init__(self, location: str, size: int, tail: bytes) -> None:
        super().__init__(location)
        self._size = size
        self._tail = tail

    def __len__(self) -> int:
        return self._size

    def exists(self) -> bool:
        return True

    def open(self, seekable: bool = True) -> InputStream:  # noqa: ARG002 pyiceberg's own
        return io.BytesIO(self._tail)


def _from_footer(name: str, metadata: TableMetadata, file: LiveFile, source: FileIO) -> DataFile:
    try:
        data = parquet_file_to_data_file(source, metadata, file.uri)
    except FileNotFoundError as error:
        raise ObjectMissing(f"{file.uri} is not there") from error
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InvariantBroken(f"{file.uri} does not fit table {name}: {_briefly(error)}") from error
    said = (file.rows, file.size, hour_number(file.hour))
    found = (data.record_count, data.file_size_in_bytes, data.partition[0])
    if said != found:
        raise InvariantBroken(f"{file.uri} has (rows, bytes, hour) {found}, the ledger says {said}")
    return data


def _briefly(error: Exception) -> str:
    """pyiceberg draws a table of all columns: only those that do not fit are news."""
    lines = [line.strip("│ ") for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line.startswith("❌")) or lines[0]


def find(table: Table, uris: Collection[str], hours: Collection[datetime] | None) -> list[DataFile]:
    """Those of the files that the current snapshot has. With `hours`, only manifests that may hold
    these hours are read; without, all are."""
    if not uris:
        return []
    wanted = frozenset(uris)
    return [data for data in data_files(table, hours) if data.file_path in wanted]


def data_files(
    table: Table, hours: Collection[datetime] | None = None, *, snapshot: int | None = None
) -> Iterator[DataFile]:
    """Every data file of a snapshot (the current one), or those in manifests that may hold `hours`."""
    chosen = table.current_snapshot() if snapshot is None else table.snapshot_by_id(snapshot)
    if chosen is None:
        return
    may_hold = _may_hold(table, hours)
    for manifest in chosen.manifests(table.io):
        if manifest.content == ManifestContent.DATA and may_hold(manifest):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file


def delete_files(table: Table) -> Iterator[DataFile]:
    """What hides rows of data files in the current snapshot: made by others, we replace whole files."""
    chosen = table.current_snapshot()
    for manifest in chosen.manifests(table.io) if chosen else ():
        if manifest.content == ManifestContent.DELETES:
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file


def _may_hold(table: Table, hours: Collection[datetime] | None) -> Callable[[ManifestFile], bool]:
    """Judges a manifest by the bounds of its partition, which the manifest list has."""
    if hours is None:
        return lambda _manifest: True
    spec = table.spec()
    numbers = {hour_number(hour) for hour in hours}
    # pydantic hides this constructor's own signature from mypy
    any_of = cast("Callable[..., BooleanExpression]", In)(spec.fields[0].name, numbers)
    judge = manifest_evaluator(spec, table.schema(), any_of)
    return lambda manifest: manifest.partition_spec_id != spec.spec_id or judge(manifest)
