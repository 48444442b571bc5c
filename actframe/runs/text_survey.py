"""A first look at all texts, before any long work: how many there are, how long, and which cannot be computed."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from actframe.errors import PromptError, SettingsError
from actframe.runs.text_batches import TextBatches, windows
from actframe.runs.text_encoding import Text

__all__ = ["OnTrouble", "TextSurvey", "survey_texts"]

OnTrouble = Literal["error", "skip"]

NAMED = 10
"""How many texts a message names."""


@dataclass
class Unfit:
    """Texts that cannot be computed for one reason.

    Attributes:
        count: how many there are.
        names: of the first ones.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, text: Text) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(text.name)

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names)} more" if self.count > len(self.names) else ""
        return f"{self.count} ({', '.join(self.names)}{more})"


@dataclass
class TextSurvey:
    """What there is to compute.

    Attributes:
        total: how many texts there are, those that cannot be computed too.
        prompt_tokens, response_tokens: of each text that can be, in their order.
        too_long, empty: those that cannot.
        context: how many tokens fit.
    """

    context: int | None
    total: int = 0
    prompt_tokens: array[int] = field(default_factory=lambda: array("I"))
    response_tokens: array[int] = field(default_factory=lambda: array("I"))
    too_long: Unfit = field(default_factory=Unfit)
    empty: Unfit = field(default_factory=Unfit)

    @property
    def fitting(self) -> int:
        """How many texts can be computed."""
        return len(self.prompt_tokens)

    @property
    def tokens(self) -> int:
        """How many tokens they have."""
        return sum(self.prompt_tokens) + sum(self.response_tokens)

    @property
    def skipped(self) -> int:
        """How many texts cannot be computed."""
        return self.too_long.count + self.empty.count

    def check(self, *, too_long: OnTrouble, empty: OnTrouble) -> None:
        """Refuse texts that cannot be computed, unless they are to be skipped.

        Raises:
            PromptError: there are some; the message counts and names them.
            SettingsError: neither `"error"` nor `"skip"`.
        """
        for name, value in (("too_long", too_long), ("empty", empty)):
            if value not in ("error", "skip"):
                raise SettingsError(f"{name} is {value!r}; it is 'error' or 'skip'")
        told = []
        if self.too_long.count and too_long == "error":
            told.append(
                f"{self.too_long} do not fit the context of {self.context} tokens: shorten them, or leave them out "
                "with too_long='skip'"
            )
        if self.empty.count and empty == "error":
            told.append(f"{self.empty} are empty: leave them out with empty='skip'")
        if told:
            raise PromptError(f"of {self.total} texts, {'; '.join(told)}")

    def describe_skipped(self) -> str:
        """What is left out, in a sentence."""
        told = [f"{self.too_long} do not fit the context of {self.context} tokens"] if self.too_long.count else []
        told += [f"{self.empty} are empty"] if self.empty.count else []
        return f"of {self.total} texts, {self.skipped} are skipped: {'; '.join(told)}"


def survey_texts(
    texts: Iterable[Text], batches: TextBatches, progress: Callable[[int], None] | None = None
) -> TextSurvey:
    """Look at each text once, and keep no more of it than its length.

    Args:
        texts: all of them.
        batches: what will compute them.
        progress: called with how many were looked at.

    Raises:
        PromptError, ModelError, SelectionError: as `TextBatches.encode`.
    """
    found = TextSurvey(batches.loaded.context_length)
    for window in windows(texts):
        for encoded in batches.encode(window):
            found.total += 1
            if not encoded.prompt_ids:
                found.empty.add(encoded.text)
            elif batches.is_too_long(encoded):
                found.too_long.add(encoded.text)
            else:
                found.prompt_tokens.append(len(encoded.prompt_ids))
                found.response_tokens.append(len(encoded.response_ids))
        if progress is not None:
            progress(found.total)
    return found
