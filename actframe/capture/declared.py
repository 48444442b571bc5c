"""What a transformers model declares of its parts: which module gives its attention patterns and its router's logits.

The declaration (`_can_record_outputs`) is what transformers itself hooks when a caller asks for `output_attentions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["declared_outputs"]


def declared_outputs(model: nn.Module, path: str, key: str) -> dict[str, int] | None:
    """The modules within a block that give an output of this name: dotted path -> which item of their output it is.

    None where the model does not say, whatever the block.

    Args:
        model: that has the block.
        path: of the block.
        key: `"attentions"` or `"router_logits"`.
    """
    found: dict[str, int] = {}
    specs = list(_specs(model, path, key))
    if not specs:
        return None
    for spec in specs:
        for name, module in model.get_submodule(path).named_modules():
            full = f"{path}.{name}" if name else path
            if full not in found and _matches(spec, full, module):
                found[full] = spec["index"]
    return found


def _specs(model: nn.Module, path: str, key: str) -> Iterator[dict[str, Any]]:
    """What the innermost model around a block declares: a class or a recorder, or several of them."""
    while path:
        path = path.rpartition(".")[0]
        declared = getattr(model.get_submodule(path), "_can_record_outputs", None)
        if isinstance(declared, Mapping) and declared:
            given = declared.get(key, [])
            for each in given if isinstance(given, list | tuple) else [given]:
                names = ("target_class", "class_name", "layer_name", "index")
                spec = {name: getattr(each, name, None) for name in names}
                if isinstance(each, type):
                    spec = {**dict.fromkeys(names), "target_class": each}
                elif isinstance(each, str):
                    spec = {**dict.fromkeys(names), "class_name": each}
                # Of a class that is named alone, transformers takes the second item.
                yield {**spec, "index": 1 if spec["index"] is None else spec["index"]}
            return


def _matches(spec: dict[str, Any], path: str, module: nn.Module) -> bool:
    target, suffix, layer = spec["target_class"], spec["class_name"], spec["layer_name"]
    is_kind = isinstance(target, type) and isinstance(module, target)
    if not is_kind and not (suffix and f".{path}".endswith(suffix)):
        return False
    return layer is None or f".{layer.strip('.')}." in f".{path}."
