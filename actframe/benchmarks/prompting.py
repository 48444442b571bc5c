"""How a question is put to a model: the values that pass between a benchmark and a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from actframe.errors import SettingsError

__all__ = ["PROMPT_STYLES", "SCORINGS", "Completion", "Message", "PromptStyle", "Prompting", "Scoring"]

PromptStyle = Literal["direct", "reason"]
PROMPT_STYLES: tuple[PromptStyle, ...] = get_args(PromptStyle)

Scoring = Literal["generate", "loglikelihood"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)


@dataclass(frozen=True)
class Prompting:
    """How questions are put to a model.

    Attributes:
        num_fewshot: how many solved examples stand before each question.
        style: `"direct"` asks for the answer alone, `"reason"` to think first and then answer.
        system: a system message, or the first lines of a prompt without a chat template.
        chat: the messages go into a chat template; else everything is a single text. None stands for True where the
            model has one, and is decided before an adapter sees it.
    """

    num_fewshot: int = 0
    style: PromptStyle = "direct"
    system: str | None = None
    chat: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.num_fewshot, int) or self.num_fewshot < 0:
            raise SettingsError(f"num_fewshot is {self.num_fewshot!r}; it must be a whole number, 0 for no examples")
        if self.style not in PROMPT_STYLES:
            raise SettingsError(f"no prompt style {self.style!r}; there are {', '.join(PROMPT_STYLES)}")


@dataclass(frozen=True)
class Message:
    """One message of a conversation, as chat templates take it.

    Attributes:
        role: `"system"`, `"user"` or `"assistant"`.
        content: its text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Completion:
    """One choice of a question, as log-likelihood scoring compares it with the others.

    Attributes:
        context: what stands before; of no consequence but as the condition.
        continuation: what is scored, with the space before it where there is one.
    """

    context: str
    continuation: str
