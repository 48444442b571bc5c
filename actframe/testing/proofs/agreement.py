"""How far two computations of the same residual stream may be apart, when their kernels sum in another order.

They agree bit for bit only where the shapes are the same: a row of a padded batch, a cache that grows token by token
and one pass over the whole sequence multiply matrices of other shapes. Each block then adds twice to the stream what
was rounded otherwise, by about an epsilon of the dtype, so that after L blocks two computations are sqrt(2 L) epsilon
apart: measured as the length of the difference of two vectors, as a share of their length. That is so for dtypes of 16
bits, whose products are summed in float32 and rounded once. In float32 the sums over d numbers round as well, which
makes it sqrt(2 L d) epsilon. `SLACK` is for what norms and attention amplify: a model of 30 blocks that was trained
(SmolLM2) comes to 0.4 of sqrt(2 L d) epsilon in float32 and of sqrt(2 L) in 16 bits, tiny ones to less. Vectors of two
tokens, or of one token in two places, are apart by a good part of their length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SLACK", "apart", "tolerance"]

SLACK = 2.0


def tolerance(dtype: str, blocks: int, width: int) -> float:
    """How far apart two vectors of a stream may be, as a share of their length.

    Args:
        dtype: what the model computes in.
        blocks: how many it has.
        width: the length of the vectors.
    """
    kind = getattr(torch, dtype, torch.float32)
    kind = kind if kind.is_floating_point else torch.float32
    sums = width if kind.itemsize >= 4 else 1
    return SLACK * math.sqrt(2 * max(blocks, 1) * sums) * torch.finfo(kind).eps


def apart(one: Tensor, other: Tensor) -> Tensor:
    """For each position, the length of the difference of two vectors, as a share of the length of the second."""
    one, other = one.double().flatten(1), other.double().flatten(1)
    lengths = torch.linalg.vector_norm(other, dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    shares: Tensor = torch.linalg.vector_norm(one - other, dim=1) / lengths
    return shares
