"""The lines of a ledger: what a record says, as JSON that every program reads, and where its tensors are.

A line is one JSON object with the keys of the record and, as the last one, `stored`:

    {"prompt": ..., "stored": {"shard": ..., "index": 12, "records": 7300, "bytes": ..., "checksum": ...}}

Ledgers have a million lines and more, so nothing here looks at a line longer than it must: a `Projection` skips the
keys that were not asked for without making anything of them.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec

from actframe.errors import FormatError, StorageError

__all__ = [
    "MISSING",
    "STORED",
    "Missing",
    "Projection",
    "Stored",
    "decode_line",
    "decode_lines",
    "encode_line",
    "stored_line",
]

STORED = "stored"

_LARGEST = 2**31


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing.MISSING
"""What a record says under a key that it does not have; `None` is something that it may say."""

_Count = Annotated[int, msgspec.Meta(ge=0, lt=_LARGEST)]


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Where the tensors of a record are.

    Attributes:
        shard: the name of a file in the folder `shards`.
        index: which of the shard's records it is.
        records: how many records the shard has.
        bytes: the size of the shard.
        checksum: of the whole shard, with the name of the method: `xxh3_128:...`.
    """

    shard: str
    index: _Count
    records: _Count
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    checksum: str


def encode_line(metadata: Mapping[str, Any]) -> bytes:
    r"""A line, with its newline, of what `json_safe` has made plain.

    It is strict JSON, so that programs of any kind read it: numbers that are not finite become null, and halves of
    surrogate pairs, which are no text in any encoding, become U+FFFD.

    >>> encode_line({"prompt": "2 + 2 =", "score": float("nan")})
    b'{"prompt":"2 + 2 =","score":null}\n'

    Raises:
        StorageError: there is a key `stored`, which is the ledger's own.
    """
    if STORED in metadata:
        raise StorageError(f"a record of a store cannot have the key {STORED!r}, which its ledger uses; rename it")
    try:
        return msgspec.json.encode(metadata) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(_as_text(metadata)) + b"\n"


def stored_line(line: bytes, stored: Mapping[str, Any]) -> bytes:
    r"""A line that `encode_line` has made, and that says where the record's tensors are.

    >>> stored_line(
    ...     b'{"trial":0}\n', {"shard": "a-1.pkl", "index": 0, "records": 1, "bytes": 9, "checksum": "xxh3_128:0f"}
    ... )
    b'{"trial":0,"stored":{"shard":"a-1.pkl","index":0,"records":1,"bytes":9,"checksum":"xxh3_128:0f"}}\n'
    """
    facts = msgspec.json.encode({name: stored[name] for name in Stored.__struct_fields__})
    head = line.rstrip()[:-1]
    comma = b"" if head == b"{" else b","
    return b'%b%b"%b":%b}\n' % (head, comma, STORED.encode(), facts)


def decode_line(line: bytes) -> dict[str, Any]:
    """What one line says, `stored` included.

    Raises:
        FormatError: the line is damaged; the message says in what way.
    """
    try:
        return _any_line.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _decode_leniently(line)


def decode_lines(text: bytes | memoryview, count: int) -> list[dict[str, Any]]:
    """What the `count` lines of a text say, `stored` included.

    Raises:
        FormatError: a line is damaged.
    """
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
        entries = _any_line.decode_lines(text)
        if len(entries) == count:
            return entries
    return [decode_line(line) for line in bytes(text).splitlines()]


class Projection:
    """Reads the values of a few keys from many lines."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._rows = _row_decoder(self._keys)
        self._values = [attrgetter(_field(number)) for number in range(len(self._keys))]

    def columns(self, text: bytes | memoryview, count: int) -> list[list[Any]]:
        """For each key, its value in each of the `count` lines of a text, or `MISSING`.

        Raises:
            FormatError: a line is damaged.
        """
        if self._rows is not None:
            with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
                rows = self._rows(text)
                if len(rows) == count:
                    return [list(map(value, rows)) for value in self._values]
        entries = decode_lines(text, count)
        return [[entry.get(key, MISSING) for entry in entries] for key in self._keys]


_any_line = msgspec.json.Decoder(dict[str, Any])


def _field(number: int) -> str:
    return f"value_{number}"


def _row_decoder(keys: tuple[str, ...]) -> Callable[[bytes | memoryview], list[Any]] | None:
    """Decodes lines to objects that have nothing but the wanted values; None where msgspec has no such names."""
    names = {_field(number): key for number, key in enumerate(keys)}
    try:
        row = msgspec.defstruct("Row", [(name, Any, MISSING) for name in names], rename=names, gc=False)
    except ValueError:
        return None
    return msgspec.json.Decoder(row).decode_lines


def _decode_leniently(line: bytes) -> dict[str, Any]:
    """What Python's own JSON makes of a line that other programs wrote: NaN, and halves of surrogate pairs."""
    try:
        entry = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise FormatError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise FormatError("it is not a JSON object")
    return entry


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value
