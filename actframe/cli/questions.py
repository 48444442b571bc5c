"""The command that lists, counts and previews the questions of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message, Prompting
from actframe.cli import question_options as asking
from actframe.cli.console import announce, one_line, print_json, printable, stdout
from actframe.cli.options import AsJson
from actframe.cli.tables import new_table
from actframe.errors import SettingsError

if TYPE_CHECKING:
    from actframe.runs.models import LoadedModel

__all__ = ["questions"]

MOST_LETTERS = 5
"""Whose counts fit into a cell."""

Benchmark = Annotated[
    str, typer.Argument(metavar="BENCHMARK", help="A name, NAME:TASK, or a file of questions.", show_default=False)
]
Show = Annotated[int, typer.Option(metavar="N", help="Print the prompts of the first N questions.", min=0)]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Render prompts as this model gets them, and count tokens.", show_default=False),
]


def questions(  # noqa: PLR0913 - typer reads the options from the signature
    benchmark: Benchmark,
    *,
    show: Show = 0,
    model: Model = None,
    num_fewshot: asking.NumFewshot = 0,
    prompt_style: asking.PromptStyleOption = "direct",
    system: asking.System = None,
    chat_template: asking.ChatTemplate = "auto",
    data: asking.Data = None,
    split: asking.Split = None,
    subjects: asking.Subjects = None,
    as_json: AsJson = False,
) -> None:
    """Count the questions of a benchmark, and show prompts as a model gets them.

    Without --model prompts are shown as messages, with it as the text that its tokenizer makes of them.
    """
    flags = asking.QuestionFlags(data, split, num_fewshot, system, prompt_style, chat_template)
    chosen = asking.parse_subjects(subjects)
    try:
        prompting = flags.prompting()
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error
    from actframe.runs.grading import make_conversation, take_questions

    adapter = flags.open(benchmark)
    found = take_questions(adapter, subjects=chosen)
    if num_fewshot:
        # What a run would refuse is said here too: some subjects have fewer examples than others.
        for each in found:
            make_conversation(adapter, each, prompting)
    previews = _previews(adapter, found[:show], prompting, model) if show or model else []
    if as_json:
        print_json(
            {
                "benchmark": adapter.name,
                **adapter.identity(),
                **_counts(found),
                "subjects": {name: _counts(each) for name, each in _by_subject(found).items()},
                "shown": previews,
            }
        )
        return
    stdout().print(_table(adapter, found))
    for preview in previews:
        _print_preview(preview)


def _previews(
    adapter: BenchmarkAdapter, asked: Sequence[Question], prompting: Prompting, model: str | None
) -> list[dict[str, Any]]:
    """What a model is given for some questions: as messages, and as its own text where there is a model."""
    from dataclasses import replace

    from actframe.runs.grading import make_conversation

    loaded = _load(model) if model else None
    chat = prompting.chat if prompting.chat is not None else loaded is None or loaded.is_chat
    found = []
    for question in asked:
        messages = make_conversation(adapter, question, replace(prompting, chat=chat))
        found.append(
            {
                "id": question.id,
                "subject": question.subject,
                "answer": question.answer,
                "messages": [{"role": each.role, "content": each.content} for each in messages],
                **(_rendered(loaded, messages, chat) if loaded else {}),
            }
        )
    return found


def _load(model: str) -> LoadedModel:
    announce(f"loading {model}")
    from actframe.runs.models import load_model

    return load_model(model, device="cpu")


def _rendered(loaded: LoadedModel, messages: list[Message], chat: bool) -> dict[str, Any]:
    from actframe.runs.prompts import encode_prompts

    (ids,) = encode_prompts(loaded, [messages], chat)
    return {"prompt": str(loaded.require_tokenizer().decode(ids)), "tokens": len(ids)}


def _counts(found: Iterable[Question]) -> dict[str, Any]:
    found = list(found)
    lettered = Counter(each.answer for each in found if each.choices and each.answer)
    return {
        "questions": len(found),
        "choices": {str(count): number for count, number in sorted(Counter(len(q.choices) for q in found).items())},
        "answers": dict(sorted(lettered.items())),
        "ungraded": sum(not each.answer for each in found),
    }


def _by_subject(found: Iterable[Question]) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in found:
        groups.setdefault(question.subject or "", []).append(question)
    return groups


def _table(adapter: BenchmarkAdapter, found: list[Question]) -> Table:
    groups = _by_subject(found)
    ungraded = _counts(found)["ungraded"]
    caption = f"{ungraded} have no answer, and are not graded." if ungraded else None
    table = new_table(
        f"{adapter.name}: questions",
        "subject",
        "questions",
        "choices",
        "answers",
        right=("questions",),
        caption=caption,
    )
    if len(groups) > 1:
        for name, each in groups.items():
            table.add_row(Text(one_line(name or "-")), *_cells(each))
        table.add_section()
    table.add_row("all", *_cells(found), style="bold")
    return table


def _cells(found: list[Question]) -> list[str]:
    counts = _counts(found)
    sizes = [int(size) for size in counts["choices"]]
    choices = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"
    answers = counts["answers"]
    if len(answers) > MOST_LETTERS:
        shares = [count / sum(answers.values()) for count in answers.values()]
        balance = f"{min(answers)}-{max(answers)}, {min(shares):.0%}-{max(shares):.0%} each"
    else:
        balance = "  ".join(f"{letter} {count}" for letter, count in answers.items())
    return [str(len(found)), choices if sizes != [0] else "-", balance or "free"]


def _print_preview(preview: dict[str, Any]) -> None:
    console = stdout()
    tokens = f", {preview['tokens']} tokens" if "tokens" in preview else ""
    expected = one_line(preview["answer"]) or "unknown"
    console.print()
    title = f"{one_line(preview['id'])}{tokens}, answer {expected}"
    console.rule(Text(title, "bold"), align="left")
    if "prompt" in preview:
        console.print(printable(preview["prompt"]), markup=False)
        return
    for message in preview["messages"]:
        console.print(Text(f"[{message['role']}]", "cyan"))
        console.print(printable(message["content"]), markup=False)
