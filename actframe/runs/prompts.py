"""Prompts -> token ids, with every check that can be made before the model runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from actframe.benchmarks.prompting import Message
from actframe.errors import ModelError, PromptError
from actframe.runs.models import LoadedModel

__all__ = [
    "begun_response",
    "check_lengths",
    "encode_prompts",
    "exceeds_context",
    "render_chat",
    "without_double_start",
]

OPEN_THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>(?=\s*$)", re.IGNORECASE)
TAIL = 16
"""Tokens of a prompt in which its last tag and the blanks after it stand."""


def encode_prompts(
    loaded: LoadedModel, prompts: Sequence[str | Sequence[Message]], chat: bool | None = None
) -> list[list[int]]:
    """The token ids that the model is given for each prompt, unpadded.

    Args:
        loaded: the model and its tokenizer.
        prompts: what the user says, or whole conversations.
        chat: put each prompt into the tokenizer's chat template, a text as a user's message (True), or give it as it
            is (False). Default: the template wherever there is one.

    Raises:
        PromptError: a prompt is not text, is empty, or cannot be encoded; the message has its index.
        ModelError: there is no tokenizer, or no chat template where `chat` demands one.
    """
    tokenizer = loaded.require_tokenizer()
    if chat and not loaded.is_chat:
        raise ModelError(
            f"model {loaded.name!r} has no chat template; use chat=False to give it the prompt as it is, "
            f"or set tokenizer.chat_template"
        )
    if isinstance(prompts, str):
        raise PromptError("prompts is a list of texts, not one text: put it in a list")
    conversations = [_conversation(prompt, index) for index, prompt in enumerate(prompts)]
    for index, messages in enumerate(conversations):
        if not messages[-1].content.strip():
            raise PromptError(f"prompt {index} of {len(prompts)} is empty")
    in_template = loaded.is_chat if chat is None else chat
    return [_encode(tokenizer, messages, index, in_template) for index, messages in enumerate(conversations)]


def check_lengths(loaded: LoadedModel, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse prompts that do not fit the model's context together with the tokens that were asked for.

    Raises:
        PromptError: names the first prompt that is too long, its length, and the model's limit.
    """
    for index, ids in enumerate(encoded):
        if exceeds_context(loaded, len(ids), max_new_tokens):
            raise PromptError(
                f"prompt {index} of {len(encoded)} is too long: {len(ids)} tokens and {max_new_tokens} new ones do not "
                f"fit the context of {loaded.name!r}, which is {loaded.context_length} tokens; shorten it or lower "
                f"max_new_tokens"
            )


def exceeds_context(loaded: LoadedModel, prompt_tokens: int, max_new_tokens: int) -> bool:
    """Whether a prompt and the response that there may be do not fit the model's context."""
    limit = loaded.context_length
    needed = max(prompt_tokens, max_new_tokens) if loaded.is_encoder_decoder else prompt_tokens + max_new_tokens
    return limit is not None and needed > limit


def begun_response(tokenizer: PreTrainedTokenizerBase, input_ids: Sequence[int]) -> str:
    """What a prompt begins of the response itself: templates of thinking models end in an open `<think>`."""
    found = OPEN_THOUGHT.search(str(tokenizer.decode(list(input_ids[-TAIL:]))))
    return f"{found[0]}\n" if found else ""


def _conversation(prompt: str | Sequence[Message], index: int) -> list[Message]:
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    messages = [each for each in prompt if isinstance(each, Message)] if isinstance(prompt, Sequence) else []
    if messages and len(messages) == len(prompt):
        return messages
    raise PromptError(f"prompt {index} is not text but {type(prompt).__name__}")


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A conversation in the tokenizer's chat template, up to where the model begins to answer.

    Templates that know no system message refuse it: then its text stands before the first message.
    """
    system, rest = messages[0], list(messages[1:])
    try:
        return _in_template(tokenizer, messages)
    except Exception:
        if system.role != "system" or not rest:
            raise
        return _in_template(tokenizer, [Message(rest[0].role, f"{system.content}\n\n{rest[0].content}"), *rest[1:]])


def _in_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    said = [{"role": each.role, "content": each.content} for each in messages]
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


def _encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], index: int, in_template: bool
) -> list[int]:
    prompt = "\n\n".join(each.content for each in messages)
    try:
        if in_template:
            text = render_chat(tokenizer, messages)
            # A template writes the special tokens that it wants.
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        else:
            ids = without_double_start(tokenizer, tokenizer(prompt, verbose=False).input_ids)
    except Exception as error:
        raise PromptError(f"prompt {index} cannot be encoded: {type(error).__name__}: {error}") from error
    if not ids:
        raise PromptError(f"prompt {index} has no tokens: the tokenizer drops all of {prompt[:40]!r}")
    return list(ids)


def without_double_start(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """A prompt that was rendered from a template begins with the start token that the tokenizer adds as well."""
    start = tokenizer.bos_token_id
    return ids[1:] if start is not None and ids[:2] == [start, start] else ids
