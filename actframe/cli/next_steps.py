"""Commands to go on with, written so that they work where they are pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from actframe.cli.console import stdout

__all__ = ["actframe_command", "print_commands", "python_command"]


def actframe_command(*arguments: object) -> list[str]:
    """The command line that runs this actframe again, from a virtual environment that is not active as well."""
    if Path(sys.argv[0]).stem != "actframe":
        return python_command("-m", "actframe", *arguments)
    return [_shortest("actframe", sys.argv[0]), *map(str, arguments)]


def python_command(*arguments: object) -> list[str]:
    """The same for this Python."""
    return [_shortest("python", sys.executable), *map(str, arguments)]


def print_commands(commands: Mapping[str, Sequence[str]]) -> None:
    """What each command is for, as a comment of the shell, and the command: quoted, and never folded."""
    console = stdout()
    for purpose, command in commands.items():
        console.print(f"# {purpose}", soft_wrap=True, markup=False, style="dim")
        console.print(shlex.join(command), soft_wrap=True, markup=False, style="cyan")


def _shortest(name: str, path: str) -> str:
    """The bare name where the shell would find this very file, else a path; relative where that is below here.

    Links are not followed: the Python of a virtual environment is a link to the one that it was made from.
    """
    found, wanted = shutil.which(name), os.path.abspath(path)
    if found and os.path.abspath(found) == wanted:
        return name
    relative = os.path.relpath(wanted)
    return wanted if relative.startswith(os.pardir) else relative
