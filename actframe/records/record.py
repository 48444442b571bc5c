"""ActivationRecord: one sequence, its activations, and what was said about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from actframe.capture.sites import GRADIENT, MODULE, family

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ActivationRecord"]


class ActivationRecord(Mapping[str, Any]):
    """One recorded sequence: a read-only mapping whose keys are also attributes.

    Ids and positions are lists of int, tensors are in `activations` alone; everything else is JSON-safe, and any
    further JSON-safe key may be added with `replace`.

    Attributes:
        prompt: the prompt as the caller wrote it, or as the tokenizer decodes `input_ids`; None without a tokenizer.
        response: the generated text; None where nothing was generated or no tokenizer was given.
        model: the model's name.
        timestamp: when the sequence closed, ISO 8601 with UTC offset.
        input_ids: token ids of the prompt, unpadded (of the encoder's input in encoder-decoder models).
        output_ids: token ids of the response; empty where nothing was generated.
        activations: site -> CPU tensor `(pos, d_model)`. Two sites have other axes: `attn_probs` is
            `(head, pos, key)`, and `logits` ends in the vocabulary. With `reduce`, `pos` has length 1. Where gradients
            were recorded, `layer_3@grad` is that of `layer_3`, at the same positions. A record that keeps the graph
            has tensors on the model's device, until it is saved.
        positions: the absolute, unpadded position of each row of `activations` (of the decoder in
            encoder-decoder models); with `reduce`, the positions that were reduced over.
        site_positions: positions of those sites whose rows are not `positions` (an encoder's, or logits that the
            model computed for the last position only).
        prompt_length: how many positions, from 0, belong to the prompt.
        computed_before: how many positions, from 0, were in a KV cache before the recording began, and so have no
            activations; absent where there are none.
        media: where the sequence has placeholders for images, videos and sound, as runs of positions, the second not
            in it: `{"image": [[4, 68]]}` (of the encoder's input in encoder-decoder models); absent where there are
            none, or where the prompt was given as embeddings.
        sites: the names of the recorded sites, in the model's order.
        strategy: the capture strategy's name.
        places: where in the model the sites were taken, those that differ in their layer alone in one entry:
            `{"layer_{i}": "model.layers.{i}"}`. `place_of` reads it. Records of older versions have none.
        dtype: what the model computes in (`"bfloat16"`); each tensor has the dtype that it was stored in.
        attn_implementation: the model's attention kernel (`"sdpa"`, `"eager"`), or None.
        batch_size: how many sequences were computed together.
        recorded: `"live"` (in the forward passes that produced the response) or `"replay"`.
        actframe_version, torch_version, transformers_version: what recorded it.

    A benchmark's answer has also `question_id`, `trial`, `subject`, `expected`, `extracted_answer`, `correct`,
    `unparsed` (no answer could be extracted) and `truncated` (the response hit the token limit); a wrong one also
    `vote`, where what it is counted as beside others to its question is not the answer as it is written.

    The record of a choice that was ranked has `question_id` and `trial` as well, and `choice` (its index),
    `choice_label`, `choice_text`, `logprob`, `is_greedy`, `scored_tokens`, `expected` and `is_expected`; it has no
    `correct`, and is no answer.
    """

    prompt: str | None
    response: str | None
    model: str
    timestamp: str
    input_ids: list[int]
    output_ids: list[int]
    activations: Mapping[str, Tensor]
    positions: list[int]
    site_positions: dict[str, list[int]]
    prompt_length: int
    sites: list[str]
    strategy: str
    places: dict[str, str]
    dtype: str
    attn_implementation: str | None
    batch_size: int
    recorded: str
    actframe_version: str
    torch_version: str
    transformers_version: str

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"this record has no {name!r}; it has {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"records are read-only; use record.replace({name}=...)")

    def __reduce__(self) -> tuple[type[ActivationRecord], tuple[dict[str, Any]]]:
        return type(self), (self._values,)

    def __repr__(self) -> str:
        prompt = self._values.get("prompt")
        return f"<ActivationRecord {prompt!r:.60}, {len(self.activations)} sites, {len(self.positions)} positions>"

    @property
    def phases(self) -> list[str]:
        """For each of `positions`, `"prompt"` or `"response"`."""
        return ["prompt" if position < self.prompt_length else "response" for position in self.positions]

    def positions_of(self, site: str) -> list[int]:
        """The absolute position of each row of one site."""
        return self.site_positions.get(site, self.positions)

    def place_of(self, site: str) -> str | None:
        """The dotted path of the module that gave one site, `model.layers.3`; None where the record does not say.

        `@input` at the end means what enters the module, `[1]` which item of what it returns.
        """
        site = site.removesuffix(GRADIENT)
        if site.startswith(MODULE):
            return site.removeprefix(MODULE)
        places: Mapping[str, str] = self._values.get("places") or {}
        name, index = family(site)
        return places[site] if site in places else places[name].replace("{i}", index or "") if name in places else None

    def replace(self, **changes: Any) -> ActivationRecord:
        """A copy with some keys changed or added; tensors are shared, not copied."""
        return ActivationRecord({**self._values, **changes})
