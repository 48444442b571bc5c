"""One tensor, one column of the table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import pyarrow
import torch

from actframe import FormatError, StorageError, narrowed, widened
from actframe_parquet.rows import Ints, TableRows

__all__ = ["Column", "Stored"]

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


@dataclass(frozen=True)
class Stored:
    """How a tensor is stored, as the file says it.

    Attributes:
        dtype, shape: of the tensor.
        kind: `"rows"`: a value or a list of one size in each row that it has; `"lists"`: its elements in the first row
            of each record, or all in the first row; `"lines"`: bytes that are lines of text, one in the first row of
            each record.
        starts: for `"rows"`, which of its rows is the first of each row group, and behind the last how many there are.
    """

    dtype: str
    shape: list[int]
    kind: Literal["rows", "lists", "lines"]
    starts: list[int] | None = None

    @classmethod
    def of(cls, said: Any) -> Stored:
        """The same from the JSON of a file.

        Raises:
            FormatError: it makes no sense.
        """
        found = cls(**said) if isinstance(said, dict) and said.keys() == {"dtype", "shape", "kind", "starts"} else None
        if found is None or found.dtype not in _DTYPES or found.kind not in ("rows", "lists", "lines"):
            raise FormatError(f"a tensor is said to be stored as {said!r:.80}")
        if not isinstance(found.shape, list) or any(type(length) is not int or length < 0 for length in found.shape):
            raise FormatError(f"a tensor is said to have the shape {found.shape!r:.80}")
        starts = [] if found.starts is None else found.starts
        if not isinstance(starts, list) or any(type(start) is not int for start in starts) or sorted(starts) != starts:
            raise FormatError(f"the rows of a tensor are said to begin at {starts!r:.80}")
        return found

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the tensor."""
        return _DTYPES[self.dtype]

    def tensor(self, array: Any, rows: int) -> torch.Tensor:
        """What so many rows of the tensor are, of those values of its column that are not null.

        Raises:
            FormatError: there are more or fewer than the shape says, or they are of another type.
        """
        shape = [rows, *self.shape[1:]] if self.shape else []
        if self.kind == "lines":
            text = "".join(f"{line}\n" for line in array.drop_null().to_pylist())
            values = numpy.frombuffer(text.encode(), numpy.uint8)
        else:
            flat = array.drop_null()
            while pyarrow.types.is_nested(flat.type):
                flat = flat.flatten()
            values = flat.to_numpy(zero_copy_only=False)
        if self.torch_dtype.is_complex and values.dtype.kind == "f" and len(values) % 2 == 0:
            values = values.view(f"c{2 * values.itemsize}")
        if len(values) != math.prod(shape):
            raise FormatError(f"a tensor of shape {shape} has {len(values)} elements in the file")
        return narrowed(values.reshape(shape), self.torch_dtype)


class Column:
    """A tensor that is written, some rows of the table at a time.

    Args:
        tensor: as it is.
        rows: of the table.
        places: which of them are the tensor's; None where its rows are not rows of the table.
        sizes: else how many of its elements each record has.

    Raises:
        StorageError: neither NumPy nor Arrow has its dtype.
    """

    def __init__(self, tensor: torch.Tensor, rows: TableRows, places: Ints | None, sizes: Ints | None) -> None:
        self._tensor, self._rows, self._places = tensor, rows, places
        probe = _numbers(tensor[:0] if tensor.shape else tensor)
        try:
            self.values: pyarrow.DataType = pyarrow.from_numpy_dtype(probe.dtype)
        except pyarrow.ArrowNotImplementedError as error:
            raise StorageError(f"Arrow has no {probe.dtype}: {error}") from error
        parts = 2 if tensor.is_complex() else 1
        self._width = math.prod(tensor.shape[1:]) * parts
        each = [tensor.numel()] if sizes is None else sizes.tolist()
        self._offsets = numpy.concatenate(([0], numpy.cumsum(each))) * parts
        self._firsts = rows.firsts[: len(each)]

    @property
    def type(self) -> pyarrow.DataType:
        """Of the column."""
        if self._places is None:
            return pyarrow.large_list(self.values)
        is_list = self._tensor.dim() > 1 or self._tensor.is_complex()
        return pyarrow.list_(self.values, self._width) if is_list else self.values

    def stored(self, begins: list[int]) -> Stored:
        """How it is stored in row groups that begin so."""
        dtype, shape = str(self._tensor.dtype).removeprefix("torch."), list(self._tensor.shape)
        if self._places is None:
            return Stored(dtype, shape, "lists")
        starts = numpy.searchsorted(self._places, [*begins, len(self._rows)]).tolist()
        return Stored(dtype, shape, "rows", starts)

    def part(self, start: int, stop: int) -> Any:
        """The column from one row of the table to another."""
        if self._places is None:
            return self._lists(start, stop)
        first, last = numpy.searchsorted(self._places, [start, stop]).tolist()
        flat = pyarrow.array(_numbers(self._tensor[first:last]).reshape(-1))
        nested = pyarrow.types.is_fixed_size_list(self.type)
        values = pyarrow.FixedSizeListArray.from_arrays(flat, self._width) if nested else flat
        if last - first == stop - start:
            return values
        indices = numpy.full(stop - start, -1)
        indices[self._places[first:last] - start] = numpy.arange(last - first)
        return values.take(pyarrow.array(indices, mask=indices < 0))

    def _lists(self, start: int, stop: int) -> Any:
        first, last = numpy.searchsorted(self._firsts, [start, stop]).tolist()
        begin, end = self._offsets[[first, last]].tolist()
        flat = pyarrow.array(_numbers(self._tensor).reshape(-1)[begin:end])
        lengths = numpy.zeros(stop - start, numpy.int64)
        lengths[self._firsts[first:last] - start] = numpy.diff(self._offsets[first : last + 1])
        # A record without the tensor has no list, not an empty one.
        offsets = pyarrow.array(numpy.concatenate(([0], numpy.cumsum(lengths))), mask=numpy.append(lengths == 0, False))
        return pyarrow.LargeListArray.from_arrays(offsets, flat)


def _numbers(tensor: torch.Tensor) -> Any:
    """The tensor as numbers that Arrow has: complex ones as two each."""
    values = widened(tensor)
    if not tensor.is_complex():
        return values
    return numpy.ascontiguousarray(values).reshape(-1).view(f"f{values.itemsize // 2}")
