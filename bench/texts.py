"""What capturing one low layer of many texts takes, against whole forward passes over the same batches.

    python bench/texts.py [--texts 500] [--layer 8] [--rounds 5]

Each round runs every way once over one share of the batches, in turn, so that a machine that slows down slows all of
them. Printed are the seconds of all shares, median by median, and how often the whole forward takes as long; nothing is
asserted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actframe import ActivationRecorder
from actframe.runs.models import LoadedModel, load_model
from actframe.runs.text_batches import TextBatches, plan_batches
from actframe.runs.text_encoding import EncodedText, Text, TextEncoder

WORDS = (
    *("the", "rain", "in", "spain", "falls", "mainly", "on", "a", "plain", "where", "nobody", "has", "ever"),
    *("asked", "how", "much", "water", "there", "is", "to", "drink"),
)
BATCH_TOKENS = 2048


def mixed_texts(count: int) -> list[Text]:
    """Texts of 5 to 150 words, most of them short."""
    draw = random.Random(7)
    lengths = [min(150, 5 + int(draw.expovariate(1 / 40))) for _ in range(count)]
    return [Text(number, " ".join(draw.choices(WORDS, k=length))) for number, length in enumerate(lengths)]


def whole_forward(loaded: LoadedModel, batch: Sequence[EncodedText], record: Callable[[], Any]) -> None:
    """One plain forward pass with logits over one batch, padded on the right."""
    ids = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded)] = torch.tensor(encoded.prompt_ids)
        mask[row, : len(encoded)] = 1
    with torch.no_grad(), record():
        loaded.model(input_ids=ids, attention_mask=mask, use_cache=False)


class _Nowhere:
    """A sink that keeps nothing, and a context of nothing."""

    def append(self, record: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def measure(
    ways: dict[str, Callable[[list[EncodedText]], Any]], batches: list[list[EncodedText]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each way for each batch: the median of its rounds, the first of which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for batch in batches:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.perf_counter()
                ways[name](batch)
                taken[name].append(time.perf_counter() - begin)
        for name, values in taken.items():
            seconds[name].append(statistics.median(values))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=None, help="only every so many, to be done sooner")
    options = parser.parse_args()

    loaded = load_model("smollm2")
    encoder = TextEncoder(loaded)
    capturing = TextBatches(loaded, options.layer, encoder, BATCH_TOKENS)
    encoded = encoder.encode(mixed_texts(options.texts))
    rows = plan_batches(list(map(len, encoded)), BATCH_TOKENS)
    batches = [[encoded[row] for row in own] for own in rows][:: options.batches or 1]
    ways: dict[str, Callable[[list[EncodedText]], Any]] = {
        "whole forward with logits": lambda batch: whole_forward(loaded, batch, _Nowhere),
        "the same, recorded": lambda batch: whole_forward(
            loaded, batch, lambda: ActivationRecorder(loaded.model, options.layer, into=_Nowhere())
        ),
        "capture_texts": capturing.compute_batch,
    }
    capturing.compute_batch(batches[-1])
    seconds = measure(ways, batches, options.rounds)
    table = Table(title=f"layer {options.layer} of smollm2, {sum(map(len, batches))} texts in {len(batches)} batches")
    for column in ("way", "seconds", "whole forward over it, batch for batch", "least .. most"):
        table.add_column(column)
    plain = seconds["whole forward with logits"]
    for name, values in seconds.items():
        ratios = sorted(whole / own for whole, own in zip(plain, values, strict=True))
        table.add_row(
            name, f"{sum(values):.2f}", f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} .. {ratios[-1]:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
