"""What runs while no forward pass of the model does: parts called by hand, and blocks that a backward pass repeats."""

from __future__ import annotations

import torch

from actframe.errors import CaptureError

__all__ = ["check_outside", "is_backward"]


def check_outside(site: str) -> None:
    """A site fired outside a forward pass of the model."""
    # People apply the head or a norm by hand, as a logit lens does; a block that runs by itself is a mistake, unless
    # the backward pass runs it again, which is what gradient checkpointing does.
    is_block = "layer_" in site.partition(":")[0] or site.endswith("embeddings")
    if is_block and not is_backward():
        raise CaptureError(
            f"{site} ran outside a forward pass of the recorded model; call the model itself, not a part of it, "
            "or give the part to the recorder"
        )


def is_backward() -> bool:
    """Whether a backward pass runs in this thread, which computes again what gradient checkpointing has not kept."""
    return torch._C._current_graph_task_id() != -1
