"""Every line of a store's ledger, the damaged ones included: what checking and repairing a store begins with.

A `Ledger` reads what is sound and leaves out the rest. Here each line is looked at by itself, so that one that is wrong
about its shard does not make the lines after it look wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy
import xxhash

from actframe.errors import FormatError, StorageError
from actframe.storage.ledger_files import Array, ShardFacts
from actframe.storage.ledger_lines import STORED, Stored, decode_line
from actframe.storage.store_folder import StoreFolder, check_name

__all__ = ["LINE", "FileScan", "LedgerScan", "line_digest", "scan_ledger"]

LINE = numpy.dtype(
    [("file", "i4"), ("start", "i8"), ("stop", "i8"), ("shard", "i4"), ("index", "i4"), ("claim", "i4"), ("said", "u8")]
)
"""Where a line is, what it says of its shard, and a hash of what its record says."""

_BLOCK_BYTES = 4 << 20
_PIECE = 65_536
_CHECKSUM = re.compile(rb"xxh3_128:[0-9a-f]{32}")
_STORED_KEY = b'"%b":' % STORED.encode()


@dataclass
class FileScan:
    """One file of the ledger.

    Attributes:
        name: in the folder `ledger`.
        damaged: the numbers of lines that cannot be read, from 1, and why.
        torn: whether it ends in the middle of a line.
        held: whether a process has it open that still runs.
    """

    name: str
    damaged: list[tuple[int, str]] = field(default_factory=list)
    torn: bool = False
    held: bool = False


@dataclass(frozen=True)
class LedgerScan:
    """What is in the ledger of a store.

    Attributes:
        files: in the order in which they are read.
        lines: of `LINE`: those that can be read.
        shards: the names that lines give, numbered.
        claims: what lines say of their shard, numbered: which shard, and the facts.
        checksums: every checksum that stands anywhere in the ledger, in damaged lines too.
    """

    files: list[FileScan]
    lines: Array
    shards: list[str]
    claims: list[tuple[str, ShardFacts]]
    checksums: set[str]


def line_digest(line: bytes) -> int:
    """A hash of what a record says: of a line as `encode_line` makes it, without its newline."""
    return xxhash.xxh3_64_intdigest(line)


def scan_ledger(folder: StoreFolder, held: Collection[str] | None = None) -> LedgerScan:
    """Look at every line of the ledger.

    Args:
        folder: of the store.
        held: the files that a process has open which still runs; None: ask for each.

    Raises:
        StorageError: a file cannot be read.
    """
    names = [name for name in folder.sizes("ledger") if name.endswith(".jsonl")]
    reader = _Reader()
    for name in names:
        reader.read(folder, name, folder.has_writer(f"ledger/{name}") if held is None else name in held)
    claims = list(reader.claims)
    reader.checksums.update(facts.checksum for _, facts in claims)
    lines = numpy.concatenate([numpy.empty(0, LINE), *reader.pieces])
    return LedgerScan(reader.files, lines, list(reader.shards), claims, reader.checksums)


class _Row(msgspec.Struct, gc=False):
    stored: Stored


class _Reader:
    def __init__(self) -> None:
        self.files: list[FileScan] = []
        self.pieces: list[Array] = []
        self.shards: dict[str, int] = {}
        self.claims: dict[tuple[str, ShardFacts], int] = {}
        self.checksums: set[str] = set()

    def read(self, folder: StoreFolder, name: str, held: bool) -> None:
        """Look at one file."""
        file = FileScan(name, held=held)
        self.files.append(file)
        found: list[tuple[int, ...]] = []
        for number, (start, line) in enumerate(_lines(folder, f"ledger/{name}"), start=1):
            stop = start + len(line)
            if not line.endswith(b"\n"):
                file.torn = True
                self._keep_checksums(line)
            elif line.strip():
                try:
                    found.append((len(self.files) - 1, start, stop, *self._place(line.strip())))
                except StorageError as error:
                    file.damaged.append((number, str(error)))
                    self._keep_checksums(line)
            if len(found) == _PIECE:
                self.pieces.append(numpy.array(found, LINE))
                found = []
        self.pieces.append(numpy.array(found, LINE))

    def _keep_checksums(self, line: bytes) -> None:
        self.checksums.update(found.decode() for found in _CHECKSUM.findall(line))

    def _place(self, line: bytes) -> tuple[int, int, int, int]:
        """The last four fields of `LINE`."""
        stored = _stored(line)
        if "/" in check_name(stored.shard) or stored.shard.startswith("."):
            raise FormatError(f"{stored.shard!r} cannot be the name of a shard")
        if stored.index >= stored.records:
            raise FormatError(f"it is of record {stored.index} of a shard of {stored.records}")
        claim = (stored.shard, ShardFacts(stored.records, stored.bytes, stored.checksum))
        head = line.rpartition(_STORED_KEY)[0].removesuffix(b",")
        return (
            self.shards.setdefault(stored.shard, len(self.shards)),
            stored.index,
            self.claims.setdefault(claim, len(self.claims)),
            line_digest(head + b"}"),
        )


_rows = msgspec.json.Decoder(_Row)


def _stored(line: bytes) -> Stored:
    try:
        return _rows.decode(line).stored
    except (msgspec.MsgspecError, ValueError, RecursionError):
        entry = decode_line(line)
    try:
        return msgspec.convert(entry, _Row).stored
    except msgspec.ValidationError as error:
        raise FormatError(f"it does not say where its record is: {error}") from error


def _lines(folder: StoreFolder, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their newlines, and where each begins; the last one may lack it."""
    start, rest = 0, b""
    while block := folder.read(name, start + len(rest), start + len(rest) + _BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield start, line + b"\n"
            start += len(line) + 1
    if rest:
        yield start, rest
