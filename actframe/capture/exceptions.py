"""What structure does not tell: the few architectures that need a word of their own, each with its reason.

Keyed by the model type of the configuration that the module around the blocks has.
"""

from __future__ import annotations

from actframe.capture.places import Axes

__all__ = [
    "INNER_POSITION_FIRST",
    "NO_PATTERN",
    "OWN_RESIDUAL",
    "POSITIONS_AMONG_MORE",
    "POSITION_FIRST",
    "SEVERAL_STACKS",
    "STREAM_COUNTS",
]

POSITION_FIRST = {
    "fsmt": "both towers transpose their states to (pos, batch, d) before the first block, and back after the last",
    "xlnet": "the model transposes its ids before the embedding, and its states back after the last block",
}
"""Model types whose blocks take `(pos, batch, d)`."""

INNER_POSITION_FIRST = {
    "led": (r"self_attn\.longformer_self_attn\.(query|key|value)(_global)?", "as in longformer"),
    "longformer": (r"attention\.self\.(query|key|value)(_global)?", "attention transposes its states for itself"),
    "mlcd": (r"self_attn\.out_proj", "attention projects before it transposes its states back"),
}
"""Model types whose blocks are as usual and hold modules that take `(pos, batch, d)`: which modules, and why."""

POSITIONS_AMONG_MORE: dict[str, tuple[Axes, str]] = {
    "big_bird": ("leading", "pads its input at the end to whole blocks of attention"),
    "bigbird_pegasus": ("leading", "its encoder pads its input at the end to whole blocks of attention"),
    "cpmant": ("trailing", "puts a learned prompt before the ids"),
    "led": ("leading", "its encoder pads its input at the end to whole windows of attention"),
    "longformer": ("leading", "pads its input at the end to whole windows of attention"),
    "pegasus_x": ("leading", "its encoder pads its input at the end to whole blocks of attention"),
    "prophetnet": ("leading", "its decoder computes the streams that predict behind the main stream"),
    "videoprism_text_model": ("leading", "puts the token that stands for the text behind the ids"),
    "reformer": ("leading", "pads its input at the end to whole chunks of attention"),
}
"""Model types whose blocks compute more than the positions of the sequence: where these stand, and what the rest is."""

SEVERAL_STACKS = {
    "lxmert": (
        r"encoder\.(layer|r_layers|x_layers)",
        "text and image have stacks of their own, and layers in which both meet follow",
    ),
}
"""Model types of which one stack would be found, though others carry on with its states: which lists, and why."""

NO_PATTERN = {
    "AutoformerAttention": "it weighs delays by autocorrelation, and has no pattern over positions",
    "MiniMaxLightningAttention": "its model declares a pattern, but what this attention returns is its recurrent state",
}
"""Classes of attention that seem to give a pattern and do not: why."""

OWN_RESIDUAL = {
    "LwDetrMLP": "its forward adds what it was given, without a norm or an argument that would tell",
    "RfDetrMLP": "as LwDetrMLP",
}
"""Classes of modules that add the residual stream by themselves, and do not show it: why."""

STREAM_COUNTS: dict[str, Axes] = {
    "altup_num_inputs": "streams_first",
    "hc_mult": "streams",
    "hc_count": "packed_streams",
}
"""Attributes of a configuration that say how many residual streams there are beside each other, and their axis."""
