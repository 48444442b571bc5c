"""The names of the files that hold one answer each."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

__all__ = ["activation_file_name"]

_LONGEST = 60


def activation_file_name(prompt: str, suffix: str, when: datetime | None = None) -> str:
    """`benchmark_activations_<date>_<time>_<microseconds>_<sanitised prompt><suffix>`, valid on every file system.

    Of the prompt there remain letters and digits of any script, joined by underscores, up to 60 bytes in UTF-8.

    Args:
        prompt: any text, also an empty one.
        suffix: a backend's suffix, with or without its dot.
        when: the moment in the name; by default now, local time.

    >>> activation_file_name("What is the capital of France?", ".pkl", datetime(2024, 9, 15, 14, 30, 22, 123456))
    'benchmark_activations_20240915_143022_123456_What_is_the_capital_of_France.pkl'
    """
    moment = (when or datetime.now()).strftime("%Y%m%d_%H%M%S_%f")
    return f"benchmark_activations_{moment}_{_sanitise(prompt)}.{suffix.lstrip('.')}"


def _sanitise(text: str) -> str:
    # Composed, so that a name that macOS decomposes and Linux does not is at least written in one form.
    composed = unicodedata.normalize("NFKC", text[: 8 * _LONGEST])
    words = re.findall(r"[^\W_]+", composed)
    joined = "_".join(words).encode("utf-8", "ignore")
    if len(joined) <= _LONGEST:
        return joined.decode() or "prompt"
    cut = joined[:_LONGEST].decode("utf-8", "ignore")
    whole_words = cut.rpartition("_")[0] if joined[_LONGEST : _LONGEST + 1] != b"_" else cut
    return whole_words if len(whole_words.encode()) > _LONGEST // 2 else cut
