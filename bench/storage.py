"""What storing activations costs: sizes and speeds beside plain zstd level 3, as ratios of interleaved runs.

    python bench/storage.py [RECORD.safetensors ...] [--rounds 15]

Without a file, `smollm2` records one prompt of 96 tokens and one of 512. The plain zstd that everything is compared
with has it easy: it is given the safetensors bytes ready in memory, and gives bytes back. What it takes from tensors
and to tensors, as the backends do it, is a row of its own. Printed are medians of the rounds and their spread; nothing
is asserted. One thread throughout.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import zstandard
from recording import interleave
from rich.console import Console
from rich.table import Table
from safetensors.torch import load, save

from actframe import ActivationRecorder, Bundle, StorageBackend
from actframe.records.packing import pack
from actframe.runs.models import load_model
from actframe.storage.files import backend_named, read_bundle
from actframe.storage.positional import PositionalFile

BASELINE = "plain zstd -3"
BACKENDS = ("zstd", "safetensors", "pickle")
BYTES_PER_ROUND = 64_000_000
TEXT = (
    "Photosynthesis is the process by which plants, algae and some bacteria turn light into chemical energy. In the "
    "chloroplasts, chlorophyll absorbs photons; the energy splits water, frees oxygen, and is kept in sugars. "
)


def record(tokens: int) -> Bundle:
    """The bundle of one real prompt of so many tokens: embeddings and all layers, in bfloat16."""
    loaded = load_model("smollm2", device="cpu", dtype="bfloat16")
    ids = loaded.tokenizer(TEXT * 20, return_tensors="pt").input_ids[:, :tokens]
    with torch.no_grad(), ActivationRecorder(loaded.model, tokenizer=loaded.tokenizer) as recorder:
        loaded.model(ids)
    return pack(recorder.records[0])


def repeated(variants: dict[str, Callable[[], Any]], times: int) -> dict[str, Callable[[], Any]]:
    """Each variant several times in a row, as a run writes its records and an analysis reads them."""

    def repeat(variant: Callable[[], Any]) -> Callable[[], Any]:
        def repetition() -> None:
            for _ in range(times):
                variant()

        return repetition

    return {name: repeat(variant) for name, variant in variants.items()}


def writing(bundle: Bundle, folder: Path, ready: bytes) -> dict[str, Callable[[], Any]]:
    """Writing the bundle with each backend, and the ready bytes with plain zstd, each to a new file."""

    def plain(content: bytes | None = None) -> None:
        path = folder / "plain.zst"
        path.unlink(missing_ok=True)
        with open(path, "wb") as file:
            file.write(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content or ready))

    def write(backend: StorageBackend) -> Callable[[], Any]:
        def variant() -> None:
            path = folder / f"record{backend.suffix}"
            path.unlink(missing_ok=True)
            backend.write(path, bundle)

        return variant

    return {
        BASELINE: plain,
        f"{BASELINE}, from tensors": lambda: plain(save(dict(bundle.tensors))),
        **{name: write(backend_named(name)) for name in BACKENDS},
    }


def reading(folder: Path) -> dict[str, Callable[[], Any]]:
    """Reading what `writing` wrote: all of it, and one site."""

    def plain() -> bytes:
        content: bytes = zstandard.ZstdDecompressor().decompress((folder / "plain.zst").read_bytes())
        return content

    def read(backend: StorageBackend, site: str | None = None) -> Callable[[], Any]:
        def variant() -> None:
            tensors = backend.read(folder / f"record{backend.suffix}").tensors
            kept = dict(tensors) if site is None else tensors[site]
            del kept

        return variant

    return {
        BASELINE: plain,
        f"{BASELINE}, to tensors": lambda: load(plain()),
        **{name: read(backend_named(name)) for name in BACKENDS},
        "zstd, one site": read(backend_named("zstd"), "layer_15"),
    }


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """The sizes of all reads of files within the block."""
    counts: list[int] = []
    read_into = PositionalFile.read_into

    def count(self: PositionalFile, start: int, buffer: memoryview) -> None:
        counts.append(len(buffer))
        read_into(self, start, buffer)

    PositionalFile.read_into = count  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        PositionalFile.read_into = read_into  # type: ignore[method-assign]


def add_speeds(table: Table, title: str, seconds: dict[str, list[float]], megabytes: float) -> None:
    """One row for each variant: MB/s of uncompressed activations, and the speed as a multiple of the baseline's."""
    for name, values in seconds.items():
        ratios = sorted(base / value for value, base in zip(values, seconds[BASELINE], strict=True))
        table.add_row(
            title if name == BASELINE else "",
            name,
            "" if "one site" in name else f"{megabytes / statistics.median(values):.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{ratios[0]:.2f} .. {ratios[-1]:.2f}",
        )
    table.add_section()


def measure(title: str, bundle: Bundle, rounds: int, console: Console) -> None:
    """Write and read one bundle in every way, and print what came out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backend_named("safetensors").write(folder / "record.safetensors", bundle)
        ready = (folder / "record.safetensors").read_bytes()
        table = Table(title=title, title_justify="left")
        for heading in ("what", "variant", "MB/s", "times the speed", "spread"):
            table.add_column(heading, justify="left" if heading in ("what", "variant") else "right")
        times = max(1, BYTES_PER_ROUND // len(ready))
        for what, variants in (("write", writing(bundle, folder, ready)), ("read", reading(folder))):
            add_speeds(table, what, interleave(repeated(variants, times), rounds), times * len(ready) / 1e6)
        console.print(table)
        compressed, plain = (folder / "record.safetensors.zst").stat().st_size, (folder / "plain.zst").stat().st_size
        with counted_bytes() as counts:
            site = read_bundle(folder / "record.safetensors.zst").tensors["layer_15"]
        console.print(
            f"{len(ready):,} bytes: {len(ready) / compressed:.4f} times smaller as zstd, {len(ready) / plain:.4f} "
            f"by {BASELINE}. One of {len(bundle.tensors)} sites, {tuple(site.shape)}, reads "
            f"1/{compressed / sum(counts):.1f} of the file.\n"
        )


def main() -> None:
    """Measure the recordings given, or two fresh ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORD.safetensors")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    bundles: dict[str, Any] = {str(path): read_bundle(path) for path in arguments.recordings}
    if not bundles:
        bundles = {f"smollm2, {tokens} tokens": record(tokens) for tokens in (96, 512)}
    torch.set_num_threads(1)
    for title, bundle in bundles.items():
        tensors = dict(bundle.tensors)
        measure(
            f"Storing {title}, {arguments.rounds} interleaved rounds",
            Bundle(tensors, bundle.metadata),
            arguments.rounds,
            Console(),
        )


if __name__ == "__main__":
    main()
