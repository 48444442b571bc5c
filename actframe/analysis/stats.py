"""What the activations of a record look like, site by site.

Numbers are computed in float64 from blocks of rows: nothing overflows in half precision, and memory stays flat however
large a site is. Values that are not finite are counted and left out of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actframe.analysis.rows import Record, as_rows, read_rows, sites_of

__all__ = ["SiteStats", "record_stats", "row_norms", "site_stats"]

_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class SiteStats:
    """Statistics of one site of one record. What cannot be computed (of no finite value, say) is nan.

    Attributes:
        site: the site's name.
        shape: of the tensor, `(pos, d_model)` for most sites.
        dtype: as stored, `"bfloat16"`.
        mean: over all values.
        std: population standard deviation over all values.
        kurtosis: fourth standardised moment over all values. A Gaussian has 3; thousands mean that few dimensions
            carry nearly everything, which is what quantisation and dictionary learning trip over.
        norm_mean: L2 norm along the last axis, mean over rows.
        norm_median: the same, median over rows, which one massive position does not move.
        norm_max: the largest of those norms.
        norm_max_position: the position of that row, absolute where the record knows it.
        max_abs: the largest magnitude.
        max_abs_at: its index, with the position absolute where the record knows it: `(pos, dimension)`.
        zero_fraction: share of values that are exactly zero, of all values.
        nonfinite: how many values are nan or infinite.
    """

    site: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    kurtosis: float
    norm_mean: float
    norm_median: float
    norm_max: float
    norm_max_position: int | None
    max_abs: float
    max_abs_at: tuple[int, ...] | None
    zero_fraction: float
    nonfinite: int


def record_stats(record: Record, sites: Iterable[str] | None = None) -> list[SiteStats]:
    """The statistics of each site of a record (or of those that `sites` names, patterns allowed), in its order.

    Sites are read one at a time, so a lazily loaded record is never in memory as a whole.
    """
    read = (read_rows(record, site) for site in sites_of(record, sites))
    return [site_stats(rows.site, rows.tensor, rows.positions) for rows in read]


def site_stats(site: str, tensor: Tensor, positions: Sequence[int] | None = None) -> SiteStats:
    """The statistics of one tensor whose last axis is the vector and whose second last axis is the position.

    Args:
        site: its name.
        tensor: real or integer values, of any dtype and on CPU.
        positions: the absolute position of each row; None counts rows from 0.
    """
    rows = as_rows(tensor)
    norms = row_norms(tensor).reshape(-1)
    finite_norms = norms[norms.isfinite()]
    moments = _Moments.of(rows)
    return SiteStats(
        site=site,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        mean=moments.mean,
        std=math.sqrt(moments.second) if moments.second >= 0 else math.nan,
        kurtosis=moments.fourth / moments.second**2 if moments.second > 0 else math.nan,
        norm_mean=finite_norms.mean().item(),
        norm_median=finite_norms.quantile(0.5).item() if len(finite_norms) else math.nan,
        norm_max=finite_norms.max().item() if len(finite_norms) else math.nan,
        norm_max_position=_row_of_largest(norms, tensor, positions),
        max_abs=moments.max_abs,
        max_abs_at=_place(moments.max_abs_index, tensor, positions),
        zero_fraction=moments.zeros / tensor.numel() if tensor.numel() else math.nan,
        nonfinite=tensor.numel() - moments.count,
    )


def row_norms(tensor: Tensor) -> Tensor:
    """The L2 norm along the last axis, in float64: `(pos,)` of a `(pos, d_model)` tensor."""
    norms = [torch.linalg.vector_norm(block, dim=-1) for block in _blocks(as_rows(tensor))]
    flat = torch.cat(norms) if norms else torch.empty(0, dtype=torch.float64)
    return flat.reshape(tensor.shape[:-1])


@dataclass
class _Moments:
    """Sums over the finite values of a tensor; central moments, so that a large mean costs no precision."""

    count: int = 0
    zeros: int = 0
    mean: float = math.nan
    second: float = math.nan
    fourth: float = math.nan
    max_abs: float = math.nan
    max_abs_index: int | None = None

    @classmethod
    def of(cls, rows: Tensor) -> _Moments:
        moments, total, offset = cls(), 0.0, 0
        for block in _blocks(rows):
            finite = block.isfinite()
            moments.count += int(finite.sum())
            moments.zeros += int((block == 0).sum())
            total += float(block.where(finite, 0).sum())
            moments._note_largest(block.abs().where(finite, -1), offset)
            offset += block.numel()
        if moments.count:
            moments.mean = total / moments.count
            moments._add_central_moments(rows)
        return moments

    def _note_largest(self, magnitudes: Tensor, offset: int) -> None:
        if magnitudes.numel():
            largest, index = magnitudes.flatten().max(dim=0)
            if largest >= 0 and (self.max_abs_index is None or largest > self.max_abs):
                self.max_abs, self.max_abs_index = float(largest), offset + int(index)

    def _add_central_moments(self, rows: Tensor) -> None:
        second = fourth = 0.0
        for block in _blocks(rows):
            squares = (block - self.mean).square().where(block.isfinite(), 0)
            second += float(squares.sum())
            fourth += float(squares.square().sum())
        self.second, self.fourth = second / self.count, fourth / self.count


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    """The rows in float64, a few megabytes at a time."""
    if len(rows):
        for block in torch.split(rows, max(1, _BLOCK_VALUES // max(1, rows.shape[-1]))):
            yield block.to(torch.float64)


def _row_of_largest(norms: Tensor, tensor: Tensor, positions: Sequence[int] | None) -> int | None:
    if not norms.isfinite().any():
        return None
    row = int(norms.where(norms.isfinite(), -1).argmax())
    place = _unravel(row, tensor.shape[:-1])
    return _absolute(place[-1], positions) if place else 0


def _place(index: int | None, tensor: Tensor, positions: Sequence[int] | None) -> tuple[int, ...] | None:
    if index is None:
        return None
    place = _unravel(index, tensor.shape)
    if len(place) >= 2:
        place[-2] = _absolute(place[-2], positions)
    return tuple(place)


def _unravel(index: int, shape: Sequence[int]) -> list[int]:
    place: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        place.insert(0, at)
    return place


def _absolute(row: int, positions: Sequence[int] | None) -> int:
    return row if positions is None else positions[row]
