"""What must be true of whole sequences: tokens, positions, vectors, and that padding does not matter."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actframe.testing.proofs.agreement import apart, tolerance
from actframe.testing.proofs.generation import (
    Answer,
    Observed,
    answers,
    observe,
    said_wrong,
    stitched,
    streams_differ,
)
from actframe.testing.proofs.reference import Axes, Reference, first_difference
from actframe.testing.proofs.report import Check
from actframe.testing.proofs.subject import Subject

__all__ = ["Closeness", "check_padding", "check_positions", "check_sequences", "replay"]


@dataclass(frozen=True)
class Closeness:
    """How far apart two computations are, at the worst position.

    Attributes:
        share: of the length of the vector.
        limit: what it may be.
        site, position: where.
    """

    share: float
    limit: float
    site: str = ""
    position: int = 0

    @property
    def ok(self) -> bool:
        """Whether rounding explains it."""
        return self.share <= self.limit

    @property
    def used(self) -> float:
        """How much of what is allowed it is: beyond 1 too much, and what is not a number beyond everything."""
        return math.inf if math.isnan(self.share) else self.share / self.limit

    def __str__(self) -> str:
        where = "" if self.ok else f" ({self.site}, position {self.position})"
        return f"{self.share:.1e} of a vector's length{where}, {self.limit:.1e} allowed"


_EXACT = Closeness(0.0, 1.0)
"""Where nothing was compared yet."""


def check_sequences(name: str, subject: Subject, axes: Axes) -> Check:
    """The records of sequences are what plain hooks see in the same passes, in the right order."""
    told = []
    for prompts in (subject.prompts[:1], subject.alike):
        observed = observe(subject, functools.partial(_run, subject, prompts))
        what = f"{len(prompts)} row{'s' if len(prompts) > 1 else ''}"
        wrong = said_wrong(observed) or streams_differ(subject, axes, observed)
        if wrong is not None:
            return Check(name, "failed", what, wrong)
        told.append(f"{what} of {', '.join(str(len(answer.fed)) for answer in observed.answers)} positions")
    how = "generated" if subject.generates else "given"
    return Check(name, "ok", f"tokens, positions and {len(subject.stream)} sites, {how}: {'; '.join(told)}")


def check_positions(name: str, subject: Subject, axes: Axes) -> Check:
    """Each position holds its own token: by the embedding of the token, else by one pass over the whole sequence."""
    site = "decoder.embeddings" if subject.is_encoder_decoder else "embeddings"
    if site not in subject.stream or not axes.knows(site):
        return Check(name, "skipped", f"the strategy has no {site} here")
    observed = observe(subject, functools.partial(_run, subject, subject.alike))
    expected = _embedded(subject, [answer.fed for answer in observed.answers])
    seen = stitched(subject, axes, observed, site, 0)[: len(observed.answers[0].fed)]
    if expected and first_difference(site, seen, expected[0], range(len(seen))) is None:
        for row, (record, rows) in enumerate(zip(observed.records, expected, strict=True)):
            found = first_difference(site, record.activations[site], rows, record.positions, row)
            if found is not None:
                return Check(name, "failed", "the embedding of its token", found)
        return Check(name, "ok", f"{sum(map(len, expected))} positions hold the embedding of their token, bit for bit")
    # What enters the first block has more in it than the token: its position, a scale, a norm.
    close = replay(subject, axes, observed)
    said = f"one pass over the whole sequence gives the same: {close}"
    return Check(name, "ok", said) if close.ok else Check(name, "note", f"the model's own passes differ: {close}")


def check_padding(name: str, subject: Subject, axes: Axes) -> Check:
    """A row of a padded batch is what it is alone, but for the order in which kernels sum."""
    if not subject.takes_padding:
        return Check(name, "skipped", "this model takes no mask of padding")
    together = observe(subject, functools.partial(_run, subject, subject.prompts))
    worst, cut = _EXACT, ""
    for row, prompt in enumerate(subject.prompts):
        alone = observe(subject, functools.partial(_run, subject, [prompt]))
        if (wrong := said_wrong(alone) or streams_differ(subject, axes, alone)) is not None:
            return Check(name, "failed", f"row {row} alone", wrong)
        same = _common(alone.answers[0].fed, together.answers[row].fed)
        if same < len(alone.answers[0].fed):
            if not _is_tie(subject, prompt, alone.answers[0], together.answers[row]):
                return Check(name, "note", f"the model itself answers row {row} in another way when it is padded")
            cut = f"; up to position {same - 1} of row {row}, where two tokens were as likely"
        for site in filter(axes.knows, subject.stream):
            one, two = (each.activations[site] for each in (together.records[row], alone.records[0]))
            positions = len(one) if site.startswith("encoder.") else same
            worst = _worse(worst, subject, apart(one[:positions], two[:positions]), site, two.shape[-1])
    if not worst.ok:
        return Check(name, "note", f"the model itself computes otherwise in a padded row: {worst}")
    tokens = "same tokens, " if subject.generates else ""
    return Check(name, "ok", f"{tokens}{worst}{cut}")


def replay(subject: Subject, axes: Axes, observed: Observed) -> Closeness:
    """How far what was recorded is from one pass over each finished sequence alone."""
    worst, stream = _EXACT, [site for site in subject.stream if axes.knows(site)]
    for record, answer in zip(observed.records, observed.answers, strict=True):
        batch = subject.batch([answer.prompt if subject.is_encoder_decoder else answer.fed])
        if subject.is_encoder_decoder:
            batch["decoder_input_ids"] = subject.tensor([answer.fed])
        with Reference(subject.model, subject.layout, stream) as reference:
            subject.forward(batch)
        for site in stream:
            expected = axes.arrange(site, reference.calls(site)[0], 1)[0]
            worst = _worse(worst, subject, apart(record.activations[site], expected), site, expected.shape[-1])
    return worst


def _run(subject: Subject, prompts: Sequence[list[int]]) -> list[Answer]:
    """Generate, or where the model does not, read."""
    if subject.generates:
        return answers(subject, prompts)
    batch = subject.whole(subject.batch(prompts, subject.side))
    subject.forward(batch)
    decoder: Sequence[list[int]] = batch["decoder_input_ids"].tolist() if subject.is_encoder_decoder else prompts
    return [Answer(prompt, [], fed, len(fed)) for prompt, fed in zip(prompts, decoder, strict=True)]


def _embedded(subject: Subject, rows: Sequence[list[int]]) -> list[Tensor]:
    """What the model's table says of the tokens of each row; nothing where there is no such table."""
    try:
        table: Callable[..., Tensor] = subject.model.get_input_embeddings()
        with torch.no_grad():
            return [table(torch.tensor(row, device=subject.loaded.device)).detach().cpu() for row in rows]
    except (NotImplementedError, AttributeError, TypeError):
        return []


def _worse(worst: Closeness, subject: Subject, shares: Tensor, site: str, width: int) -> Closeness:
    if not len(shares):
        return worst
    blocks = max(len(tower.blocks) for tower in subject.layout.towers)
    limit, position = tolerance(subject.dtype, blocks, width), int(shares.argmax())
    found = Closeness(float(shares[position]), limit, site, position)
    return worst if worst is not _EXACT and worst.used >= found.used else found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common before they part."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _is_tie(subject: Subject, prompt: list[int], alone: Answer, padded: Answer) -> bool:
    """Whether the two tokens at which greedy answers part were as likely, as far as rounding can tell."""
    number = _common(alone.response, padded.response)
    result = subject.generate(subject.batch([prompt]), return_dict_in_generate=True, output_logits=True)
    logits = result.logits[number][0].double()
    gap = float(logits[alone.response[number]] - logits[padded.response[number]])
    blocks = max(len(tower.blocks) for tower in subject.layout.towers)
    return gap <= 2 * tolerance(subject.dtype, blocks, logits.numel()) * float(logits.abs().max())
