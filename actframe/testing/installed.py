"""An extension under test, as if a plugin provided it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from actframe.contracts import check_extension
from actframe.errors import PluginError
from actframe.extension import Extension
from actframe.registry import registry

__all__ = ["assert_usable", "installed"]


def assert_usable(extension: type[Extension]) -> None:
    """A plugin may provide this class: it has what its contract asks for."""
    try:
        check_extension(extension)
    except PluginError as error:
        raise AssertionError(f"no plugin can provide it: {error}") from error


@contextlib.contextmanager
def installed(extension: type[Extension]) -> Iterator[None]:
    """Inside the block the extension is found by its name, whether or not a plugin that provides it is installed."""
    plugins = registry().plugins()
    if any(extension in plugin.extensions for plugin in plugins):
        yield
        return
    builtin = plugins[0].extensions
    builtin.append(extension)
    try:
        yield
    finally:
        builtin.remove(extension)
