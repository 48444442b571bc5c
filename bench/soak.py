"""What a long run leaves in memory and on disk, beside what it should.

    python bench/soak.py [--minutes 5] [--backend safetensors]

smollm2 answers nothing here: it runs over batches of several lengths, all layers recorded, for so many minutes. They go
into a store that is flushed every half minute, and each time the growth of the process is printed, with the speed
beside that of the same passes without recording. Then the store is verified, and a part of it compared with what the
model computes once more. In the end records are kept in memory, and what they take is compared with their payload.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actframe import ActivationRecorder, ActivationStore
from actframe.runs.models import load_model

LENGTHS = (64, 128, 256, 512)
BATCH_TOKENS = 2048
CHECKED = 8


def resident_bytes() -> int:
    """The memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def batch(number: int) -> torch.Tensor:
    """Ids of one batch, always the same for one number."""
    length = random.Random(number).choice(LENGTHS)
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 40_000, (BATCH_TOKENS // length, length), generator=generator)


def kept(model: Any, batches: int) -> tuple[int, int]:
    """How many bytes records kept in memory have, and by how many the process grew."""
    before, recorders = resident_bytes(), []
    for number in range(batches):
        with ActivationRecorder(model) as recorder:
            model(batch(number), use_cache=False)
        recorders.append(recorder)
    payload = sum(t.nbytes for r in recorders for record in r.records for t in record.activations.values())
    return payload, resident_bytes() - before


def plain_seconds(model: Any, numbers: range) -> float:
    """How long the passes take without recording."""
    begin = time.perf_counter()
    for number in numbers:
        model(batch(number), use_cache=False)
    return time.perf_counter() - begin


def soak(model: Any, folder: Path, backend: str, minutes: float, table: Table) -> int:
    """Record for so long; a row for each half minute. Returns how many batches there were."""
    end, number, before = time.monotonic() + 60 * minutes, 0, resident_bytes()
    with ActivationStore(folder, backend) as store:
        while time.monotonic() < end:
            begin, start = time.perf_counter(), number
            while time.perf_counter() - begin < 30:
                with ActivationRecorder(model, into=store):
                    model(batch(number), use_cache=False)
                number += 1
            store.flush()
            seconds = time.perf_counter() - begin
            resident = resident_bytes()
            again = range(start, start + max(1, (number - start) // 3))
            ratio = seconds / (number - start) / (plain_seconds(model, again) / len(again))
            table.add_row(
                f"{len(store):,}",
                f"{store.bytes_on_disk / 1e9:.2f}",
                f"{(resident - before) / 1e6:+.1f}",
                f"{ratio:.3f}",
            )
    return number


def check(model: Any, folder: Path, batches: int, console: Console) -> None:
    """Verify the store, and compare some of its records with the model's own states."""
    store = ActivationStore(folder)
    console.print(str(store.verify()))
    starts, total = [], 0
    for number in range(batches):
        starts.append(total)
        total += len(batch(number))
    assert len(store) == total, f"{len(store)} records, and {total} sequences were recorded"
    for number in random.Random(0).sample(range(batches), min(CHECKED, batches)):
        states = model(batch(number), use_cache=False, output_hidden_states=True).hidden_states
        for row in range(len(batch(number))):
            record = store[starts[number] + row]
            assert torch.equal(record.activations["layer_12"], states[13][row])
    console.print(f"{len(store):,} records, and those of {CHECKED} batches are the model's own states bit for bit")


@torch.no_grad()
def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--backend", default="safetensors")
    arguments = parser.parse_args()
    console = Console()
    model = load_model("smollm2", device="cpu", dtype="bfloat16").model
    for number in range(2):
        with ActivationRecorder(model, into=[]):
            model(batch(number), use_cache=False)
    table = Table(title=f"{arguments.minutes:g} minutes into a {arguments.backend} store", title_justify="left")
    for heading in ("records", "GB on disk", "MB more in memory", "time beside plain passes"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as name:
        batches = soak(model, Path(name), arguments.backend, arguments.minutes, table)
        console.print(table)
        check(model, Path(name), batches, console)
    payload, grown = kept(model, 8)
    console.print(
        f"kept in memory: {payload / 1e6:.0f} MB of tensors, {grown / 1e6:.0f} MB more: {grown / payload:.3f}"
    )


if __name__ == "__main__":
    main()
