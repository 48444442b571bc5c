"""Bundle: named tensors plus JSON metadata, which is what a storage backend writes and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bundle", "LazyTensors"]


@dataclass(frozen=True)
class Bundle:
    """Named tensors and what is said about them.

    Attributes:
        tensors: CPU tensors by name. A backend that can read one tensor at a time gives a `LazyTensors`.
        metadata: a dictionary that `json.dumps` takes: string keys, no tensors.
    """

    tensors: Mapping[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


class LazyTensors(Mapping[str, "Tensor"]):
    """Tensors that are read when they are asked for, each time anew.

    Args:
        names: what there is, in the file's order.
        load: reads one tensor by its name; called once for each look-up.
    """

    def __init__(self, names: Iterable[str], load: Callable[[str], Tensor]) -> None:
        self._names = dict.fromkeys(names)
        self._load = load

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"LazyTensors({list(self._names)})"
