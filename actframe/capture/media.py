"""Which positions of a sequence stand for images, videos and sound, and not for text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

__all__ = ["media_positions", "placeholders"]

_KINDS = ("image", "video", "audio")
_ENDINGS = ("token_id", "token_index")


def media_positions(kinds: Mapping[int, str], ids: Sequence[int]) -> dict[str, list[list[int]]]:
    """Where a sequence has the placeholders that a model fills with the features of images, videos and sound.

    Args:
        kinds: which tokens these are: see `placeholders`.
        ids: of one sequence, unpadded.

    Returns:
        For each kind that the sequence has, the runs of positions `[first, stop]`, `stop` not among them.

    >>> from types import SimpleNamespace
    >>> media_positions(placeholders(SimpleNamespace(image_token_id=9)), [1, 9, 9, 2, 9])
    {'image': [[1, 3], [4, 5]]}
    """
    found: dict[str, list[list[int]]] = {}
    if not kinds:
        return found
    position = 0
    for kind, run in groupby(ids, key=kinds.get):
        length = sum(1 for _ in run)
        if kind is not None:
            found.setdefault(kind, []).append([position, position + length])
        position += length
    return {kind: found[kind] for kind in _KINDS if kind in found}


def placeholders(config: Any) -> dict[int, str]:
    """Each token that stands for something else than text, and for what.

    Tokens that mark where an image begins or ends are text.

    Args:
        config: of the model (`image_token_id`, `video_token_index`, ...); None or one without such tokens has none.
    """
    found = {}
    for kind in reversed(_KINDS):  # Where one token stands for two kinds, it counts as the first.
        for ending in _ENDINGS:
            token = getattr(config, f"{kind}_{ending}", None)
            if isinstance(token, int) and not isinstance(token, bool):
                found[token] = kind
    return found
