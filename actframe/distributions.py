"""Which plugins are installed: the entry points of one group, with what is wrong with their distributions.

One damaged distribution, ours or not, must hide no other, and a look-up reads no more than it needs: each
distribution's `entry_points.txt`, and of those that have the group the first lines of their metadata. That is why
`importlib.metadata.entry_points` is not asked, which parses everything and raises at the first line it cannot read.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from actframe.errors import PluginError

__all__ = ["Entry", "find_entries", "normalised"]

UNKNOWN = "unknown distribution"


@dataclass(frozen=True)
class Entry:
    """One entry point.

    Attributes:
        name: what stands before the equals sign.
        value: what stands after it: `module`, or `module:attribute`.
        distribution: the name of the distribution that has it, and `version` its version.
        problem: why it must not be loaded; None where nothing is wrong.
    """

    name: str
    value: str
    distribution: str = UNKNOWN
    version: str = "?"
    problem: str | None = None

    def load(self) -> object:
        """What the entry point names, imported.

        Raises:
            PluginError: it names no module, one that is gone, or its distribution is damaged.
            BaseException: whatever the import raises.
        """
        if self.problem is not None:
            raise PluginError(self.problem)
        match = metadata.EntryPoint.pattern.match(self.value)
        if match is None:
            raise PluginError(f"its entry point reads {self.name} = {self.value!r}, which names no module")
        name, attribute = match["module"], match["attr"]
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise PluginError(f"its module {error.name!r} is not there: {self._half_removed()}") from error
        if attribute is None and getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
            raise PluginError(f"its module {name!r} is a folder without code: {self._half_removed()}")
        return functools.reduce(getattr, attribute.split("."), module) if attribute else module

    def _half_removed(self) -> str:
        if self.distribution == UNKNOWN:
            return "correct the entry point, or remove it"
        return f"the distribution is half removed, or was built without it; reinstall or uninstall {self.distribution}"


def find_entries(group: str, only: Collection[str] | None = None) -> list[Entry]:
    """The entry points of a group, sorted by name: of all distributions, or `only` of those named.

    Of a distribution that is on the path twice the first one counts, as for Python. Where its remains lie beside it in
    the same folder, these are given too, with the problem.
    """
    wanted = None if only is None else {normalised(name) for name in only}
    entries: list[Entry] = []
    first: dict[str, str] = {}
    seen: set[str] = set()
    for distribution in sorted(metadata.distributions(), key=_is_left_over):
        lines = list(_lines(distribution, group))
        if not lines:
            continue
        name, version, problem = _describe(distribution)
        if wanted is not None and normalised(name) not in wanted:
            continue
        here = os.path.realpath(_folder(distribution))
        before = first.setdefault(normalised(name), here)
        if here in seen or os.path.dirname(before) != os.path.dirname(here):
            continue
        seen.add(here)
        if before != here and problem is None:
            problem = f"{name} is installed twice, in {before} and {here}; uninstall it twice, then install it again"
        entries += [replace(each, distribution=name, version=version, problem=problem) for each in lines]
    return sorted(entries, key=lambda entry: entry.name)


def _lines(distribution: metadata.Distribution, group: str) -> Iterator[Entry]:
    """The entry points of the group as they are written, whatever stands around them."""
    try:
        text = distribution.read_text("entry_points.txt")
    except UnicodeDecodeError as error:
        # Read as far as it is ASCII, which a group's name is; what is not makes a value that names no module.
        text = error.object.decode("ascii", errors="replace")
    header = f"[{group}]"
    if text is None or header not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line
        elif section == header and line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield Entry(name.strip(), value.strip())


def _describe(distribution: metadata.Distribution) -> tuple[str, str, str | None]:
    """Name and version of a distribution, and what is wrong with it."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except UnicodeDecodeError:
        text = ""
    # Only what stands before the description, which may be long.
    head = text.partition("\n\n")[0]
    said = {key.lower(): value.strip() for key, value in re.findall(r"^(Name|Version):(.*)$", head, re.M | re.I)}
    folder = _folder(distribution)
    stem_name, _, stem_version = Path(folder).stem.partition("-")
    name = said.get("name") or stem_name.replace("_", "-") or UNKNOWN
    version = said.get("version") or stem_version or "?"
    if _is_left_over(distribution):
        return name, version, f"this is what an interrupted uninstall left behind; delete {folder}"
    if missing := [key for key in ("name", "version") if not said.get(key)]:
        return name, version, f"its metadata has no {' and no '.join(missing)}: it is half removed; reinstall {name}"
    return name, version, None


def _is_left_over(distribution: metadata.Distribution) -> bool:
    """Whether pip renamed it to put it out of the way: its remains come last, after what was installed since."""
    return os.path.basename(_folder(distribution)).startswith("~")


def _folder(distribution: metadata.Distribution) -> str:
    """Where the metadata lie. Python keeps that to itself; a finder of another kind need not have it."""
    return str(getattr(distribution, "_path", ""))


def normalised(name: str) -> str:
    """As the packaging specifications compare names."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
