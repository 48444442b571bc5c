"""The options that say which questions are asked, and how: of every command that asks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions
from actframe.benchmarks.opening import open_benchmark
from actframe.benchmarks.prompting import PROMPT_STYLES, SCORINGS, Prompting, Scoring

__all__ = [
    "ChatTemplate",
    "Data",
    "NumFewshot",
    "PromptStyleOption",
    "QuestionFlags",
    "ScoringOption",
    "Split",
    "Subjects",
    "System",
    "choose_scoring",
    "parse_subjects",
]

_QUESTIONS = "Questions and prompts"
CHAT_TEMPLATES = {"auto": None, "on": True, "off": False}


def _option(metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=_QUESTIONS, **more)


Data = Annotated[
    str | None,
    _option("PATH", "A file or folder to take the questions from, in the benchmark's schema.", show_default="its own"),
]
Split = Annotated[str | None, _option("NAME", "Which part of the data.", show_default="the benchmark's")]
Subjects = Annotated[str | None, _option("LIST", "Only these subjects: 'history,logic'.", show_default="all")]
NumFewshot = Annotated[int, _option("N", "How many solved examples stand before each question.", min=0)]
System = Annotated[str | None, _option("TEXT", "A system message, or first lines.", show_default="none")]
PromptStyleOption = Annotated[
    str, _option("STYLE", f"{' or '.join(PROMPT_STYLES)}: answer at once, or think first and then answer.")
]
ChatTemplate = Annotated[
    str, _option("WHEN", "auto, on or off: whether prompts go into the model's chat template. auto: if it has one.")
]
ScoringOption = Annotated[
    str | None,
    _option(
        "HOW",
        f"{' or '.join(SCORINGS)}: read the answer from the text, or rank the choices.",
        show_default="the benchmark's",
    ),
]


@dataclass(frozen=True)
class QuestionFlags:
    """What was said about questions and prompts."""

    data: str | None = None
    split: str | None = None
    num_fewshot: int = 0
    system: str | None = None
    prompt_style: str = "direct"
    chat_template: str = "auto"

    def prompting(self) -> Prompting:
        """How questions are put; a usage error for what cannot be understood."""
        _one_of("--chat-template", self.chat_template, CHAT_TEMPLATES)
        _one_of("--prompt-style", self.prompt_style, PROMPT_STYLES)
        chat = CHAT_TEMPLATES[self.chat_template]
        return Prompting(self.num_fewshot, self.prompt_style, self.system, chat)  # type: ignore[arg-type]

    def open(self, benchmark: str) -> BenchmarkAdapter:
        """The benchmark that is meant."""
        return open_benchmark(benchmark, BenchmarkOptions(data=self.data, split=self.split))


def choose_scoring(benchmark: BenchmarkAdapter, asked: str | None) -> Scoring:
    """How answers are scored: as asked, or as the benchmark would; a usage error where it cannot."""
    if asked is None:
        return benchmark.scorings[0]
    _one_of("--scoring", asked, SCORINGS)
    if asked not in benchmark.scorings:
        raise typer.BadParameter(
            f"benchmark {benchmark.name!r} is scored by {' or '.join(benchmark.scorings)} only, not {asked!r}",
            param_hint="'--scoring'",
        )
    return asked  # type: ignore[return-value]


def parse_subjects(text: str | None) -> tuple[str, ...] | None:
    """Subjects, separated by commas; None for all.

    >>> parse_subjects("history, world religions")
    ('history', 'world religions')
    """
    parts = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and not parts:
        raise typer.BadParameter("the list is empty; name subjects, or leave it out", param_hint="'--subjects'")
    return parts or None


def _one_of(flag: str, value: str, known: Any) -> None:
    if value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=f"'{flag}'")
