"""What a recording refuses because it could not be told apart: each with what was asked and what to do."""

from __future__ import annotations

from actframe.capture.calls import Call
from actframe.errors import CaptureError

__all__ = ["check_past", "check_prompt"]


def check_past(call: Call) -> None:
    """A call continues a cache that was filled before the recording began.

    Raises:
        CaptureError: the cache does not say how far.
    """
    if call.start is None:
        raise CaptureError(
            "a forward pass continues a recurrent state that was computed before the recording began and does not say "
            "how much it has seen; begin the recording before the prompt is computed"
        )


def check_prompt(call: Call, prompt_width: int | None) -> None:
    """A call within `generate`, whose prompts have so many positions.

    Raises:
        CaptureError: the model was given embeddings of more.
    """
    if prompt_width is not None and call.ids is None and call.width > prompt_width:
        raise CaptureError(
            f"generate() was given prompts of {prompt_width} positions and the model {call.width} embeddings: "
            "virtual tokens of a tuned prompt stand among them, and where is not known; record a forward "
            "pass instead, whose positions count them"
        )
