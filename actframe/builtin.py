"""Our own strategies, storage backends and benchmarks: an ordinary plugin, and an example of one."""

from __future__ import annotations

from collections.abc import Iterable

from actframe.extension import Extension
from actframe.hookspecs import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Extension]]:
    """Everything that comes with actframe."""
    from actframe.benchmarks.arithmetic import Arithmetic
    from actframe.benchmarks.general import General
    from actframe.benchmarks.jsonl import OwnFile
    from actframe.capture.forward_hooks import ForwardHooks
    from actframe.capture.hidden_states import OutputHiddenStates
    from actframe.storage.pickle_ import PickleBackend
    from actframe.storage.safetensors_ import SafetensorsBackend
    from actframe.storage.zstd_ import ZstdBackend

    return [
        ForwardHooks,
        OutputHiddenStates,
        PickleBackend,
        SafetensorsBackend,
        ZstdBackend,
        Arithmetic,
        General,
        OwnFile,
    ]
