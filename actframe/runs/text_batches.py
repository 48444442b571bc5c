"""Texts -> batches of like length -> records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from actframe.capture.replay import ReplayRecorder
from actframe.capture.selection import Selection, Sites
from actframe.errors import ModelError, SelectionError, SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.memory import Halving
from actframe.runs.models import LoadedModel
from actframe.runs.quiet import without_notices
from actframe.runs.recording import RecordedBatch
from actframe.runs.text_encoding import EncodedText, Text, TextEncoder

__all__ = ["BATCH_TOKENS", "WINDOW", "TextBatches", "padded_tokens", "plan_batches", "windows"]

BATCH_TOKENS = 8192
WINDOW = 2048
"""Texts are sorted by length within so many of them: padding stays small, and a file of any length is streamed."""


def windows(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """The texts, so many at a time."""
    rest = iter(texts)
    while window := list(itertools.islice(rest, WINDOW)):
        yield window


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """The rows of each batch: the longest first, as many as fit with their padding; at least one.

    >>> plan_batches([3, 9, 4, 8, 3], batch_tokens=16)
    [[1], [3, 2], [0, 4]]
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class TextBatches:
    """Computes texts in batches, and gives their records.

    Args:
        loaded: the model and its tokenizer.
        select: what is recorded.
        encoder: makes ids of texts.
        batch_tokens: how many tokens are computed together, padding included.

    Raises:
        SettingsError: there is no room for a token.
        ModelError: the model is in training mode.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        select: Selection | Sites | None,
        encoder: TextEncoder,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        if not isinstance(batch_tokens, int) or isinstance(batch_tokens, bool) or batch_tokens < 1:
            raise SettingsError(f"batch_tokens is {batch_tokens!r}; it must be a whole number, at least 1")
        if loaded.model.training:
            raise ModelError(
                f"model {loaded.name!r} is in training mode, where dropout makes what it computes random: "
                "call model.eval()"
            )
        self.loaded = loaded
        self._encoder = encoder
        self._batch_tokens = batch_tokens
        self._sink = RecordedBatch()
        self._recorder = ReplayRecorder(loaded.model, select, tokenizer=loaded.tokenizer, into=self._sink)
        self._halving: Halving[EncodedText] = Halving(padded_tokens)

    @property
    def sites(self) -> list[str]:
        """The names of the sites that are recorded."""
        return self._recorder.sites

    @property
    def selection(self) -> Selection:
        """What is recorded."""
        return self._recorder.selection

    def encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        """The ids of some texts, in their order.

        Raises:
            PromptError, ModelError: as `TextEncoder.encode`.
            SelectionError: the sites are of a decoder, and there is nothing for it.
        """
        encoded = self._encoder.encode(texts)
        if self.loaded.is_encoder_decoder and (towers := self._recorder.towers - {"encoder."}):
            lonely = next((each.text for each in encoded if each.text.response is None), None)
            if lonely is not None:
                raise SelectionError(
                    f"text {lonely.name} has no response, so the decoder of {self.loaded.name!r} has nothing to "
                    f"compute, and {', '.join(sorted(towers))} sites are selected; give responses, or select "
                    "'encoder.*' sites"
                )
        return encoded

    def is_too_long(self, encoded: EncodedText) -> bool:
        """Whether a text does not fit the model's context."""
        limit = self.loaded.context_length
        if limit is None:
            return False
        if self.loaded.is_encoder_decoder:
            return max(len(encoded.prompt_ids), 1 + len(encoded.response_ids)) > limit
        return len(encoded) > limit

    def first(self, texts: Iterable[Text], count: int) -> list[Text]:
        """The first texts that can be computed, so many if there are."""
        encoded = itertools.chain.from_iterable(map(self.encode, windows(texts)))
        fitting = (each.text for each in encoded if each.prompt_ids and not self.is_too_long(each))
        return list(itertools.islice(fitting, count))

    def compute(
        self, texts: Iterable[Text], is_done: Callable[[Text], bool] | None = None
    ) -> Iterator[tuple[Text, ActivationRecord]]:
        """The record of each text that fits and is not empty, in the order in which they are computed.

        Args:
            texts: in the order that says which are computed together.
            is_done: of which texts there are records already. They come again only to those that were computed with
                them and have none, so that each record is what it would have been.
        """
        for batch in self.plan(texts, is_done):
            for part, records in self._halving.run(batch, self.compute_batch):
                for encoded, record in zip(part, records, strict=True):
                    if is_done is None or not is_done(encoded.text):
                        yield encoded.text, self.describe(encoded, record)

    def plan(self, texts: Iterable[Text], is_done: Callable[[Text], bool] | None = None) -> Iterator[list[EncodedText]]:
        """Which texts are computed together: each batch of which a record is missing, whole."""
        for window in windows(texts):
            if is_done is not None and all(map(is_done, window)):
                continue
            fitting = [each for each in self.encode(window) if len(each.prompt_ids) and not self.is_too_long(each)]
            for rows in plan_batches(list(map(len, fitting)), self._batch_tokens):
                batch = [fitting[row] for row in rows]
                if is_done is None or not all(is_done(each.text) for each in batch):
                    yield batch

    def describe(self, encoded: EncodedText, record: ActivationRecord) -> ActivationRecord:
        """A record of a batch with everything that is said about its text."""
        return _about(encoded, record, self.loaded)

    def compute_batch(self, batch: Sequence[EncodedText]) -> list[ActivationRecord]:
        """The records of one batch, computed in one forward pass."""
        self._sink.clear()
        prompts = [each.prompt_ids for each in batch]
        # Nothing is attached to the model while somebody else has the records.
        with self._recorder as recorder, without_notices():
            if not self.loaded.is_encoder_decoder:
                rows = [each.prompt_ids + each.response_ids for each in batch]
                recorder.run(self._padded(rows), list(map(len, prompts)))
            elif all(each.text.response is None for each in batch):
                recorder.run(self._padded(prompts), through=self.loaded.model.get_encoder())
            else:
                decoder = self._padded([[self._start_token(), *each.response_ids] for each in batch])
                behind = {f"decoder_{name}": values for name, values in decoder.items()}
                recorder.run({**self._padded(prompts), **behind}, [1] * len(batch))
        return self._sink.take(prompts)

    def _padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """Ids and mask `(batch, pos)`, on the model's device; what stands behind a text is masked, whatever it is."""
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, own in enumerate(rows):
            ids[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
        device = self.loaded.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def _start_token(self) -> int:
        model = self.loaded.model
        known = (getattr(each, "decoder_start_token_id", None) for each in (model.config, model.generation_config))
        start = next((token for token in known if token is not None), model.config.pad_token_id)
        return int(start)


def padded_tokens(batch: Sequence[EncodedText]) -> int:
    """How many tokens are computed, padding included."""
    return len(batch) * max(map(len, batch))


def _about(encoded: EncodedText, record: ActivationRecord, loaded: LoadedModel) -> ActivationRecord:
    """A record with everything that is said about its text."""
    text = encoded.text
    said: dict[str, Any] = {"model": loaded.name, "device": str(loaded.device)}
    if isinstance(text.prompt, str):
        said["prompt"] = text.prompt
    if text.response is not None:
        said["prompt_tokens"] = len(encoded.prompt_ids)
        said["output_tokens"] = len(encoded.response_ids)
    if isinstance(text.response, str):
        said["response"] = text.response
    return record.replace(**said, **{"text_id": text.number, **text.about})
