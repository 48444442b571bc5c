"""What recording costs, as ratios of interleaved runs: with a recorder over without one.

    python bench/recording.py [--rounds 7] [--only fixed]

Each round runs every variant once, in turn, so that a machine that slows down slows all of them. Printed are the
median ratio of the rounds and their spread; nothing is asserted.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from actframe import ActivationRecorder, CaptureError, Selection
from actframe.runs.models import load_model

Variant = Callable[[], Any]


class Discard:
    """A sink that keeps nothing, as a store on a fast disk would."""

    def append(self, record: Any) -> None:
        pass


def interleave(variants: dict[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        # Each round begins with another variant, so that none always follows the same one.
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            gc.collect()
            begin = time.perf_counter()
            variants[name]()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(table: Table, title: str, seconds: dict[str, list[float]], baseline: str) -> None:
    """Add one row for each variant: its median seconds, and the ratio to the baseline, round by round."""
    for name, values in seconds.items():
        ratios = sorted(value / base for value, base in zip(values, seconds[baseline], strict=True))
        table.add_row(
            title if name == baseline else "",
            name,
            f"{statistics.median(values):.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{ratios[0]:.3f} .. {ratios[-1]:.3f}",
        )
    table.add_section()


def forward_variants(model: Any, ids: torch.Tensor) -> dict[str, Variant]:
    """One forward pass of 8 x 256 tokens, recorded in different ways."""

    def run(context: Callable[[], Any]) -> Variant:
        def variant() -> None:
            with torch.no_grad(), context():
                model(ids, use_cache=False)

        return variant

    return {
        "plain": run(nullcontext),
        "plain again": run(nullcontext),
        "every layer": run(lambda: ActivationRecorder(model)),
        "every layer, into a sink": run(lambda: ActivationRecorder(model, into=Discard())),
        "every layer, hidden states": run(lambda: ActivationRecorder(model, strategy="output_hidden_states")),
        "one position": run(lambda: _last_prompt(model)),
        "nothing that runs": run(lambda: _Idle(model)),
    }


def _last_prompt(model: Any) -> ActivationRecorder:
    return ActivationRecorder(model, Selection(positions="last_prompt"))


class _Idle:
    """A recorder whose one site is a module that never runs; that this is an error in the end is left aside."""

    def __init__(self, model: Any) -> None:
        self.recorder = ActivationRecorder(model, "module:unused")

    def __enter__(self) -> None:
        self.recorder.__enter__()

    def __exit__(self, *_: Any) -> None:
        with suppress(CaptureError):
            self.recorder.__exit__(None, None, None)


def generate_variants(model: Any, ids: torch.Tensor, new_tokens: int) -> dict[str, Variant]:
    """generate() on a batch of 8, recorded and not."""
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}

    def run(context: Callable[[], Any]) -> Variant:
        def variant() -> None:
            with torch.no_grad(), context():
                model.generate(ids, attention_mask=torch.ones_like(ids), **settings)

        return variant

    return {
        "plain": run(nullcontext),
        "plain again": run(nullcontext),
        "every layer": run(lambda: ActivationRecorder(model)),
        "every layer, hidden states": run(lambda: ActivationRecorder(model, strategy="output_hidden_states")),
    }


def command_variants() -> dict[str, Variant]:
    """How long `import actframe` and `actframe --help` take beside a Python that does nothing."""

    def run(*arguments: str) -> Variant:
        def variant() -> None:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

        return variant

    return {
        "python -c pass": run("-c", "pass"),
        "import actframe": run("-c", "import actframe"),
        "actframe --help": run("-m", "actframe", "--help"),
    }


def tiny_model() -> Any:
    """Thirty blocks so small that a forward pass is nearly all Python."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", num_hidden_layers=30, vocab_size=260, **sizes)
    ).eval()


@contextmanager
def hand_written(model: Any) -> Iterator[None]:
    """Thirty hooks that copy, as people write them."""
    kept: list[torch.Tensor] = []

    def copy(module: Any, args: Any, output: Any) -> None:
        if len(kept) == 30:
            kept.clear()
        kept.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handles = [block.register_forward_hook(copy) for block in model.model.layers]
    yield
    for handle in handles:
        handle.remove()


def fixed_cost(rounds: int) -> Table:
    """What recording adds to a forward pass beside its copies: 1 x 8 tokens through thirty tiny blocks."""
    model, ids = tiny_model(), torch.arange(8)[None]
    variants: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "plain": nullcontext,
        "plain again": nullcontext,
        "thirty hooks that copy": lambda: hand_written(model),
        "every layer": lambda: ActivationRecorder(model, "layer_*", into=Discard()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    for number in range(rounds + 1):
        for name, context in variants.items():
            with torch.no_grad(), context():
                model(ids, use_cache=False)
                begin = time.perf_counter()
                for _ in range(20):
                    model(ids, use_cache=False)
                if number:
                    seconds[name].append((time.perf_counter() - begin) / 20)
        gc.collect()
    gc.enable()
    torch.set_num_threads(threads)
    table = Table(title=f"Thirty tiny blocks, {rounds} interleaved rounds of 20 passes", title_justify="left")
    for heading in ("variant", "median ms", "added ms", "of what hooks add"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    added = {
        name: statistics.median(own - base for own, base in zip(values, seconds["plain"], strict=True))
        for name, values in seconds.items()
    }
    for name, values in seconds.items():
        share = "" if name.startswith("plain") else f"{added[name] / added['thirty hooks that copy']:.2f}"
        table.add_row(name, f"{statistics.median(values) * 1e3:.2f}", f"{added[name] * 1e3:+.2f}", share)
    return table


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--only", choices=["fixed"], help="only what recording adds to a pass of a tiny model")
    arguments = parser.parse_args()
    Console().print(fixed_cost(10 * arguments.rounds))
    if arguments.only:
        return

    loaded = load_model("smollm2", device="cpu", dtype="bfloat16")
    model: Any = loaded.model
    model.add_module("unused", torch.nn.Identity())
    ids = torch.randint(0, 40_000, (8, 256), generator=torch.Generator().manual_seed(0))

    table = Table(title=f"Recording, {arguments.rounds} interleaved rounds", title_justify="left")
    for heading in ("what", "variant", "median s", "ratio", "spread"):
        table.add_column(heading, justify="left" if heading in ("what", "variant") else "right")
    report(table, "forward, 8 x 256", interleave(forward_variants(model, ids), arguments.rounds), "plain")
    title = f"generate, 8 x {arguments.new_tokens}"
    variants = generate_variants(model, ids[:, :64].contiguous(), arguments.new_tokens)
    report(table, title, interleave(variants, arguments.rounds), "plain")
    report(table, "start", interleave(command_variants(), arguments.rounds), "python -c pass")
    Console().print(table)


if __name__ == "__main__":
    main()
