"""The simple functions: one prompt or one question in, text and activations out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.own import Asked, as_question
from actframe.benchmarks.prompting import Message, Prompting
from actframe.capture.selection import Selection, Sites
from actframe.errors import SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.generation import Request, Response, generate_batch, prepare_prompts
from actframe.runs.grading import grade, make_conversation, stops_of
from actframe.runs.models import LoadedModel, load_model
from actframe.runs.options import InferenceOptions, generation_settings
from actframe.runs.recording import CaptureSettings, RecordedBatch, prepare_folder, save_record
from actframe.storage.files import check_can_save
from actframe.storage.files import save_activations as save_activation_file

__all__ = [
    "ActivationData",
    "AnyModel",
    "AnyQuestion",
    "InferenceOptions",
    "answer_benchmark_question",
    "answer_benchmark_question_with_activations",
    "generate_inference",
    "generate_inference_with_activations",
]

AnyModel = str | os.PathLike[str] | LoadedModel | torch.nn.Module
"""A hub id, a local folder, a GGUF file, `smollm2`, or a loaded model; a named one is kept for the next call."""

AnyQuestion = str | Mapping[str, Any] | Question
"""A text; a dictionary with `question` and, where there are, `choices` and `answer`; or a `Question`."""

ActivationData = dict[str, Any]
"""What `load_activations` returns: `prompt`, `response`, `model`, ..., and `activations`, a tensor for each site."""

Layers = Selection | Sites | None
"""Layers from 0, or from -1 backwards; also a site, a pattern, a list of these, or a `Selection`. Default: all."""


@overload
def generate_inference(
    prompt: str,
    model: AnyModel,
    *,
    capture_activations: Literal[False] = False,
    layers_to_capture: None = None,
    **options: Unpack[InferenceOptions],
) -> str: ...


@overload
def generate_inference(
    prompt: str,
    model: AnyModel,
    *,
    capture_activations: Literal[True],
    layers_to_capture: Layers = None,
    **options: Unpack[InferenceOptions],
) -> tuple[str, ActivationData]: ...


def generate_inference(
    prompt: str,
    model: AnyModel,
    *,
    capture_activations: bool = False,
    layers_to_capture: Layers = None,
    **options: Unpack[InferenceOptions],
) -> str | tuple[str, ActivationData]:
    """The model's response to a prompt; with `capture_activations`, also what happened inside the model.

    >>> "Paris" in generate_inference("What is the capital of France?", "smollm2")
    True

    Args:
        prompt: what the user says; chat models get it in their template.
        model: see `AnyModel`.
        capture_activations: return `(response, activation data)`.
        layers_to_capture: see `Layers`.
        options: see `InferenceOptions`.

    Raises:
        ModelError: the model cannot be found, loaded, or asked.
        PromptError: the prompt is empty or too long.
        SiteError: there is no such layer; the message says how many there are.
        SettingsError: settings that make no sense.
    """
    _check_wanted(capture_activations, layers_to_capture)
    if not capture_activations:
        return _respond(prompt, _load(model, options), None, options)[0].text
    return generate_inference_with_activations(prompt, model, None, layers_to_capture, **options)


def generate_inference_with_activations(
    prompt: str,
    model: AnyModel,
    save_path: str | Path | None = None,
    layers_to_capture: Layers = None,
    **options: Unpack[InferenceOptions],
) -> tuple[str, ActivationData]:
    """The model's response to a prompt, and what happened inside the model: `(response, activation data)`.

    Args:
        prompt: what the user says; chat models get it in their template.
        model: see `AnyModel`.
        save_path: where to save the activation data; the suffix names the format. Checked before the model is loaded.
        layers_to_capture: see `Layers`.
        options: see `InferenceOptions`.

    Raises:
        StorageError: `save_path` cannot be written.
        UnknownNameError: no storage backend has its suffix.
        ModelError, PromptError, SiteError, SettingsError: as `generate_inference`.
    """
    if save_path is not None:
        check_can_save(save_path)
    capture = _capture(layers_to_capture, options)
    response, record = _respond(prompt, _load(model, options), capture, options)
    assert record is not None
    if save_path is not None:
        save_activation_file(record, save_path)
    return response.text, _data(record)


@overload
def answer_benchmark_question(
    question: AnyQuestion,
    model: AnyModel,
    *,
    capture_activations: Literal[False] = False,
    layers_to_capture: None = None,
    benchmark: BenchmarkAdapter | None = None,
    **options: Unpack[InferenceOptions],
) -> tuple[str, str | None]: ...


@overload
def answer_benchmark_question(
    question: AnyQuestion,
    model: AnyModel,
    *,
    capture_activations: Literal[True],
    layers_to_capture: Layers = None,
    benchmark: BenchmarkAdapter | None = None,
    **options: Unpack[InferenceOptions],
) -> tuple[str, str | None, ActivationData]: ...


def answer_benchmark_question(
    question: AnyQuestion,
    model: AnyModel,
    *,
    capture_activations: bool = False,
    layers_to_capture: Layers = None,
    benchmark: BenchmarkAdapter | None = None,
    **options: Unpack[InferenceOptions],
) -> tuple[str, str | None] | tuple[str, str | None, ActivationData]:
    """The model's response to a question, and the answer in it: `(full response, extracted answer)`.

    The answer is a letter where the question has options, else a number; None where the response gives none.

    Args:
        question: see `AnyQuestion`.
        model: see `AnyModel`.
        capture_activations: return a third value, the activation data.
        layers_to_capture: see `Layers`.
        benchmark: whose prompt and answer extraction to use instead.
        options: see `InferenceOptions`.

    Raises:
        BenchmarkError: the question is not one.
        ModelError, PromptError, SiteError, SettingsError: as `generate_inference`.
    """
    _check_wanted(capture_activations, layers_to_capture)
    asked = as_question(question)
    capture = _capture(layers_to_capture, options) if capture_activations else None
    response, said, record = _answer(asked, model, benchmark or Asked(asked), capture, options)
    if record is None:
        return response.text, said["extracted_answer"]
    return response.text, said["extracted_answer"], _data(record)


def answer_benchmark_question_with_activations(
    question: AnyQuestion,
    model: AnyModel,
    save_activations: bool = True,
    activation_save_dir: str | Path = "activations",
    layers_to_capture: Layers = None,
    *,
    benchmark: BenchmarkAdapter | None = None,
    storage: str = "pickle",
    **options: Unpack[InferenceOptions],
) -> tuple[str, str | None, ActivationData]:
    """A question, its answer, and what happened inside: `(full response, extracted answer, activation data)`.

    The data also says what was asked and found: `question_id`, `trial`, `subject`, `expected`, `extracted_answer`,
    `correct`, `unparsed`, `truncated`. It is saved as
    `benchmark_activations_<date>_<time>_<microseconds>_<prompt>.<suffix>`.

    Args:
        question: see `AnyQuestion`.
        model: see `AnyModel`.
        save_activations: save the activation data to a new file.
        activation_save_dir: its folder, made where there is none; checked before the model is loaded.
        layers_to_capture: see `Layers`.
        benchmark: whose prompt and answer extraction to use instead.
        storage: the storage backend's name.
        options: see `InferenceOptions`.

    Raises:
        StorageError: the folder cannot be written.
        BenchmarkError, ModelError, PromptError, SiteError, SettingsError: as `answer_benchmark_question`.
    """
    asked = as_question(question)
    capture = _capture(layers_to_capture, options, storage)
    folder = Path(activation_save_dir)
    if save_activations:
        prepare_folder(folder)
    response, said, record = _answer(asked, model, benchmark or Asked(asked), capture, options)
    assert record is not None
    if save_activations:
        save_record(record, folder, capture.suffix)
    return response.text, said["extracted_answer"], _data(record)


def _answer(
    question: Question,
    model: AnyModel,
    benchmark: BenchmarkAdapter,
    capture: CaptureSettings | None,
    options: InferenceOptions,
) -> tuple[Response, dict[str, Any], ActivationRecord | None]:
    loaded = _load(model, options)
    chat = options.get("chat")
    messages = make_conversation(benchmark, question, Prompting(chat=loaded.is_chat if chat is None else chat))
    response, record = _respond(messages, loaded, capture, options, stops_of(benchmark, question))
    said = {**grade(benchmark, question, response), "trial": 0}
    return response, said, record.replace(**said) if record is not None else None


def _load(model: AnyModel, options: InferenceOptions) -> LoadedModel:
    """The model; settings are checked before it is loaded."""
    generation_settings(options)
    return load_model(model, options.get("tokenizer"), device=options.get("device"), dtype=options.get("dtype"))


def _respond(
    prompt: str | Sequence[Message],
    loaded: LoadedModel,
    capture: CaptureSettings | None,
    options: InferenceOptions,
    stops: tuple[str, ...] = (),
) -> tuple[Response, ActivationRecord | None]:
    """One response, with its record where one is wanted."""
    generation = generation_settings(options)
    encoded = prepare_prompts(loaded, [prompt], generation, options.get("chat"))
    request = Request(encoded[0], generation.seed, stops)
    if capture is None:
        return generate_batch(loaded, [request], generation)[0], None
    sink = RecordedBatch()
    with capture.recorder(loaded, into=sink):
        (response,) = generate_batch(loaded, [request], generation)
    (record,) = sink.take(encoded)
    # The record's own prompt is what the model saw, chat template included.
    said = prompt if isinstance(prompt, str) else prompt[-1].content
    return response, record.replace(prompt=said, response=response.text, model=loaded.name)


def _capture(layers: Layers, options: InferenceOptions, storage: str = "pickle") -> CaptureSettings:
    return CaptureSettings(layers, options.get("strategy", "hooks"), storage)


def _check_wanted(capture_activations: bool, layers: Layers) -> None:
    if layers is not None and not capture_activations:
        raise SettingsError("layers_to_capture has no effect without capture_activations=True")


def _data(record: ActivationRecord) -> ActivationData:
    return {**record, "activations": dict(record.activations)}
