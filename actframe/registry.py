"""Loads plugins, finds extensions by name, and keeps the failures.

Plugins are the modules named by entry points of the group `actframe`; our own extensions come from
`actframe.builtin`, which is registered in the same way. Nothing loads before the first look-up. A plugin that fails
is kept as a failure with its error, warned about once, and never stops the others.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

from actframe.contracts import check_extension, claims_of, classes_in
from actframe.distributions import Entry, find_entries
from actframe.errors import PluginError, UnknownNameError, nearest
from actframe.extension import Extension
from actframe.hooks import AT_START, HookTable, call_hook, prints_aside

__all__ = ["LIMIT_VARIABLE", "Plugin", "Registry", "describe_error", "limited_to", "registry"]

GROUP = "actframe"
BUILTIN = "actframe.builtin"
LIMIT_VARIABLE = "ACTFRAME_PLUGINS"

E = TypeVar("E", bound=Extension)


@dataclass
class Plugin:
    """One installed plugin: where it comes from, what it provides, and what went wrong.

    Attributes:
        errors: what went wrong, by where it did: `import`, or the name of a hook.
    """

    name: str
    distribution: str
    version: str
    extensions: list[type[Extension]] = field(default_factory=list)
    errors: dict[str, BaseException] = field(default_factory=dict)

    @property
    def is_builtin(self) -> bool:
        return self.name == BUILTIN

    @property
    def error(self) -> BaseException | None:
        """What went wrong first."""
        return next(iter(self.errors.values()), None)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution} {self.version})"


class Registry:
    """The plugins of this environment. Use `registry()` for the one that the process shares."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = list(entries)
        self._hooks = HookTable()
        self._plugins: dict[str, Plugin] = {}
        self._owners: dict[str, list[Plugin]] = {}
        # Reentrant, because a plugin may look an extension up while it is loaded, and must hear that it cannot.
        self._lock = threading.RLock()
        self._done: set[str] = set()
        self._doing: str | None = None
        self._unsaid: list[tuple[Plugin, BaseException]] = []

    def plugins(self) -> list[Plugin]:
        """Every plugin, the built-in one first, each with its extensions or its error."""
        self._collect()
        return list(self._plugins.values())

    def installed(self, contract: type[E]) -> dict[str, type[E]]:
        """The usable extensions of one contract, by name. A name that two plugins claim is left out."""
        claims = self._claims(contract)
        return {name: owners[0][1] for name, owners in sorted(claims.items()) if len(owners) == 1}

    def find(self, contract: type[E], name: str) -> type[E]:
        """The extension class of that name.

        Raises:
            UnknownNameError: nothing is called so; the message lists what is, and the plugins that failed.
            PluginError: two plugins claim the name.
        """
        claims = self._claims(contract)
        owners = claims.get(name, [])
        if len(owners) == 1:
            return owners[0][1]
        if owners:
            names = " and ".join(str(plugin) for plugin, _ in owners)
            raise PluginError(
                f"{contract.kind} {name!r} is claimed by {names}; uninstall one, or choose with {LIMIT_VARIABLE}"
            )
        raise UnknownNameError(
            f"no {contract.kind} named {name!r}{nearest(name, claims)}; "
            f"installed: {', '.join(sorted(claims)) or 'none'}.{self.failed()}"
        )

    def failures(self) -> list[Plugin]:
        """The plugins that could not be loaded, or of which something was refused."""
        return [plugin for plugin in self.plugins() if plugin.errors]

    def failed(self) -> str:
        """The failures as the end of a message that says what there is; empty where there are none."""
        return "".join(f" Plugin {plugin.name!r} failed to load: {_reason(plugin)}." for plugin in self.failures())

    def problems(self, plugin: Plugin) -> list[str]:
        """What is wrong with a plugin, each in a line: its errors, and the names that another plugin claims too."""
        self._collect()
        said = [
            describe_error(error) if hook in AT_START else f"in {hook}: {describe_error(error)}"
            for hook, error in plugin.errors.items()
        ]
        for claim in (claim for each in plugin.extensions for claim in claims_of(each)):
            if rivals := " and ".join(str(other) for other in self._owners.get(claim, ()) if other is not plugin):
                said.append(
                    f"{claim} is also claimed by {rivals}, so it means none of them; uninstall one, or choose with "
                    f"{LIMIT_VARIABLE}"
                )
        return said

    def hooks_of(self, plugin: Plugin) -> list[str]:
        """The hooks that a plugin implements, sorted."""
        self._load()
        return self._hooks.of(plugin.name)

    def call_each(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call one hook of each plugin in turn, the last registered first, and give what each returned.

        Unlike a plain hook call, a plugin that raises is known by name, kept as a failure, and stops no other.
        """
        self._load()
        for implementation in self._hooks.implementations(hook):
            plugin = self._plugins[implementation.plugin_name]
            try:
                result = call_hook(implementation, hook, arguments)
            except BaseException as error:
                if plugin.is_builtin or not _is_kept(error, hook):
                    raise
                self.fail(plugin, error, hook)
            else:
                yield plugin, result

    def fail(self, plugin: Plugin, error: BaseException, hook: str) -> None:
        """Keep what a plugin's hook raised, or what is wrong with what it gave, and warn about it once."""
        if hook not in plugin.errors:
            plugin.errors[hook] = error
            self._unsaid.append((plugin, error))
        if self._doing is None:
            self._warn()

    def _load(self) -> None:
        self._once("loaded", self._load_all)

    def _load_all(self) -> None:
        # From nothing: an interrupt may have ended the first attempt.
        self._hooks = HookTable()
        self._plugins.clear()
        self._register(Plugin(BUILTIN, "actframe", metadata.version("actframe")), _load_builtin)
        for entry in self._entries:
            self._register(Plugin(entry.name, entry.distribution, entry.version), entry.load)
        for name, error in self._hooks.remove_unknown():
            self.fail(self._plugins[name], error, "import")

    def _register(self, plugin: Plugin, load: Callable[[], object]) -> None:
        if plugin.name in self._plugins:
            plugin.name = f"{plugin.name} of {plugin.distribution}"
        while plugin.name in self._plugins:
            plugin.name += ", again"
        self._plugins[plugin.name] = plugin
        try:
            with prints_aside():
                module = load()
            self._hooks.add(plugin.name, module)
        except BaseException as error:
            if plugin.is_builtin or not _is_kept(error, "import"):
                raise
            self.fail(plugin, error, "import")

    def _collect(self) -> None:
        self._load()
        self._once("asked for their extensions", self._collect_all)

    def _collect_all(self) -> None:
        provided = {plugin.name: given for plugin, given in self.call_each("extensions")}
        builtin: set[str] = set()
        self._owners = {}
        # The built-in one first, whatever order plugins want to be called in.
        for plugin in self._plugins.values():
            plugin.extensions.clear()
            if plugin.name in provided:
                self._take(plugin, provided[plugin.name], builtin)
            for claim in (claim for each in plugin.extensions for claim in claims_of(each)):
                self._owners.setdefault(claim, []).append(plugin)
            if plugin.is_builtin:
                builtin = set(self._owners)

    def _take(self, plugin: Plugin, provided: Any, builtin: set[str]) -> None:
        """Take what is usable of a plugin's extensions, and say of the others why they are not."""
        refused: list[BaseException] = []
        try:
            for each in classes_in(provided):
                try:
                    plugin.extensions.append(_usable(each, plugin, builtin))
                except Exception as error:
                    refused.append(error)
        except BaseException as error:
            if not _is_kept(error, "extensions"):
                raise
            refused.append(error)
        if refused and plugin.is_builtin:
            raise refused[0]
        if refused:
            joined = PluginError("; ".join(map(describe_error, refused)))
            self.fail(plugin, joined if len(refused) > 1 else refused[0], "extensions")

    def _once(self, what: str, do: Callable[[], None]) -> None:
        """Do one part of the work at its first need, in whatever thread that is; the others wait for it."""
        if what in self._done:
            return
        with self._lock:
            if what in self._done:
                return
            if self._doing is not None:
                raise PluginError(
                    f"extensions were looked up while plugins were {self._doing}: look them up later, when they are "
                    "used"
                )
            self._doing = what
            try:
                do()
                self._done.add(what)
            finally:
                self._doing = None
        # Last: where warnings are errors this look-up fails, and the next one finds everything.
        self._warn()

    def _warn(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for plugin, error in unsaid:
            warnings.warn(f"actframe plugin {plugin} failed: {describe_error(error)}", RuntimeWarning, stacklevel=3)

    def _claims(self, contract: type[E]) -> dict[str, list[tuple[Plugin, type[E]]]]:
        claims: dict[str, list[tuple[Plugin, type[E]]]] = {}
        for plugin in self.plugins():
            for extension in plugin.extensions:
                if issubclass(extension, contract):
                    claims.setdefault(extension.name, []).append((plugin, extension))
        return claims


def registry() -> Registry:
    """The registry of this process, made at the first call."""
    with _MAKING:
        return _made()


def limited_to() -> list[str] | None:
    """The distributions that `ACTFRAME_PLUGINS` names, from which alone plugins load; None where it is not set."""
    limit = os.environ.get(LIMIT_VARIABLE)
    return None if limit is None else [name.strip() for name in limit.split(",") if name.strip()]


def describe_error(error: BaseException) -> str:
    """An error in one line, with its type unless the message was written for whoever reads it."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception as unreadable:
        text = f"its message cannot be read ({type(unreadable).__name__})"
    return text if isinstance(error, PluginError) else f"{kind}: {text}" if text else kind


_MAKING = threading.Lock()


@functools.cache
def _made() -> Registry:
    return Registry(find_entries(GROUP, limited_to()))


def _load_builtin() -> ModuleType:
    return importlib.import_module(BUILTIN)


def _usable(extension: object, plugin: Plugin, builtin: set[str]) -> type[Extension]:
    usable = check_extension(extension)
    mine = {claim for each in plugin.extensions for claim in claims_of(each)}
    for claim in claims_of(usable):
        if claim in builtin:
            raise PluginError(f"{claim} is built in and cannot be replaced")
        if claim in mine:
            raise PluginError(f"extensions() gave {claim} twice; give it once")
    return usable


def _is_kept(error: BaseException, hook: str) -> bool:
    """Whether an error is kept as a plugin's failure, and not passed on.

    While plugins are set up that is even an exit, which nobody asked for; once a model runs, a signal may have.
    """
    return isinstance(error, Exception) or (hook in AT_START and not isinstance(error, KeyboardInterrupt))


def _reason(plugin: Plugin) -> str:
    """What failed first; of an import that failed the message alone, which says what it is."""
    error = plugin.error
    text = "" if error is None else describe_error(error)
    return text.removeprefix(f"{type(error).__name__}: ") if isinstance(error, ImportError) else text
