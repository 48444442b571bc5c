"""What grows with a run, measured small: bytes on disk, shards, ledger, and the time to open a store.

    python bench/scaling.py [--records 1000 10000 100000] [--tokens 64] [--rounds 5]

Each store has records of one position and one site, as a run over many prompts leaves them, with prompts of so many
tokens and five characters for each. docs/scaling.md extrapolates from what this prints. The same number of records is
written once by one writer and once by sixteen, since each has ledger files and shards of its own. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actframe import ActivationRecord, ActivationStore
from actframe.testing import random_record

D_MODEL = 576
SHARD_BYTES = 8 << 20
"""Small, so that small stores have several."""
WRITERS = (1, 16)


def write(folder: Path, record: ActivationRecord, count: int, writers: int) -> float:
    """Write a store; gives the seconds that it took."""
    began = time.perf_counter()
    for writer in range(writers):
        with ActivationStore(folder, shard_bytes=SHARD_BYTES) as store:
            for number in range(writer, count, writers):
                store.append(record.replace(question_id=f"question/{number}"))
    return time.perf_counter() - began


def opening(folder: Path, count: int, rounds: int) -> tuple[float, float]:
    """The median seconds to open a store and know its length, and to find one record in it by a key."""
    opened, found = [], []
    for number in range(rounds):
        gc.collect()
        began = time.perf_counter()
        store = ActivationStore(folder)
        assert len(store) == count
        there = time.perf_counter()
        assert len(store.where(question_id=f"question/{number}")) == 1
        opened.append(there - began)
        found.append(time.perf_counter() - there)
    return statistics.median(opened), statistics.median(found)


def size(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    whole = random_record(0, arguments.tokens, sites=["layer_12"], d_model=D_MODEL)
    record = whole.replace(
        prompt="word " * arguments.tokens,
        input_ids=[40_000 + place for place in range(arguments.tokens)],
        activations={"layer_12": whole.activations["layer_12"][-1:]},
        positions=[arguments.tokens - 1],
    )
    payload = record.activations["layer_12"].nbytes
    columns = ("records", "writers", "payload", "in shards", "shards", "a ledger line", "ledger", "written", "opened")
    table = Table(
        *columns, "one found", title=f"Records of one position, {payload} bytes, prompts of {arguments.tokens}"
    )
    for count in arguments.records:
        for writers in WRITERS:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "store"
                written = write(folder, record, count, writers)
                opened, found = opening(folder, count, arguments.rounds)
                shards, ledger = size(folder / "shards"), size(folder / "ledger")
                row = (f"{count:,}", f"{writers}", f"{count * payload / 1e6:.1f} MB", f"{shards / 1e6:.1f} MB")
                row += (f"{len(list((folder / 'shards').iterdir()))}", f"{ledger / count:.0f} B")
                row += (f"{ledger / 1e6:.1f} MB", f"{written:.1f} s", f"{opened:.3f} s", f"{found:.3f} s")
                table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
