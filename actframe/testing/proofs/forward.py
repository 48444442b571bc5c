"""What must be true of bare forward passes: recorded is what modules give, outputs stay, strategies agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from actframe.capture.available import available_sites
from actframe.errors import CaptureError
from actframe.records.record import ActivationRecord
from actframe.testing.proofs.reference import Axes, Reference, first_difference, same_bits
from actframe.testing.proofs.report import Check, Difference
from actframe.testing.proofs.subject import Batch, Subject

__all__ = ["check_forward", "check_outputs", "check_strategies", "learn_axes", "outputs", "real_columns"]

Real = list[list[bool]]
"""Which columns of each row are tokens, and not padding."""


def learn_axes(subject: Subject) -> Axes:
    """Run the model once without any recorder, and see where rows and positions are in what its modules give."""
    axes, batch = Axes(), subject.standard()
    with Reference(subject.model, subject.layout, subject.sites) as reference:
        subject.forward(batch)
    for site in subject.sites:
        seen = reference.calls(site)
        if len(seen) == 1 and subject.layout.places[site].axes != "pattern":
            ids = batch.get("decoder_input_ids" if subject.in_decoder(site) else "input_ids")
            rows, width = (3, None) if ids is None else ids.shape
            axes.learn(site, seen[0], rows, width)
    return axes


def check_forward(name: str, subject: Subject, axes: Axes) -> Check:
    """Hold every site that the strategy offers against plain hooks, bit for bit."""
    told = []
    compared = [site for site in subject.sites if axes.knows(site) or subject.layout.places[site].axes == "pattern"]
    for case, batch in _cases(subject):
        with Reference(subject.model, subject.layout, compared) as reference, subject.recorder(compared) as recorder:
            subject.forward(subject.whole(batch))
        real = real_columns(batch)
        for site in compared:
            columns = None if subject.in_decoder(site) else real
            expected = _expected(subject, axes, site, reference, len(recorder.records))
            if (found := _compare(site, recorder.records, expected, columns)) is not None:
                return Check(name, "failed", case, found)
        told.append(case)
    silent = [site for site in subject.sites if site not in compared]
    if not compared:
        return Check(name, "skipped", "no site here has axes that can be told apart from outside")
    said = f"{len(compared)} sites, bit for bit: {', '.join(told)}"
    return Check(name, "ok", said + (f". Not compared: {', '.join(silent)}" if silent else ""))


def check_outputs(name: str, subject: Subject, axes: Axes) -> Check:
    """What the model returns is the same with and without recording, bit for bit."""
    batch = subject.standard()
    runs: dict[str, Callable[[], dict[str, Tensor]]] = {"a forward pass": lambda: outputs(subject)}
    if subject.may_be_asked:
        asked = {"output_hidden_states": True}
        runs["its hidden states"] = lambda: dict(_tensors(subject.forward(batch, **asked)))
    if subject.generates:
        asked_of = subject.batch(subject.alike, subject.generation_side)
        runs["greedy generation"] = lambda: {"sequences": subject.generate(asked_of)}
        runs["sampled generation"] = lambda: {"sequences": subject.generate(asked_of, do_sample=True, top_k=0)}
    for what, run in runs.items():
        plain, again = run(), run()
        if (found := _first_change(plain, again)) is not None:
            return Check(name, "failed", what, Difference(f"{found} is another one each time, without any recorder"))
        with subject.recorder(subject.sites):
            recorded = run()
        before = subject.untouched if what == "a forward pass" else plain
        if (found := _first_change(before, recorded)) is not None:
            return Check(name, "failed", what, Difference(f"{found} of {what} is another one while it is recorded"))
    return Check(name, "ok", f"bit for bit: {', '.join(runs)}")


def outputs(subject: Subject) -> dict[str, Tensor]:
    """Every tensor that a forward pass returns, by name."""
    return dict(_tensors(subject.forward(subject.standard())))


def check_strategies(name: str, subject: Subject, axes: Axes) -> Check:
    """The strategy agrees with the other one on every site that both have, bit for bit."""
    other = "output_hidden_states" if subject.strategy == "hooks" else "hooks"
    shared = [site for site in available_sites(subject.model, other) if site in subject.sites]
    if not shared:
        return Check(name, "skipped", f"{subject.strategy!r} and {other!r} share no site")
    try:
        with subject.recorder(shared, other):
            subject.forward(subject.standard())
    except CaptureError as refusal:
        return Check(name, "note", f"{other!r} is refused: {refusal}")
    with subject.recorder(shared, other) as theirs, subject.recorder(shared) as ours:
        subject.forward(subject.standard())
    for number, (one, two) in enumerate(zip(ours.records, theirs.records, strict=True)):
        for site in shared:
            found = first_difference(site, one.activations[site], two.activations[site], one.positions_of(site), number)
            if found is not None:
                return Check(name, "failed", f"{subject.strategy!r} and {other!r}", found)
    return Check(name, "ok", f"{subject.strategy!r} and {other!r}: {len(shared)} sites, bit for bit")


def real_columns(batch: Batch) -> Real | None:
    """Which columns of a batch are tokens; None where nothing says that some are not."""
    mask = batch.get("attention_mask")
    return None if mask is None else [[bool(each) for each in row] for row in mask.tolist()]


def _cases(subject: Subject) -> Iterator[tuple[str, Batch]]:
    if not subject.takes_tokens:
        yield "rows as they were given", subject.other_inputs()
        return
    prompts = subject.prompts
    shortest = min(map(len, prompts))
    yield f"one row of {len(prompts[1])} tokens", subject.batch(prompts[1:2])
    yield f"{len(prompts)} rows of {shortest}", subject.batch([prompt[:shortest] for prompt in prompts])
    if subject.takes_padding:
        lengths = ", ".join(str(len(prompt)) for prompt in prompts)
        yield f"rows of {lengths} padded on the left", subject.batch(prompts, "left")
        yield "and on the right", subject.batch(prompts, "right")


def _expected(subject: Subject, axes: Axes, site: str, reference: Reference, rows: int) -> Tensor | None:
    """A site as `(row, position, ...)`; a pattern as `(row, position, head, key)`. None where it never ran."""
    seen = reference.calls(site)
    if len(seen) != 1:
        return None
    if subject.layout.places[site].axes == "pattern":
        return seen[0].transpose(1, 2)
    return axes.arrange(site, seen[0], rows)


def _compare(
    site: str, records: list[ActivationRecord], expected: Tensor | None, real: Real | None
) -> Difference | None:
    if expected is None:
        return Difference("recorded, although its module did not run once", site)
    for row, record in enumerate(records):
        found, state = record.activations[site], expected[row]
        kept = [column for column in range(len(state)) if real is None or real[row][column]]
        state = state[kept]
        if site.endswith("attn_probs"):
            found, state = found.transpose(0, 1), state[..., kept]
        if (difference := first_difference(site, found, state, record.positions_of(site), row)) is not None:
            return difference
    return None


def _first_change(plain: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    if list(plain) != list(other):
        return f"the list of outputs ({', '.join(plain)}, and {', '.join(other)})"
    return next((name for name, tensor in plain.items() if not same_bits(tensor, other[name])), None)


def _tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an output by name; caches are objects of their own, and not among them."""
    if isinstance(output, Tensor):
        yield name or "the output", output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{name}.{key}".strip("."))
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from _tensors(value, f"{name}[{index}]")
