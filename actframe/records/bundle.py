"""Bundle: named tensors plus JSON metadata, which is what a storage backend writes and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Bundle", "LazyTensors", "facts_of"]


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
        facts: gives dtype and shape by name; without it, the tensor is read for them.
        rows: reads the rows from `start` to `stop` of one tensor; without it, all are read and these kept.
        view: gives a tensor whose memory is the file's, mapped, which nobody may write to; without it there are none.
    """

    def __init__(
        self,
        names: Iterable[str],
        load: Callable[[str], Tensor],
        *,
        facts: Callable[[str], tuple[torch.dtype, tuple[int, ...]]] | None = None,
        rows: Callable[[str, int, int], Tensor] | None = None,
        view: Callable[[str], Tensor] | None = None,
    ) -> None:
        self._names = dict.fromkeys(names)
        self._load = load
        self._facts = facts
        self._rows = rows
        self._view = view

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

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> LazyTensors:
        """The same tensors, as something that can be asked for parts of them."""
        return tensors if isinstance(tensors, cls) else cls(tensors, tensors.__getitem__)

    @property
    def has_views(self) -> bool:
        """Whether `view` can be asked."""
        return self._view is not None

    def facts(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a tensor, which is not read where the format can say them."""
        if self._facts is not None:
            return self._facts(name)
        tensor = self[name]
        return tensor.dtype, tuple(tensor.shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """The rows from `start` to `stop` of a tensor, as far as there are any, in memory of their own."""
        return self._rows(name, start, stop) if self._rows is not None else self[name][start:stop].clone()

    def view(self, name: str) -> Tensor:
        """A tensor as it lies in the file: mapped memory, to be read and let go of."""
        if self._view is None:
            raise TypeError("this format has no views")
        return self._view(name)


def facts_of(tensors: Mapping[str, Tensor], name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """Dtype and shape of one of a bundle's tensors, without reading it where that can be avoided."""
    return LazyTensors.of(tensors).facts(name)
