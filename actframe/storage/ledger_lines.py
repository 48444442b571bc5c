"""The lines of a ledger: what a record says, and where in the store its activations are.

A line is strict JSON, so that every tool reads it: numbers that are not finite become null. The last key is `stored`:

    {"prompt": ..., "stored": {"shard": "<file name>", "records": 7300, "bytes": 268435456,
                               "checksum": "xxh3_128:<32 hex digits>", "index": 12}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["STORED", "encode_line", "stored_line"]

STORED = "stored"


def encode_line(metadata: Mapping[str, Any]) -> bytes:
    """What a record says as a line of JSON, with its newline. It must be JSON-safe, and have no key `stored`."""
    return msgspec.json.encode(metadata) + b"\n"


def stored_line(line: bytes, stored: Mapping[str, Any]) -> bytes:
    """A line from `encode_line`, with or without its newline, with where the record is."""
    said = line.rstrip()[:-1]
    comma = b"," if len(said) > 1 else b""
    return said + comma + b'"stored":' + msgspec.json.encode(stored) + b"}\n"
