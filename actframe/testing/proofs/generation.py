"""Sequences that were generated, recorded and seen by plain hooks in the same passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actframe.records.record import ActivationRecord
from actframe.testing.proofs.forward import real_columns
from actframe.testing.proofs.reference import Axes, Reference, first_difference, keys
from actframe.testing.proofs.report import Difference
from actframe.testing.proofs.subject import Subject

__all__ = [
    "Answer",
    "Observed",
    "answers",
    "never_computed",
    "observe",
    "said_wrong",
    "stitched",
    "streams_differ",
]


@dataclass(frozen=True)
class Answer:
    """One sequence, as the code that made it knows it.

    Attributes:
        prompt: the tokens of the prompt, unpadded.
        response: the tokens that followed; they include those that were fed by hand.
        fed: what the model, or its decoder, was given: all but the last token that `generate` returns.
        begun: how many of `fed` are prompt.
    """

    prompt: list[int]
    response: list[int]
    fed: list[int]
    begun: int


@dataclass(frozen=True)
class Observed:
    """What ran: its answers, what was recorded of it, and what plain hooks saw."""

    answers: list[Answer]
    records: list[ActivationRecord]
    reference: Reference


def answers(subject: Subject, prompts: Sequence[list[int]], **options: Any) -> list[Answer]:
    """Let the model generate, and take its padding off."""
    batch = subject.batch(prompts, subject.generation_side)
    returned = subject.generate(batch, **options)
    returned = getattr(returned, "sequences", returned).tolist()
    copies = len(returned) // len(prompts)
    rows = [list(prompt) for prompt in prompts for _ in range(copies)]
    if subject.is_encoder_decoder:
        return [Answer(prompt, each[1:], each[:-1], 1) for prompt, each in zip(rows, returned, strict=True)]
    pads = [batch["input_ids"].shape[1] - len(prompt) for prompt in rows]
    whole = [each[pad:] for each, pad in zip(returned, pads, strict=True)]
    return [
        Answer(prompt, each[len(prompt) :], each[:-1], len(prompt)) for prompt, each in zip(rows, whole, strict=True)
    ]


def observe(subject: Subject, run: Callable[[], list[Answer]]) -> Observed:
    """Run with a recorder and plain hooks around it."""
    stream = subject.stream
    with Reference(subject.model, subject.layout, stream) as reference, subject.recorder(stream) as recorder:
        found = run()
    return Observed(found, recorder.records, reference)


def said_wrong(observed: Observed) -> Difference | None:
    """What the records say that is not so: how many there are, their tokens, their positions."""
    if len(observed.records) != len(observed.answers):
        return Difference(f"{len(observed.records)} records of {len(observed.answers)} sequences")
    for row, (record, answer) in enumerate(zip(observed.records, observed.answers, strict=True)):
        expected: dict[str, Any] = {"input_ids": answer.prompt, "output_ids": answer.response}
        expected |= {"prompt_length": answer.begun, "positions": list(range(len(answer.fed)))}
        for key, value in expected.items():
            if record[key] != value:
                return Difference(f"its {key} is {record[key]}, and has to be {value}", row=row)
        for site, tensor in record.activations.items():
            places = answer.prompt if site.startswith("encoder.") else answer.fed
            if not len(tensor) == len(record.positions_of(site)) == len(places):
                return Difference(f"it has {len(tensor)} vectors of {len(places)} positions", site, row=row)
    return None


def streams_differ(subject: Subject, axes: Axes, observed: Observed) -> Difference | None:
    """Where a residual stream is not what plain hooks saw, pass by pass."""
    for site in filter(axes.knows, subject.stream):
        for row, record in enumerate(observed.records):
            expected = stitched(subject, axes, observed, site, row)[: len(record.positions_of(site))]
            found = first_difference(site, record.activations[site], expected, record.positions_of(site), row)
            if found is not None:
                return found
    return None


def stitched(subject: Subject, axes: Axes, observed: Observed, site: str, row: int) -> Tensor:
    """One row of a site over all passes, without padding: what each pass computed for the first time."""
    prompts = [answer.prompt for answer in observed.answers]
    slots: list[Tensor] = []
    for seen in observed.reference.calls(site):
        state = axes.arrange(site, seen, len(prompts))[row]
        # A pass that is longer than all before it computes the whole sequence again.
        slots.extend(state[len(slots) :] if len(state) > max(len(slots), 1) else state)
    real = None if subject.in_decoder(site) else real_columns(subject.batch(prompts, subject.side))
    if real is not None:
        after = [True] * (len(slots) - len(real[row]))
        slots = [slot for slot, is_real in zip(slots, [*real[row], *after], strict=True) if is_real]
    return torch.stack(slots)


def never_computed(subject: Subject, axes: Axes, observed: Observed) -> Difference | None:
    """A position whose vectors are not, at all sites of its tower, what some column of some pass was, bit for bit."""
    towers: dict[str, list[str]] = {}
    for site in filter(axes.knows, subject.stream):
        towers.setdefault(subject.layout.places[site].tower, []).append(site)
    for sites in towers.values():
        columns = {site: keys(axes.columns(site, observed.reference.calls(site))) for site in sites}
        for row, record in enumerate(observed.records):
            possible: Tensor | None = None
            for site in sites:
                same = keys(record.activations[site])[:, None] == columns[site]
                possible = same if possible is None else possible & same
                if not bool(possible.any(1).all()):
                    position = record.positions_of(site)[int(possible.any(1).int().argmin())]
                    return Difference("recorded is not what any pass computed there", site, position, row)
    return None
