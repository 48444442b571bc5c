"""capture_texts: text in, activations out, and nothing is generated."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack, overload

from actframe.capture.recorder import Sink
from actframe.capture.selection import Selection, Sites
from actframe.errors import PromptError, SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.models import load_model
from actframe.runs.text_batches import BATCH_TOKENS, TextBatches
from actframe.runs.text_encoding import OWN_KEYS, Given, Text, TextEncoder
from actframe.runs.text_survey import OnTrouble, survey_texts

__all__ = ["TextOptions", "capture_texts"]


class TextOptions(TypedDict, total=False):
    """How texts are computed.

    Attributes:
        batch_tokens: how many tokens are computed together, padding included; a longer text is computed alone. A batch
            that memory does not suffice for is halved.
        chat: put each text into the tokenizer's chat template as a user's message. Default: prompts of pairs where
            there is a template, texts alone never.
        too_long: what becomes of texts that do not fit the context: `"error"`, or `"skip"`. None is ever cut.
        empty: the same of texts without a token.
        about: what each record is to say beside, JSON-safe; `text_id` takes the place of the text's number.
    """

    batch_tokens: int
    chat: bool | None
    too_long: OnTrouble
    empty: OnTrouble
    about: Sequence[Mapping[str, Any]] | None


@overload
def capture_texts(
    model: Any,
    tokenizer: Any,
    texts: Iterable[Given],
    select: Selection | Sites | None = None,
    into: None = None,
    *,
    responses: Iterable[Given] | None = None,
    **options: Unpack[TextOptions],
) -> list[ActivationRecord]: ...
@overload
def capture_texts(
    model: Any,
    tokenizer: Any,
    texts: Iterable[Given],
    select: Selection | Sites | None = None,
    *,
    into: Sink,
    responses: Iterable[Given] | None = None,
    **options: Unpack[TextOptions],
) -> int: ...
def capture_texts(
    model: Any,
    tokenizer: Any,
    texts: Iterable[Given],
    select: Selection | Sites | None = None,
    into: Sink | None = None,
    *,
    responses: Iterable[Given] | None = None,
    **options: Unpack[TextOptions],
) -> list[ActivationRecord] | int:
    """Record what a model computes of texts that are there already, or of responses that were written elsewhere.

        records = capture_texts(model, tokenizer, ["one text", "another"], select=8)
        with ActivationStore("reviews") as store:
            capture_texts(model, tokenizer, prompts, select="layer_8", into=store, responses=answers)

    Texts of like length are computed together, in one forward pass that ends with the last selected site: no higher
    layer is computed, and no logits unless they are selected. Every record says `recorded="replay"`, and under
    `text_id` the number of its text. Prompt and response are told apart exactly (see `TextEncoder`): positions from
    `prompt_length` on are the response's, and all of them are computed, the last one too. An encoder-decoder model gets
    texts in its encoder, and a response in its decoder, behind the start token.

    Args:
        model: a transformers model, or a name as `load_model` takes it.
        tokenizer: its tokenizer; None for that of a named model.
        texts: texts, or the token ids of each.
        select: what to record, as in `ActivationRecorder`.
        into: anything with `append(record)`, an `ActivationStore`, say: gets each record as soon as it is computed, in
            the order of the batches.
        responses: the response to each text, which is then a prompt.
        options: see `TextOptions`.

    Returns:
        The records in the order of the texts; with `into`, how many there were. A warning counts and names texts that
        were skipped.

    Raises:
        PromptError: texts are empty, or do not fit the context; said of all of them before the model runs.
        SettingsError: an option that makes no sense, or lists of different lengths.
        ModelError: the model is in training mode; or there is text and no tokenizer.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
    """
    loaded = load_model(model, tokenizer)
    source = _listed(texts, responses, options.get("about"))
    encoder = TextEncoder(loaded, options.get("chat"))
    batches = TextBatches(loaded, select, encoder, options.get("batch_tokens", BATCH_TOKENS))
    survey = survey_texts(source, batches)
    survey.check(too_long=options.get("too_long", "error"), empty=options.get("empty", "error"))
    if survey.skipped:
        warnings.warn(survey.describe_skipped(), RuntimeWarning, stacklevel=2)
    records = ((text.number, record) for text, record in batches.compute(source))
    if into is None:
        return [record for _, record in sorted(records, key=lambda pair: pair[0])]
    count = 0
    for _, record in records:
        into.append(record)
        count += 1
    return count


def _listed(
    texts: Iterable[Given], responses: Iterable[Given] | None, about: Sequence[Mapping[str, Any]] | None
) -> list[Text]:
    """The texts with what belongs to them.

    Raises:
        PromptError: one is neither text nor ids.
        SettingsError: there are not as many of the one as of the other.
    """
    prompts = list(_checked(texts, "text"))
    columns: dict[str, list[Any]] = {"texts": prompts}
    if responses is not None:
        columns["responses"] = list(_checked(responses, "response"))
    if about is not None:
        columns["about"] = [dict(each) for each in about]
        if taken := sorted({key for each in about for key in each} & (OWN_KEYS - {"text_id", "row", "data"})):
            raise SettingsError(f"about says {taken[0]!r}, which records say by themselves; give it another name")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = " and ".join(f"{length} {name}" for name, length in lengths.items())
        raise SettingsError(f"there are {told}; each text needs its own")
    answers = columns.get("responses", [None] * len(prompts))
    said = columns.get("about", [{} for _ in prompts])
    return [Text(number, *parts) for number, parts in enumerate(zip(prompts, answers, said, strict=True))]


def _checked(texts: Iterable[Given], what: str) -> Iterator[Given]:
    if isinstance(texts, str):
        raise PromptError(f"{what}s is a list of texts, not one text: put it in a list")
    for number, each in enumerate(texts):
        ids = each.tolist() if hasattr(each, "tolist") else each
        if not isinstance(ids, str):
            is_ids = isinstance(ids, Sequence) and all(type(token) is int for token in ids)
            if not is_ids:
                raise PromptError(f"{what} {number} is neither text nor token ids but {type(each).__name__}")
        yield ids
