"""Encoders of texts, as sentence-transformers has them: their records in the order in which the texts were given.

Such an encoder sorts texts by length, computes them in batches, and puts the results back into order. So do we, when
the call returns.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from actframe.errors import CaptureError
from actframe.records.record import ActivationRecord

__all__ = ["Numbered", "Waiting", "in_given_order"]

Numbered = tuple[tuple[int, int], ActivationRecord]
"""A record, and the number by which records are sorted; those of one number keep their order."""

_METHODS = ("encode", "predict")


class Waiting:
    """Records on their way to where they are kept, which wait while an encoder has not returned.

    Args:
        hand_over: takes records that wait no longer.
    """

    def __init__(self, hand_over: Callable[[list[Numbered]], None]) -> None:
        self._hand_over = hand_over
        self._held: list[Numbered] | None = None

    def take(self, records: list[Numbered]) -> None:
        """Hand records over, or hold them."""
        if self._held is None:
            self._hand_over(records)
        else:
            self._held.extend(records)

    def is_holding(self) -> bool:
        """Whether records wait."""
        return self._held is not None

    def hold(self) -> None:
        """Let records wait from now on."""
        self._held = []

    def let_go(self) -> list[Numbered]:
        """The records that have waited; those to come do not."""
        held, self._held = self._held or [], None
        return held


@contextmanager
def in_given_order(model: Any, waiting: Waiting, close: Callable[[], None]) -> Iterator[None]:
    """Inside the block, each call of the model's `encode` or `predict` gives its records in the order of its texts.

    Args:
        model: any model; nothing happens where it is no such encoder.
        waiting: where its records go.
        close: closes the sequences that are open.
    """
    names = [name for name in _METHODS if hasattr(model, name) and hasattr(model, "preprocess")]
    before = {name: vars(model).get(name) for name in names}
    for name in names:
        vars(model)[name] = _Encode(model, name, waiting, close)
    try:
        yield
    finally:
        for name in names:
            _put_back(model, name, before[name])


class _Encode:
    """Stands for a method of an encoder; in a copy of the encoder, for the copy's own."""

    def __init__(self, model: Any, name: str, waiting: Waiting, close: Callable[[], None]) -> None:
        self._model = model
        self._name = name
        self._waiting = waiting
        self._close = close
        self._original: Callable[..., Any] = getattr(model, name)
        functools.update_wrapper(self, self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._waiting.is_holding():
            return self._original(*args, **kwargs)
        given = _given(self._model, self._original, args, kwargs)
        computed: list[Any] = []
        self._waiting.hold()
        try:
            with _preprocessed(self._model, computed):
                result = self._original(*args, **kwargs)
            self._close()
        finally:
            records = self._waiting.let_go()
        self._waiting.take(_sorted_as(given, computed, records))
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return MethodType(getattr(type(self._model), self._name), memo.get(id(self._model), self._model))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, self._name)


@contextmanager
def _preprocessed(model: Any, computed: list[Any]) -> Iterator[None]:
    """Inside the block, `computed` gets every text in the order in which the model computes them."""
    before, original = vars(model).get("preprocess"), model.preprocess

    @functools.wraps(original)
    def preprocess(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        computed.extend(inputs)
        return original(inputs, *args, **kwargs)

    vars(model)["preprocess"] = preprocess
    try:
        yield
    finally:
        _put_back(model, "preprocess", before)


def _given(model: Any, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The texts that a call was given."""
    arguments = inspect.signature(method).bind_partial(*args, **kwargs).arguments
    texts = next((value for name, value in arguments.items() if name in ("inputs", "sentences")), None)
    if texts is None:
        texts = kwargs.get("sentences", [])
    if model.is_singular_input(texts):
        return [texts]
    return list(texts.tolist() if hasattr(texts, "tolist") else texts)


def _sorted_as(given: list[Any], computed: list[Any], records: list[Numbered]) -> list[Numbered]:
    """Records in the order of the given texts, numbered alike, so that they stay in it.

    Raises:
        CaptureError: there is not one record for each text.
    """
    places: defaultdict[Any, deque[int]] = defaultdict(deque)
    for place, text in enumerate(given):
        places[_key(text)].append(place)
    if len(records) != len(computed) or sorted(map(_sortable, computed)) != sorted(map(_sortable, given)):
        raise CaptureError(
            f"{len(given)} texts were given and {len(computed)} computed, in {len(records)} recorded sequences; which "
            "record is whose cannot be told. Run this model's forward by hand to record it"
        )
    ordered = sorted(zip((places[_key(text)].popleft() for text in computed), records, strict=True), key=_place)
    first = min((number for number, _ in records), default=(0, 0))
    return [(first, record) for _, (_, record) in ordered]


def _place(placed: tuple[int, Numbered]) -> int:
    return placed[0]


def _key(text: Any) -> Any:
    return text if isinstance(text, str) else id(text)


def _sortable(text: Any) -> str:
    return repr(_key(text))


def _put_back(model: Any, name: str, before: Any) -> None:
    vars(model).pop(name, None)
    if before is not None:
        vars(model)[name] = before
