"""The ways of running a model, each tried: exact, refused by the recorder, or not what the model can do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from actframe.errors import ActframeError
from actframe.testing.proofs.answers import Closeness, replay
from actframe.testing.proofs.generation import Answer, answers, never_computed, observe, said_wrong
from actframe.testing.proofs.reference import Axes
from actframe.testing.proofs.report import Difference, Way
from actframe.testing.proofs.subject import NEW_TOKENS, Subject

__all__ = ["try_ways"]

Run = Callable[[], list[Answer]]


def try_ways(subject: Subject, axes: Axes, told: Callable[[str], None]) -> list[Way]:
    """Try each way without a recorder, then with one.

    A way is exact if it gives the same tokens as without; if the records say these tokens and positions; if all vectors
    of a position are what one column of one pass was, bit for bit; and if one pass over each finished sequence alone
    gives them but for rounding, which no other row, token or position would.
    """
    if not subject.can_generate:
        return []
    replays = subject.generates and _replays(subject, axes)
    found = []
    for name, run in _ways(subject).items():
        told(name)
        found.append(_try(subject, axes, name, run, replays))
    return found


def _try(subject: Subject, axes: Axes, name: str, run: Run, replays: bool) -> Way:
    try:
        plain = run()
    except Exception as error:
        return Way(name, "not run", f"without any recorder: {type(error).__name__}: {_first_words(error)}")
    try:
        observed = observe(subject, run)
    except ActframeError as refusal:
        return Way(name, "refused", _first_words(refusal))
    except Exception as error:
        what = f"while it is recorded it raises {type(error).__name__}: {_first_words(error)}"
        return Way(name, "failed", "", Difference(what))
    if [answer.fed for answer in observed.answers] != [answer.fed for answer in plain]:
        return Way(name, "failed", "", Difference("other tokens are generated while it is recorded"))
    wrong = said_wrong(observed) or never_computed(subject, axes, observed)
    if wrong is not None:
        return Way(name, "failed", "", wrong)
    sizes = f"{len(observed.records)} x {max(len(answer.fed) for answer in observed.answers)} positions"
    if not replays:
        return Way(name, "exact", f"{sizes}; this model cannot be held against one pass over the whole sequence")
    close = replay(subject, axes, observed)
    return Way(name, "exact", sizes) if close.ok else Way(name, "failed", "", _too_far(close))


def _replays(subject: Subject, axes: Axes) -> bool:
    """Whether the model's own steps give what one pass gives; where they do not, nothing can be held against it."""
    try:
        return replay(subject, axes, observe(subject, functools.partial(answers, subject, subject.prompts[:1]))).ok
    except Exception:  # the way that is as plain as this one says so
        return False


def _too_far(close: Closeness) -> Difference:
    what = f"recorded is not what this sequence gives alone: {close.share:.1e} of the vector's length, "
    return Difference(f"{what}{close.limit:.1e} allowed", close.site, close.position)


def _ways(subject: Subject) -> dict[str, Run]:
    one, several = subject.prompts[:1], subject.alike
    many = f"{len(several)} rows" + (f" padded on the {subject.generation_side}" if subject.takes_padding else "")

    def run(prompts: Sequence[list[int]], **options: Any) -> Run:
        return functools.partial(answers, subject, prompts, **options)

    sampling = {"do_sample": True, "top_k": 0}
    ways: dict[str, Run] = {
        "greedy": run(one),
        f"greedy, {many}": run(several),
        f"sampling, {many}": run(several, **sampling),
        "several answers to each prompt": run(several, num_return_sequences=2, **sampling),
        "beam search": run(several, num_beams=3),
        "beam search, several answers": run(one, num_beams=3, num_return_sequences=2),
        "static cache": run(several, cache_implementation="static", disable_compile=True),
        "no cache (use_cache=False)": run(several, use_cache=False),
        "drafts from the prompt": run(one, prompt_lookup_num_tokens=3),
        "streaming": run(one, streamer=_Stream()),
        "inference mode": functools.partial(_in_inference_mode, run(several)),
    }
    if not subject.is_encoder_decoder:
        # Beside an encoder, transformers cuts the mask of its states to the size of the chunk.
        ways["prompt in chunks"] = run(several, prefill_chunk_size=4)
        ways["a conversation that keeps its cache"] = functools.partial(_conversation, subject)
        ways["a loop by hand with a cache"] = functools.partial(_by_hand, subject)
        ways["a loop by hand without one"] = functools.partial(_by_hand, subject, use_cache=False)
    return ways


class _Stream:
    """As transformers' streamers are."""

    def put(self, value: Any) -> None:
        """Take tokens."""

    def end(self) -> None:
        """There are no more."""


def _in_inference_mode(run: Run) -> list[Answer]:
    with torch.inference_mode():
        return run()


def _conversation(subject: Subject) -> list[Answer]:
    """Two turns on one cache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=subject.model.config)
    (first,) = answers(subject, subject.prompts[:1], past_key_values=cache)
    asked = [*first.prompt, *first.response, *subject.prompts[1][-3:]]
    return [first, *answers(subject, [asked], past_key_values=cache)]


def _by_hand(subject: Subject, use_cache: bool = True) -> list[Answer]:
    """Greedy, call by call."""
    prompt = subject.prompts[0]
    fed = list(prompt)
    out = subject.forward(subject.batch([prompt]), use_cache=use_cache)
    for _ in range(NEW_TOKENS):
        fed.append(int(out.logits[0, -1].argmax()))
        if use_cache:
            last = {"input_ids": subject.tensor([fed[-1:]]), "past_key_values": out.past_key_values}
            out = subject.forward(last, use_cache=True)
        else:
            out = subject.forward(subject.batch([fed]), use_cache=False)
    if use_cache:
        return [Answer(prompt, fed[len(prompt) :], fed, len(prompt))]
    # Without a cache each pass is a sequence of its own.
    return [Answer(fed[:end], [], fed[:end], end) for end in range(len(prompt), len(fed) + 1)]


def _first_words(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= 300 else f"{words[:300]} ..."
