"""What a store costs and gives, as ratios of interleaved runs.

    python bench/store.py [--only PART ...] [--rounds 5] [--batches 8] [--gigabytes 1] [--lines 200000]

Recording into a store beside the plain forward pass; `stack` beside numpy reading the same bytes from a flat file;
small and large records beside one pickle for each (a store is on disk when it is closed, a pickle need not be); and how
long a ledger of so many lines takes to open and to search. With `--batches 24 --gigabytes 5 --lines 1000000` these are
the long ones. Medians and spreads are printed; nothing is asserted.

What `recording` measures is a run from its first batch to the end of `close`. The first shards cost more than those
that come after them, because their temporary files are new.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from recording import interleave, report
from rich.console import Console
from rich.table import Table

from actframe import ActivationRecord, ActivationRecorder, ActivationStore
from actframe.runs.models import load_model
from actframe.storage.ledger_lines import encode_line, stored_line
from actframe.testing import random_record

PARTS = ("ledger", "small", "large", "stack", "recording")
SITES = [f"layer_{number}" for number in range(31)]


class Discard:
    """A sink that keeps nothing."""

    def append(self, record: Any) -> None:
        """Forget it."""


def recording(folder: Path, batches: int) -> dict[str, Callable[[], Any]]:
    """Forward passes of 8 x 256 tokens, recorded into a store and not."""
    model = load_model("smollm2", device="cpu", dtype="bfloat16").model
    ids = torch.randint(0, 40_000, (8, 256), generator=torch.Generator().manual_seed(0))

    def plain() -> None:
        with torch.no_grad():
            for _ in range(batches):
                model(ids, use_cache=False)

    def into(backend: str) -> Callable[[], None]:
        def variant() -> None:
            shutil.rmtree(folder / backend, ignore_errors=True)
            with torch.no_grad(), ActivationStore(folder / backend, backend) as store:
                for _ in range(batches):
                    with ActivationRecorder(model, into=store):
                        model(ids, use_cache=False)

        return variant

    def discarding() -> None:
        with torch.no_grad():
            for _ in range(batches):
                with ActivationRecorder(model, into=Discard()):
                    model(ids, use_cache=False)

    return {
        "plain": plain,
        "plain again": plain,
        "recorded, not kept": discarding,
        "into a store": into("safetensors"),
        "into a zstd store": into("zstd"),
    }


def stacking(folder: Path, gigabytes: float) -> dict[str, Callable[[], Any]]:
    """One site of many records of one position: from a store of 31 sites, of one, and from a flat file."""
    size = 31 * 576 * 2
    count = int(gigabytes * 1e9 / size)
    records = [random_record(number, 1, sites=SITES, d_model=576) for number in range(100)]
    alone = [record.replace(activations={"layer_12": record.activations["layer_12"]}) for record in records]
    for name, some in (("all", records), ("one", alone)):
        with ActivationStore(folder / name) as store:
            for number in range(count):
                store.append(some[number % 100])
    stores = {name: ActivationStore(folder / name) for name in ("all", "one")}
    expected = stores["all"].stack("layer_12", positions="last")
    expected.view(torch.int16).numpy().tofile(folder / "flat")
    assert torch.equal(stores["one"].stack("layer_12", positions="last"), expected)
    return {
        "numpy, a flat file": lambda: numpy.fromfile(folder / "flat", numpy.int16),
        "stack, 1 of 31 sites": lambda: stores["all"].stack("layer_12", positions="last"),
        "stack, the only site": lambda: stores["one"].stack("layer_12", positions="last"),
    }


def beside_pickles(
    folder: Path, records: Sequence[ActivationRecord]
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Writing records, and reading one site of all of them."""
    plain = [dict(record) for record in records]

    def pickles(*, synced: bool = False) -> None:
        shutil.rmtree(folder / "pickles", ignore_errors=True)
        (folder / "pickles").mkdir()
        for number, record in enumerate(plain):
            with open(folder / "pickles" / f"{number:06d}.pkl", "wb") as file:
                pickle.dump(record, file)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())

    def store() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        with ActivationStore(folder / "store") as opened:
            for record in records:
                opened.append(record)

    def read_pickles() -> torch.Tensor:
        rows = []
        for path in sorted((folder / "pickles").iterdir()):
            with open(path, "rb") as file:
                rows.append(pickle.load(file)["activations"]["layer_12"][-1])
        return torch.stack(rows)

    def read_store() -> torch.Tensor:
        return ActivationStore(folder / "store").stack("layer_12", positions="last")

    written = {"a pickle each": pickles, "a pickle each, on disk": lambda: pickles(synced=True), "a store": store}
    return written, {"a pickle each": read_pickles, "a store": read_store}


def records_of(count: int, length: int) -> list[ActivationRecord]:
    """Records of all layers of a small model."""
    return [random_record(number, length, sites=SITES, d_model=576) for number in range(count)]


def ledger(folder: Path, lines: int, console: Console) -> None:
    """Open a ledger of so many lines, and search it."""
    with ActivationStore(folder / "ledger") as store:
        store.append(random_record(0))
    (path,) = (folder / "ledger" / "ledger").iterdir()
    stored = {**ActivationStore(folder / "ledger").ledger.entry(0)}
    (shard,) = (folder / "ledger" / "shards").iterdir()
    place = {"shard": shard.name, "records": lines, "bytes": shard.stat().st_size, "checksum": "xxh3_128:" + "0" * 32}
    with open(path, "wb") as file:
        for number in range(lines):
            said = {**stored, "question_id": f"sums/{number}", "subject": ("physics", "law")[number % 2]}
            file.write(stored_line(encode_line(said), {**place, "index": number}))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    opened = ActivationStore(folder / "ledger")
    read = time.perf_counter()
    found = len(opened.where(correct=True, subject="physics"))
    done = time.perf_counter()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    console.print(
        f"{lines:,} lines, {path.stat().st_size / 1e6:.0f} MB: opened in {read - begin:.2f} s, searched in "
        f"{done - read:.2f} s ({found:,} found), {grown:.0f} MiB more memory at most"
    )


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--lines", type=int, default=200_000)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    table = Table(title=f"Stores, {rounds} interleaved rounds", title_justify="left")
    for heading in ("what", "variant", "seconds", "ratio", "spread"):
        table.add_column(heading, justify="left" if heading in ("what", "variant") else "right")
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "ledger" in arguments.only:
            ledger(folder, arguments.lines, console)
        for part, what, count, length in (("small", "35 kB records", 2000, 1), ("large", "18 MB records", 40, 512)):
            if part in arguments.only:
                write, read = beside_pickles(folder, records_of(count, length))
                report(table, f"write {count} {what}", interleave(write, rounds), "a pickle each")
                report(table, "read a site of them", interleave(read, rounds), "a pickle each")
        if "stack" in arguments.only:
            stacked = interleave(stacking(folder, arguments.gigabytes), rounds)
            report(table, f"stack, {arguments.gigabytes:g} GB", stacked, "numpy, a flat file")
        if "recording" in arguments.only:
            recorded = interleave(recording(folder, arguments.batches), rounds)
            report(table, f"{arguments.batches} forwards", recorded, "plain")
    console.print(table)


if __name__ == "__main__":
    main()
