"""Which classes the zoo keeps: every base, causal, sequence-to-sequence and image-text class of transformers."""

from __future__ import annotations

from collections.abc import Iterator

from transformers.models.auto import modeling_auto

MAPPINGS = (
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
)


def families() -> dict[str, list[str]]:
    """Class names by model type. A class that several types share stands with the one that it is named after."""
    kinds: dict[str, list[str]] = {}
    for kind, name in _entries():
        kinds.setdefault(name, []).append(kind)
    found: dict[str, list[str]] = {}
    for name, candidates in kinds.items():
        found.setdefault(max(candidates, key=lambda kind: _named_after(name, kind)), []).append(name)
    return dict(sorted(found.items()))


def _named_after(name: str, kind: str) -> int:
    """How many letters of a class's name its model type explains."""
    letters = "".join(each for each in kind if each.isalnum())
    return len(letters) if name.lower().startswith(letters) else 0


def _entries() -> Iterator[tuple[str, str]]:
    for mapping in MAPPINGS:
        for kind, names in getattr(modeling_auto, mapping).items():
            for name in names if isinstance(names, list | tuple) else [names]:
                yield kind, name
