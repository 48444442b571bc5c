"""Which storage backend a name or a path means."""

from __future__ import annotations

from pathlib import Path

from actframe.errors import PluginError, UnknownNameError, nearest
from actframe.registry import Plugin, registry
from actframe.storage.base import StorageBackend

__all__ = ["backend_for", "backend_named", "describe"]


def backend_named(name: str) -> StorageBackend:
    """The backend of that name.

    Raises:
        UnknownNameError: none is called so; the message lists those installed, and the plugins that failed.
    """
    return registry().find(StorageBackend, name)()  # type: ignore[type-abstract]


def backend_for(path: Path | str) -> StorageBackend:
    """The backend whose suffix the path ends with, in any case; the longest suffix wins.

    Raises:
        UnknownNameError: no backend has that suffix; the message lists those installed, and the plugins that failed.
        PluginError: the backends of two plugins have it.
    """
    name = Path(path).name
    owners = _owners()
    matching = [backend for backend in owners if name.lower().endswith(backend.suffix.lower())]
    if not matching:
        raise UnknownNameError(_unknown(name))
    longest = max(len(backend.suffix) for backend in matching)
    best = [backend for backend in matching if len(backend.suffix) == longest]
    # What is built in cannot be shadowed, by its suffix no more than by its name.
    best = [backend for backend in best if owners[backend].is_builtin] or best
    if len(best) > 1:
        claims = " and ".join(f"{backend.name!r} of plugin {owners[backend]}" for backend in best)
        raise PluginError(
            f"files ending in {best[0].suffix} are claimed by the storage backends {claims}; uninstall one"
        )
    return best[0]()


def describe(backend: StorageBackend) -> str:
    """The backend as errors call it, with its plugin unless it is built in."""
    owner = _owners().get(type(backend))
    plugin = f" of plugin {owner}" if owner is not None and not owner.is_builtin else ""
    return f"storage backend {backend.name!r}{plugin}"


def _owners() -> dict[type[StorageBackend], Plugin]:
    usable = registry().installed(StorageBackend).values()  # type: ignore[type-abstract]
    return {
        extension: plugin
        for plugin in registry().plugins()
        for extension in plugin.extensions
        if extension in usable and issubclass(extension, StorageBackend)
    }


def _unknown(name: str) -> str:
    suffixes = {backend.suffix: backend.name for backend in _owners()}
    listed = ", ".join(f"{suffix} ({backend})" for suffix, backend in sorted(suffixes.items()))
    ending = "".join(Path(name).suffixes[-1:])
    asked = f"files ending in {ending!r}{nearest(ending, suffixes)}" if ending else "files without a suffix"
    return f"no storage backend for {asked}, as in {name!r}; installed: {listed}.{registry().failed()}"
