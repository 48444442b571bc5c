"""Choices -> token ids: what log-likelihood scoring compares, cut into context and continuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Completion, Message, Prompting
from actframe.errors import ActframeError, BenchmarkError, ModelError, PromptError
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import render_chat

__all__ = ["EncodedChoice", "Ranking", "make_ranking"]


@dataclass(frozen=True)
class EncodedChoice:
    """One choice of a question in tokens.

    Attributes:
        context: what stands before; never empty.
        continuation: what is scored; never empty.
    """

    context: list[int]
    continuation: list[int]

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self.context + self.continuation


@dataclass(frozen=True)
class Ranking:
    """The choices of one question, as a model is given them.

    Attributes:
        prompt: the text that all contexts begin with, as the benchmark makes it: without a chat template.
        prompt_ids: the longest beginning that the contexts have in common: mostly the whole context, which is the same
            for each choice. Empty where they have none.
        choices: in the order of the benchmark's.
    """

    prompt: str
    prompt_ids: list[int]
    choices: tuple[EncodedChoice, ...]

    @property
    def longest(self) -> int:
        """How many tokens the model is given of the longest choice: the last one is only predicted."""
        return max(len(choice.context) + len(choice.continuation) - 1 for choice in self.choices)

    def split(self, choice: EncodedChoice) -> tuple[list[int], list[int]]:
        """The sequence of a choice, cut where the prompt ends; one that does not begin with it, after its context."""
        prompt = self.prompt_ids
        if prompt and choice.ids[: len(prompt)] == prompt:
            return prompt, choice.ids[len(prompt) :]
        return choice.context, choice.continuation


def make_ranking(loaded: LoadedModel, benchmark: BenchmarkAdapter, question: Question, prompting: Prompting) -> Ranking:
    """Everything that the model is given to rank the choices of a question.

    Args:
        loaded: the model and its tokenizer.
        benchmark: whose `ranking` says what is compared.
        question: of that benchmark.
        prompting: how it is put. With `chat`, contexts go into the chat template as a user's message, and the system
            text as a message of its own; a continuation then begins without a space where the template ends with one.

    Raises:
        BenchmarkError: the adapter raised, or returned something else; the message names the question.
        PromptError: a choice has no tokens, or cannot be encoded.
        ModelError: there is no tokenizer, or no chat template where one is asked for.
    """
    tokenizer = loaded.require_tokenizer()
    if prompting.chat and not loaded.is_chat:
        raise ModelError(f"model {loaded.name!r} has no chat template to put the choices into; use chat=False")
    completions = _completions(benchmark, question, prompting)
    contexts = [completion.context for completion in completions]
    if prompting.chat:
        completions = [_in_template(tokenizer, each, prompting.system) for each in completions]
    try:
        encode = _encode_apart if loaded.is_encoder_decoder else _encode_pair
        choices = tuple(encode(tokenizer, each, in_template=bool(prompting.chat)) for each in completions)
    except PromptError as error:
        raise PromptError(f"question {question.id!r} of {benchmark.name!r}: {error}") from error
    # A choice that is scored without any context (to see how likely it is by itself) takes no part in the prompt.
    said = [number for number, context in enumerate(contexts) if context] or list(range(len(contexts)))
    shared = _shared([contexts[number] for number in said])
    shared_ids = _shared([choices[number].context for number in said])
    return Ranking(contexts[said[0]][:shared], choices[said[0]].context[:shared_ids], choices)


def _shared(sequences: Sequence[Sequence[object]]) -> int:
    """How many items all of them begin with."""
    length = 0
    for items in zip(*sequences, strict=False):
        if any(item != items[0] for item in items):
            break
        length += 1
    return length


def _completions(benchmark: BenchmarkAdapter, question: Question, prompting: Prompting) -> list[Completion]:
    if prompting.chat:
        # The template has a place of its own for it.
        prompting = replace(prompting, system=None)
    try:
        completions = list(benchmark.ranking(question, prompting))
        if not completions or not all(isinstance(each, Completion) for each in completions):
            raise TypeError(f"ranking should return completions, not {completions!r:.80}")
    except ActframeError:
        raise
    except Exception as error:
        raise BenchmarkError(
            f"benchmark {benchmark.name!r} failed to make the choices of question {question.id!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return completions


def _in_template(tokenizer: PreTrainedTokenizerBase, completion: Completion, system: str | None) -> Completion:
    """A context in the chat template, up to where the model begins to answer."""
    messages = [Message("system", system)] if system else []
    context = render_chat(tokenizer, [*messages, Message("user", completion.context)])
    continuation = completion.continuation
    return Completion(context, continuation.lstrip() if context[-1:].isspace() else continuation)


def _encode_pair(tokenizer: PreTrainedTokenizerBase, completion: Completion, *, in_template: bool) -> EncodedChoice:
    """Encode context and continuation as one text and cut it at the length of the encoded context.

    So tokens are those of the whole text, as lm-evaluation-harness has them. Spaces at the end of the context go to the
    continuation, whose first token mostly begins with one.
    """
    context = completion.context.rstrip()
    continuation = completion.context[len(context) :] + completion.continuation
    if not context:
        return _encode_alone(tokenizer, continuation)
    before = _tokens(tokenizer, context, in_template)
    after = _tokens(tokenizer, context + continuation, in_template)[len(before) :]
    if not before or not after:
        raise PromptError(f"choice {completion.continuation!r} adds no token to {context[-40:]!r}")
    return EncodedChoice(before, after)


def _encode_apart(tokenizer: PreTrainedTokenizerBase, completion: Completion, *, in_template: bool) -> EncodedChoice:
    """Encode a context for the encoder, and a continuation for the decoder."""
    context = completion.context.rstrip()
    continuation = completion.context[len(context) :] + completion.continuation
    if not context:
        return _encode_alone(tokenizer, continuation)
    before = _tokens(tokenizer, context, in_template)
    after = _tokens(tokenizer, continuation, in_template=True)
    if not before or not after:
        raise PromptError(f"choice {completion.continuation!r} or the context before it has no tokens")
    return EncodedChoice(before, after)


def _encode_alone(tokenizer: PreTrainedTokenizerBase, continuation: str) -> EncodedChoice:
    """A continuation without a context, after the token that texts begin with."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise PromptError("a choice has no context, and the tokenizer no token that a text begins with")
    ids = _tokens(tokenizer, continuation, in_template=True)
    if ids[:1] == [start]:
        ids = ids[1:]
    if not ids:
        raise PromptError(f"choice {continuation!r} has no tokens")
    return EncodedChoice([start], ids)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, in_template: bool) -> list[int]:
    """The tokens of a text, with those that the tokenizer begins texts with where the text has none of its own."""
    start = tokenizer.bos_token
    special = not in_template and not (start and text.startswith(start))
    try:
        return list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
    except Exception as error:
        raise PromptError(f"{text[:40]!r} cannot be encoded: {type(error).__name__}: {error}") from error
