"""Every error actframe raises on purpose.

    ActframeError
     +-- PluginError            an extension that breaks its contract, or two that claim one name
     +-- UnknownNameError       (LookupError)   no extension, model or benchmark of that name
     +-- SiteError              (ValueError)    a site that the model does not have or cannot give
     +-- SelectionError         (ValueError)    a selection that makes no sense
     +-- LayoutError            (ValueError)    a model whose parts cannot be told apart
     +-- CaptureError           (RuntimeError)  what was captured would not be what the model computed
     +-- ModelError             (ValueError)    a model that cannot be found, loaded or used this way
     +-- PromptError            (ValueError)    a prompt that the model cannot take
     +-- SettingsError          (ValueError)    settings that make no sense, or not together
     +-- BenchmarkError         (ValueError)    questions or data that are not as the adapter promised
     +-- EngineError            (RuntimeError)  workers that cannot be had, or that keep dying
     +-- StorageError           (OSError)       a path that cannot be read or written
          +-- FormatError       (ValueError)    a file that is not what its suffix says, or damaged
               +-- UnsafeFileError              a file that asks for code to be run

Each message says what was asked, what exists, and what to do.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

__all__ = [
    "ActframeError",
    "BenchmarkError",
    "CaptureError",
    "EngineError",
    "FormatError",
    "LayoutError",
    "ModelError",
    "PluginError",
    "PromptError",
    "SelectionError",
    "SettingsError",
    "SiteError",
    "StorageError",
    "UnknownNameError",
    "UnsafeFileError",
    "nearest",
    "needs_extra",
]


class ActframeError(Exception):
    """The root: catch this to catch everything actframe raises on purpose."""


class PluginError(ActframeError):
    """An extension breaks its contract, or two plugins claim one name."""


class UnknownNameError(ActframeError, LookupError):
    """Nothing of that name is installed."""


class SiteError(ActframeError, ValueError):
    """The model does not have this site, or cannot give it as it is loaded."""


class SelectionError(ActframeError, ValueError):
    """The selection makes no sense, whatever the model."""


class LayoutError(ActframeError, ValueError):
    """The parts of the model cannot be told apart by structure."""


class CaptureError(ActframeError, RuntimeError):
    """What was captured would not be what the model computed, so it is refused."""


class ModelError(ActframeError, ValueError):
    """The model cannot be found, loaded, or used in this way."""


class PromptError(ActframeError, ValueError):
    """The model cannot take this prompt."""


class SettingsError(ActframeError, ValueError):
    """A setting makes no sense, or not together with another."""


class BenchmarkError(ActframeError, ValueError):
    """Questions or data are not what the adapter promised."""


class EngineError(ActframeError, RuntimeError):
    """An engine has no workers, or they keep dying."""


class StorageError(ActframeError, OSError):
    """A path cannot be read or written; what was there before is untouched."""


class FormatError(StorageError, ValueError):
    """A file is not what its suffix says, is damaged, or was cut short."""


class UnsafeFileError(FormatError):
    """A file asks for code to be run, or lies about its sizes; nothing of it was loaded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'layer_3'?)`` where a known name is close, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


@contextlib.contextmanager
def needs_extra(what: str, package: str, extra: str) -> Iterator[None]:
    """Where a package is imported that only comes with an extra: without it the error says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ActframeError(
            f'{what} needs {package}, which is not installed: pip install "actframe[{extra}]"'
        ) from error
