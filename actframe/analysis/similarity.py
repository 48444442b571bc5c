"""How alike two records are, site by site: cosine similarity at one position, linear CKA over the shared positions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from actframe.analysis.rows import ATTENTION_SINK, Record, SiteRows, describe, read_rows, sites_of
from actframe.errors import SelectionError, SiteError

__all__ = ["SiteSimilarity", "compare_records", "cosine_similarity", "linear_cka"]

_FEWEST_ROWS = 4
"""The debiased estimator divides by n - 3."""


@dataclass(frozen=True)
class SiteSimilarity:
    """How alike one site is in two records.

    Attributes:
        site: the site's name.
        cosine: of the two vectors at the chosen position; nan where one of them is zero or not finite.
        norm_first: L2 norm of the first record's vector.
        norm_second: L2 norm of the second record's vector.
        cka: linear CKA, debiased, over the positions that both records hold, without position 0; None where fewer
            than four are left.
        cka_positions: how many positions those are.
    """

    site: str
    cosine: float
    norm_first: float
    norm_second: float
    cka: float | None
    cka_positions: int


def compare_records(
    first: Record, second: Record, position: str | int = "last_prompt", sites: Iterable[str] | None = None
) -> list[SiteSimilarity]:
    """Compare two records at the sites that both have, in the first one's order.

    Cosines in a residual stream are high from the start, because a few dimensions dominate every vector: compare
    them between pairs and between layers, not with zero. Only sites of `(pos, d_model)` are compared; attention
    patterns have no vectors that two prompts share.

    Args:
        first: a record, or what `load_activations` gave.
        second: the same.
        position: `"last_prompt"`, `"last"`, `"mean"` or an absolute position, in both records.
        sites: names and patterns; None: all that both have.

    Raises:
        SiteError: the records share no site.
        SelectionError: a record does not hold the position, or their vectors differ in length.
    """
    shared = [site for site in sites_of(first, sites) if site in second["activations"]]
    pairs = ((read_rows(first, site), read_rows(second, site)) for site in shared)
    compared = [_compare_rows(*pair, position) for pair in pairs if pair[0].tensor.dim() == pair[1].tensor.dim() == 2]
    if not compared:
        raise SiteError(
            f"nothing to compare: {describe(first)} has {_listed(sites_of(first, sites))}, "
            f"{describe(second)} has {_listed(sites_of(second))}; they share no site of (pos, d_model)"
        )
    return compared


def cosine_similarity(first: Tensor, second: Tensor) -> float:
    """The cosine of the angle between two vectors, in float64; nan where one is zero or not finite.

    >>> cosine_similarity(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    0.7071067811865475
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    length = float(first.norm() * second.norm())
    return float(first @ second) / length if length > 0 else math.nan


def linear_cka(first: Tensor, second: Tensor, *, debiased: bool = True) -> float:
    """Linear centered kernel alignment of two representations of the same n examples.

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X Xᵀ, L = Y Yᵀ: Kornblith et al. 2019, "Similarity of
    Neural Network Representations Revisited". It is 1 for representations that differ by a rotation and a scale.

    Their estimator, HSIC(K, L) = tr(K H L H) / (n - 1)², is biased upwards where there are fewer examples than
    dimensions, which is every single prompt: it gives 0.9 for 60 rows of noise of width 576. So the unbiased
    estimator of Song et al. 2012 ("Feature Selection via Dependence Maximization") is the default, as in Nguyen et
    al. 2021 ("Do Wide and Deep Networks Learn the Same Things?"); it can be slightly negative.

    Args:
        first: `(n, d)`.
        second: `(n, e)`; row i describes the same example as row i of `first`.
        debiased: False gives the estimator of the 2019 paper.

    Returns:
        The similarity; nan where a representation does not vary.

    Raises:
        SelectionError: the rows do not pair up, or are fewer than four (two without `debiased`).
    """
    fewest = _FEWEST_ROWS if debiased else 2
    if len(first) != len(second) or len(first) < fewest:
        raise SelectionError(
            f"linear CKA needs the same {fewest} or more examples twice; got {len(first)} rows and {len(second)} rows"
        )
    hsic = _hsic_unbiased if debiased else _hsic_biased
    grams = [rows @ rows.T for rows in (first.to(torch.float64), second.to(torch.float64))]
    scale = hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])
    return hsic(grams[0], grams[1]) / math.sqrt(scale) if scale > 0 else math.nan


def _compare_rows(first: SiteRows, second: SiteRows, position: str | int) -> SiteSimilarity:
    here, there = first.vector_at(position), second.vector_at(position)
    if here.shape != there.shape:
        raise SelectionError(
            f"{first.site} has width {len(here)} in {describe(first.record)} and {len(there)} in "
            f"{describe(second.record)}: they come from different models"
        )
    rows, others = _aligned_rows(first, second)
    return SiteSimilarity(
        site=first.site,
        cosine=cosine_similarity(here, there),
        norm_first=float(here.norm()),
        norm_second=float(there.norm()),
        cka=linear_cka(first.tensor[rows], second.tensor[others]) if len(rows) >= _FEWEST_ROWS else None,
        cka_positions=len(rows),
    )


def _aligned_rows(first: SiteRows, second: SiteRows) -> tuple[list[int], list[int]]:
    """The rows of the same positions in both, but for the attention sink: it would set the result alone."""
    there = {position: row for row, position in enumerate(second.positions or [])}
    positions = [at for at in first.positions or [] if at in there and at != ATTENTION_SINK]
    here = {position: row for row, position in enumerate(first.positions or [])}
    return [here[at] for at in positions], [there[at] for at in positions]


def _hsic_biased(first: Tensor, second: Tensor) -> float:
    n = len(first)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    return float((first * (centring @ second @ centring)).sum()) / (n - 1) ** 2


def _hsic_unbiased(first: Tensor, second: Tensor) -> float:
    n = len(first)
    off_diagonal = 1 - torch.eye(n, dtype=torch.float64)
    first, second = first * off_diagonal, second * off_diagonal
    aligned = float((first * second.T).sum())
    sums = float(first.sum() * second.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(first.sum(dim=0) @ second.sum(dim=0)) / (n - 2)
    return (aligned + sums - cross) / (n * (n - 3))


def _listed(sites: list[str]) -> str:
    return ", ".join(sites) or "no sites"
