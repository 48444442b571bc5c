"""Texts -> token ids: texts by themselves, and prompts with the responses that were written to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actframe.benchmarks.prompting import Message
from actframe.errors import ModelError, PromptError
from actframe.records.record import ActivationRecord
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import render_chat, without_double_start

__all__ = ["OWN_KEYS", "EncodedText", "Given", "Text", "TextEncoder"]

OWN_KEYS = {
    *ActivationRecord.__annotations__,
    *("computed_before", "data", "device", "media", "output_tokens", "prompt_tokens", "row", "text_id"),
}
"""What the record of a text says by itself."""

Given = str | Sequence[int]
"""A text, or its token ids."""


@dataclass(frozen=True, slots=True)
class Text:
    """What is to be computed.

    Attributes:
        number: its place among the texts, from 0.
        prompt: the text; of a pair, the prompt.
        response: what was answered; None where there is no pair.
        about: what its record is to say beside.
    """

    number: int
    prompt: Given
    response: Given | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.about.get("text_id", self.number))


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as the model gets it.

    Attributes:
        text: which it is.
        prompt_ids, response_ids: its tokens; of a text alone, all are prompt.
    """

    text: Text
    prompt_ids: list[int]
    response_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


class TextEncoder:
    """Makes token ids of texts.

    A prompt has the tokens that it has alone, as when the model was to answer it. Those of its response are the rest of
    both encoded as one text, where this begins with the tokens of the prompt; where a token would reach across the
    boundary, the response is encoded by itself, without special tokens. So the boundary always lies between two tokens.

    Args:
        loaded: the model and its tokenizer.
        chat: put each text into the tokenizer's chat template as a user's message, its response behind it. None:
            prompts of pairs where there is a template, texts alone never.

    Raises:
        ModelError: there is no tokenizer, or no chat template where one was demanded.
    """

    def __init__(self, loaded: LoadedModel, chat: bool | None = None) -> None:
        self._loaded = loaded
        self._chat = chat
        if chat and not loaded.is_chat:
            raise ModelError(
                f"model {loaded.name!r} has no chat template; use chat=False to give it texts as they are, "
                f"or set tokenizer.chat_template"
            )

    def encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        """The ids of some texts, in their order; those of an empty text are none.

        Raises:
            PromptError: the tokenizer cannot encode one of them; the message names it.
            ModelError: there is no tokenizer, and something is no list of ids.
        """
        by_themselves = [each for each in texts if not isinstance(each.prompt, str)]
        written = [each for each in texts if isinstance(each.prompt, str)]
        found = {each.number: self._given(each) for each in by_themselves}
        for in_template in (False, True):
            group = [each for each in written if self._is_in_template(each) == in_template]
            found.update((each.text.number, each) for each in self._encode(group, in_template))
        return [found[each.number] for each in texts]

    def _is_in_template(self, text: Text) -> bool:
        if self._chat is None:
            return text.response is not None and self._loaded.is_chat
        return self._chat

    def _given(self, text: Text) -> EncodedText:
        response = text.response if text.response is not None else []
        if isinstance(response, str):
            response = self._ids([response], [text], special=False)[0]
        return EncodedText(text, list(text.prompt), list(response))  # type: ignore[arg-type]

    def _encode(self, texts: list[Text], in_template: bool) -> list[EncodedText]:
        rendered = [self._render(each) if in_template else str(each.prompt) for each in texts]
        # A template writes the special tokens that it wants.
        prompts = self._ids(rendered, texts, special=not in_template)
        found = [EncodedText(text, ids, []) for text, ids in zip(texts, prompts, strict=True)]
        if self._loaded.is_encoder_decoder:
            return [self._with_own_response(each) for each in found]
        answered = [place for place, text in enumerate(texts) if isinstance(text.response, str)]
        joined = [f"{rendered[place]}{texts[place].response}" for place in answered]
        whole = self._ids(joined, [texts[place] for place in answered], special=not in_template)
        for place, ids in zip(answered, whole, strict=True):
            prompt = prompts[place]
            if prompt and ids[: len(prompt)] == prompt:
                found[place] = EncodedText(texts[place], prompt, ids[len(prompt) :])
        return [each if each.response_ids else self._with_own_response(each) for each in found]

    def _with_own_response(self, encoded: EncodedText) -> EncodedText:
        response = encoded.text.response
        if isinstance(response, str):
            response = self._ids([response], [encoded.text], special=False)[0] if response else []
        return EncodedText(encoded.text, encoded.prompt_ids, list(response or ()))

    def _render(self, text: Text) -> str:
        if not str(text.prompt).strip():
            return ""
        try:
            return render_chat(self._loaded.require_tokenizer(), [Message("user", str(text.prompt))])
        except Exception as error:
            raise PromptError(f"text {text.name} does not fit the chat template: {error}") from error

    def _ids(self, written: list[str], texts: Sequence[Text], *, special: bool) -> list[list[int]]:
        """The ids of what is written, encoded together, which is many times as fast as one by one."""
        if not written:
            return []
        tokenizer: Any = self._loaded.require_tokenizer()
        blank = {place for place, each in enumerate(written) if special and not each.strip()}
        try:
            found = tokenizer(written, add_special_tokens=special, verbose=False).input_ids
        except Exception as error:
            if len(written) > 1:
                pairs = zip(written, texts, strict=True)
                return [self._ids([each], [text], special=special)[0] for each, text in pairs]
            raise PromptError(f"text {texts[0].name} cannot be encoded: {type(error).__name__}: {error}") from error
        if special:
            found = [without_double_start(tokenizer, ids) for ids in found]
        return [[] if place in blank else list(ids) for place, ids in enumerate(found)]
