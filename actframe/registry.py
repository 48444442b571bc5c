"""Loads plugins, finds extensions by name, and keeps the failures.

Plugins are the modules named by entry points of the group `actframe`; our own extensions come from
`actframe.builtin`, which is registered in the same way. Nothing loads before the first look-up. A plugin that fails
is kept as a failure with its error, warned about once, and never stops the others.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from actframe import hookspecs
from actframe.errors import PluginError, UnknownNameError, nearest
from actframe.extension import Extension

__all__ = ["Plugin", "Registry", "registry"]

GROUP = "actframe"
BUILTIN = "actframe.builtin"
LIMIT_VARIABLE = "ACTFRAME_PLUGINS"

E = TypeVar("E", bound=Extension)


@dataclass
class Plugin:
    """One installed plugin: where it comes from, what it provides, and what went wrong."""

    name: str
    distribution: str
    version: str
    extensions: list[type[Extension]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def is_builtin(self) -> bool:
        return self.name == BUILTIN

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution} {self.version})"


class Registry:
    """The plugins of this environment. Use `registry()` for the one that the process shares."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, Plugin] = {}
        self._collected = False
        self._register(Plugin(BUILTIN, "actframe", metadata.version("actframe")), _load_builtin)
        for entry_point in entry_points:
            self._register(_describe(entry_point), entry_point.load)

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
        failed = [f" Plugin {plugin.name!r} failed to load: {plugin.error}." for plugin in self.failures()]
        raise UnknownNameError(
            f"no {contract.kind} named {name!r}{nearest(name, claims)}; "
            f"installed: {', '.join(sorted(claims)) or 'none'}.{''.join(failed)}"
        )

    def failures(self) -> list[Plugin]:
        """The plugins that could not be loaded, or of which something was refused."""
        self._collect()
        return [plugin for plugin in self._plugins.values() if plugin.error is not None]

    def call_each(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call one hook of each plugin in turn, the last registered first, and give what each returned.

        Unlike a plain hook call, a plugin that raises is known by name, kept as a failure, and stops no other.
        """
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            plugin = self._plugins[implementation.plugin_name]
            try:
                result = implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as error:
                if plugin.is_builtin:
                    raise
                self.fail(plugin, error)
            else:
                yield plugin, result

    def fail(self, plugin: Plugin, error: BaseException) -> None:
        """Keep a plugin's error and warn about it, once for each plugin."""
        if plugin.error is None:
            plugin.error = error
            warnings.warn(
                f"actframe plugin {plugin} failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2
            )

    def _register(self, plugin: Plugin, load: Callable[[], ModuleType]) -> None:
        key = plugin.name if plugin.name not in self._plugins else f"{plugin.name} of {plugin.distribution}"
        plugin.name = key
        self._plugins[key] = plugin
        try:
            module = load()
            self._manager.register(module, name=key)
            self._manager.check_pending()
        except Exception as error:
            if plugin.is_builtin:
                raise
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            self.fail(plugin, error)

    def _collect(self) -> None:
        """Ask every plugin for its extensions, once."""
        if self._collected:
            return
        self._collected = True
        builtin: set[tuple[str, str]] = set()
        for plugin, provided in reversed(list(self.call_each("extensions"))):
            try:
                for extension in provided:
                    _check(extension)
                    key = (extension.kind, extension.name)
                    if plugin.is_builtin:
                        builtin.add(key)
                    elif key in builtin:
                        raise PluginError(f"{extension.kind} {extension.name!r} is built in and cannot be replaced")
                    plugin.extensions.append(extension)
            except Exception as error:
                if plugin.is_builtin:
                    raise
                self.fail(plugin, error)

    def _claims(self, contract: type[E]) -> dict[str, list[tuple[Plugin, type[E]]]]:
        self._collect()
        claims: dict[str, list[tuple[Plugin, type[E]]]] = {}
        for plugin in self._plugins.values():
            for extension in plugin.extensions:
                if issubclass(extension, contract):
                    claims.setdefault(extension.name, []).append((plugin, extension))
        return claims


@functools.cache
def registry() -> Registry:
    """The registry of this process, made at the first call."""
    return Registry(_entry_points())


def _entry_points() -> list[metadata.EntryPoint]:
    """The entry points of the group, limited to the distributions that `ACTFRAME_PLUGINS` names where it is set."""
    found = sorted(metadata.entry_points(group=GROUP), key=lambda entry_point: entry_point.name)
    limit = os.environ.get(LIMIT_VARIABLE)
    if limit is None:
        return found
    wanted = {_normal(name) for name in limit.split(",") if name.strip()}
    return [entry_point for entry_point in found if _normal(_describe(entry_point).distribution) in wanted]


def _describe(entry_point: metadata.EntryPoint) -> Plugin:
    distribution = entry_point.dist
    if distribution is None:
        return Plugin(entry_point.name, "unknown distribution", "?")
    return Plugin(entry_point.name, distribution.name, distribution.version)


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _load_builtin() -> ModuleType:
    return importlib.import_module(BUILTIN)


def _check(extension: object) -> None:
    if not (isinstance(extension, type) and issubclass(extension, Extension)):
        raise PluginError(f"extensions() gave {extension!r}, which is not a subclass of actframe's contracts")
    for attribute in ("kind", "name"):
        if not isinstance(getattr(extension, attribute, None), str):
            raise PluginError(f"{extension.__qualname__} has no {attribute!r}")
    missing = sorted(getattr(extension, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{extension.__qualname__} does not implement {', '.join(missing)}")
