"""What commands print: results on stdout, everything else on stderr, and nothing that a file could smuggle in.

Consoles are made when they are used, because colours, width and streams are those of that moment.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

__all__ = [
    "announce",
    "number",
    "one_line",
    "print_error",
    "print_json",
    "print_path",
    "print_prompt",
    "printable",
    "show_warning",
    "stderr",
    "stdout",
]

PIPE_WIDTH = 120
"""Columns where there is no terminal to ask and `COLUMNS` is not set: rich's 80 would fold tables for nobody."""


def stdout() -> Console:
    """The console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress, messages and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def announce(what: str) -> None:
    """What is waited for, on a terminal. No spinner: libraries draw their own download bars below it."""
    console = stderr()
    if console.is_terminal:
        console.print(f"{one_line(what)} ...", style="dim", soft_wrap=True, markup=False)


def print_error(error: BaseException) -> None:
    """One red line on stderr."""
    line = Text.assemble(("error: ", "bold red"), (one_line(str(error) or type(error).__name__), "red"))
    stderr().print(line, soft_wrap=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Takes the place of `warnings.showwarning`: users of a command have no use for the line that warned."""
    stderr().print(Text.assemble(("warning: ", "bold yellow"), one_line(str(message))), soft_wrap=True)


def print_path(path: Path | str, label: str = "") -> None:
    """A path on a line of its own, never folded, so that it can be copied."""
    stdout().print(Text.assemble(label, (printable(str(path)), "cyan")), soft_wrap=True)


def print_prompt(label: str, prompt: str | None) -> None:
    """A label and as much of a prompt as fits into the line."""
    line = Text.assemble((label, "bold"), "  ", one_line(prompt or "no prompt"))
    stdout().print(line, no_wrap=True, overflow="ellipsis")


def print_json(data: Any) -> None:
    """JSON on stdout, pure ASCII and strict: what is not finite becomes null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits, or a dash for what could not be computed.

    >>> number(25137.8), number(0.0005114), number(3.0), number(float("nan"))
    ('25140', '0.0005114', '3', '-')
    """
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else str(value)
    if 1000 <= abs(value) < 1e7:
        return f"{float(f'{value:.{digits}g}'):.0f}"
    return f"{value:.{digits}g}"


def printable(text: str) -> str:
    r"""Text that is safe to print: control characters, which a terminal would obey, are spelled out.

    >>> printable("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\nc'
    """
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text
    )


def one_line(text: str) -> str:
    """Printable text whose lines and runs of blanks are folded into one line."""
    return printable(" ".join(text.split()))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
