"""HookTable: which module implements which hook, kept by pluggy, and one call of one of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pluggy

from actframe import hookspecs
from actframe.errors import PluginError, nearest

__all__ = ["AT_START", "HookTable", "call_hook", "prints_aside"]

AT_START = frozenset({"import", "extensions", "register_commands"})
"""What happens once, while plugins are set up; every other hook is called while a model runs."""


class HookTable:
    """The hooks of `hookspecs`, and the modules that implement them, by the name of their plugin."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("actframe")
        self._manager.add_hookspecs(hookspecs)

    def add(self, name: str, module: object) -> None:
        """Register what a plugin's entry point names.

        Raises:
            PluginError: it implements no hook, one with arguments that the hook does not have, or is there already.
        """
        if (other := self._manager.get_name(module)) is not None:
            raise PluginError(f"its entry point names the same as that of plugin {other!r}; remove one of them")
        before = self._count()
        try:
            self._manager.register(module, name=name)
        except pluggy.PluginValidationError as error:
            self.remove(name)
            _, *said = str(error).splitlines()
            raise PluginError("; ".join(said)) from error
        if self._count() == before:
            raise PluginError(
                "what its entry point names implements no hook; mark the module's functions with @actframe.hookimpl"
            )

    def remove(self, name: str) -> None:
        """Forget a plugin, of which only a part may be registered."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def remove_unknown(self) -> Iterator[tuple[str, PluginError]]:
        """Forget the plugins that implement hooks which do not exist, and say so of each.

        For all at once: pluggy's own check goes through every plugin again, for each one that is added.
        """
        hooks = vars(self._manager.hook)
        known = [name for name, hook in hooks.items() if hook.has_spec()]
        for hook in hooks.keys() - set(known):
            for implementation in hooks[hook].get_hookimpls():
                if not implementation.optionalhook:
                    self.remove(implementation.plugin_name)
                    text = f"unknown hook {hook!r}{nearest(hook, known)}; the hooks are {', '.join(known)}"
                    yield implementation.plugin_name, PluginError(text)

    def implementations(self, hook: str) -> list[Any]:
        """The objects that pluggy keeps, the last registered first, where no plugin asks for another order."""
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def of(self, name: str) -> list[str]:
        """The hooks that a plugin implements, sorted."""
        hooks = vars(self._manager.hook).items()
        return sorted(hook for hook, each in hooks if any(one.plugin_name == name for one in each.get_hookimpls()))

    def _count(self) -> int:
        return sum(len(hook.get_hookimpls()) for hook in vars(self._manager.hook).values())


def call_hook(implementation: Any, hook: str, arguments: Mapping[str, Any]) -> Any:
    """Call a plugin's implementation with the arguments that it takes."""
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError(f"{hook} is marked as a wrapper, and hooks are not wrapped: leave out wrapper=True")
    given = [arguments[name] for name in implementation.argnames]
    if hook not in AT_START:
        return implementation.function(*given)
    with prints_aside():
        return implementation.function(*given)


@contextlib.contextmanager
def prints_aside() -> Iterator[None]:
    """What a plugin prints while it is set up goes to stderr: stdout is for results, which may be JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
