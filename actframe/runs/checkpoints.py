"""Where a model's name leads: a folder, a GGUF file, the embedded model, or the hub."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from actframe.errors import ModelError
from actframe.runs.smollm2 import HUB_ID, INSTALL, smollm2_folder

__all__ = ["Checkpoint", "explain_missing", "find_checkpoint", "identity", "revision_of"]

EMBEDDED = "smollm2"
HUB_TIMEOUT_SECONDS = 5.0

_SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})(?=[/\\]|$)")


@dataclass(frozen=True)
class Checkpoint:
    """What `from_pretrained` needs to read a model.

    Attributes:
        name: what the user asked for, and what records and results call the model.
        source: a folder, or a hub id.
        gguf_file: the name of the GGUF file in `source`, if it is one.
        offline: nothing must be asked of the network.
        unreachable: why the hub gave no answer, where the model has to come from the local cache for that reason.
    """

    name: str
    source: str
    gguf_file: str | None = None
    offline: bool = True
    unreachable: str | None = None


def find_checkpoint(name: str | os.PathLike[str]) -> Checkpoint:
    """Find what a name leads to, without reading it.

    `smollm2` is the embedded model, wherever the current folder is; `./smollm2` is a folder.

    Raises:
        ModelError: nothing is there; the message says what was looked for and what can be done.
    """
    text = os.fspath(name)
    if not text.strip():
        raise ModelError(f"the model's name is empty; give a hub id, a local folder, a .gguf file, or {EMBEDDED!r}")
    if text == EMBEDDED:
        folder = smollm2_folder()
        return Checkpoint(EMBEDDED, str(folder)) if folder else _on_the_hub(EMBEDDED, HUB_ID)
    path = _path(text)
    if os.path.isdir(path):
        return _folder(text, path)
    if path.suffix == ".gguf" and os.path.isfile(path):
        return _gguf(text, path)
    if os.path.exists(path):
        raise ModelError(f"{text!r} is a file; a model is a folder with a config.json, a .gguf file, or a hub id")
    if isinstance(name, os.PathLike) or _looks_like_a_path(text):
        raise ModelError(f"no model folder or GGUF file {text!r}{_beside(path)}")
    return _on_the_hub(text, text)


def identity(name: str | os.PathLike[str]) -> str:
    """The same for all spellings of one checkpoint: a folder or file by its full path, anything else by its name."""
    text = os.fspath(name)
    path = _path(text)
    return str(path.resolve()) if text != EMBEDDED and os.path.exists(path) else text


def revision_of(checkpoint: Checkpoint) -> str | None:
    """The commit of the hub's repository that a model was read from; None where it did not come from the hub.

    The hub's own cache says it, in the name of the folder: newer versions of transformers tell nobody.
    """
    source: object = os.path.realpath(_path(checkpoint.source))
    if not os.path.exists(str(source)):
        try:
            source = try_to_load_from_cache(checkpoint.source, "config.json")
        except HFValidationError:
            return None
    found = _SNAPSHOT.search(source) if isinstance(source, str) else None
    return found[1] if found else None


def _path(text: str) -> Path:
    """Functions of os.path are used on it: unlike those of `Path`, they take any text, also far too long a one."""
    return Path(os.path.expanduser(text))


def _folder(name: str, path: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        gguf = sorted(file.name for file in path.glob("*.gguf"))
        advice = f"; name the file itself: {path / gguf[0]}" if gguf else "; is it the right folder?"
        raise ModelError(f"the folder {name!r} holds no model: it has no config.json{advice}")
    return Checkpoint(name, str(path))


def _gguf(name: str, path: Path) -> Checkpoint:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading {name!r} needs the package gguf: pip install 'actframe[gguf]'")
    return Checkpoint(name, str(path.parent), gguf_file=path.name)


def _looks_like_a_path(text: str) -> bool:
    """A hub id is `name` or `owner/name`; whatever cannot be one was meant as a path."""
    return text.startswith((".", "/", "~")) or text.endswith(".gguf") or text.count("/") > 1 or "\\" in text


def _beside(path: Path) -> str:
    """What the nearest folder holds, for a path that is not there."""
    if not os.path.isdir(path.parent):
        return f": there is no folder {str(path.parent)!r} either"
    models = [
        entry.name
        for entry in sorted(path.parent.iterdir())
        if entry.suffix == ".gguf" or (entry.is_dir() and (entry / "config.json").is_file())
    ]
    return f"; models in {str(path.parent)!r}: {', '.join(models[:8]) or 'none'}"


def _on_the_hub(name: str, hub_id: str) -> Checkpoint:
    """Ask the hub one quick question, so that a machine without a network hears so in seconds, not after retries."""
    if constants.is_offline_mode():
        return Checkpoint(name, hub_id, unreachable="offline mode is on (HF_HUB_OFFLINE)")
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise ModelError(f"{name!r} is neither a folder here nor a hub id: {error}") from error
    except GatedRepoError as error:
        raise ModelError(f"{name!r} is gated: ask for access on its hub page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model {name!r}: no such folder here, and the hub has none of that name (or it is private: "
            f"`hf auth login`). Give a hub id, a local folder, a .gguf file, or {EMBEDDED!r}"
        ) from error
    except Exception as error:
        # Which library's exceptions these are changes with huggingface_hub; all mean that there was no answer, and
        # the reason is told if the model is not in the local cache either.
        return Checkpoint(name, hub_id, unreachable=f"{type(error).__name__}: {error}")
    return Checkpoint(name, hub_id, offline=False)


def explain_missing(checkpoint: Checkpoint) -> str:
    """What to do about a model that is neither in the local cache nor reachable."""
    advice = f"Give a local folder or a .gguf file, use {EMBEDDED!r}, or download it where there is a network"
    if checkpoint.name == EMBEDDED:
        advice = f"Install the embedded copy: {INSTALL}"
    return (
        f"there is no folder of that name here, {checkpoint.source!r} is not in the local Hugging Face cache "
        f"({constants.HF_HUB_CACHE}), and the hub gives no answer: {checkpoint.unreachable}. {advice}"
    )
