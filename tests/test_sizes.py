"""Predicted sizes against what is really recorded, for every shape of record there is."""

import pytest
import torch

from actframe import ActivationRecorder, Selection
from actframe.records.packing import pack
from actframe.runs.sizes import AnswerSizes
from actframe.storage.ledger_lines import encode_line
from actframe.testing import tiny_model

PROMPT, TOKENS = 9, 5


def recorded(model, selection, prompt=PROMPT, tokens=TOKENS):
    records = []
    ids = torch.arange(1, prompt + 1)[None]
    with ActivationRecorder(model, selection, into=records):
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
    return records[0].replace(prompt="p" * prompt, response="r" * tokens)


SELECTIONS = [
    Selection(),
    Selection(positions="prompt"),
    Selection(positions="response"),
    Selection(positions="last_prompt"),
    Selection(positions="last"),
    Selection(positions=slice(2, -1)),
    Selection(positions=[0, -1, 40]),
    Selection(reduce="mean"),
    Selection(["layer_0", "logits"]),
    Selection(["logits", "layer_1.mlp_act"], dtype="float16"),
    Selection(["layer_*.attn_probs", "embeddings"]),
    Selection(["layer_*.attn_probs", "embeddings"], positions="response"),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_one_short_answer_tells_the_size_of_every_other(selection):
    model = tiny_model("llama", attn_implementation="eager")
    sizes = AnswerSizes.of(recorded(model, selection, tokens=1), selection, is_encoder_decoder=False)
    for prompt, tokens in ((PROMPT, TOKENS), (PROMPT, 1), (3, 7), (1, 2)):
        record = recorded(model, selection, prompt, tokens)
        real = sum(tensor.nbytes for tensor in record.activations.values())
        assert sizes.tensor_bytes(prompt, tokens) == real


@pytest.mark.parametrize("positions", ["all", "prompt", "last"])
def test_encoder_and_decoder_grow_apart(positions):
    model = tiny_model("t5")
    selection = Selection(["encoder.layer_*", "decoder.layer_*"], positions=positions)
    sizes = AnswerSizes.of(recorded(model, selection, tokens=2), selection, is_encoder_decoder=True)
    for prompt, tokens in ((PROMPT, TOKENS), (3, 7)):
        real = sum(tensor.nbytes for tensor in recorded(model, selection, prompt, tokens).activations.values())
        assert sizes.tensor_bytes(prompt, tokens) == real


def line_of(record):
    return len(encode_line({key: value for key, value in pack(record).metadata.items() if key != "format"}))


def test_the_line_of_an_answer_is_about_what_is_expected_and_never_more_than_it_may_be(tiny_llama):
    record = recorded(tiny_llama[0], Selection(), prompt=60, tokens=40)
    sizes = AnswerSizes.of(recorded(tiny_llama[0], Selection(), tokens=2), Selection(), is_encoder_decoder=False)
    real = line_of(record)
    assert sizes.line(60, 40) == pytest.approx(real, rel=0.2)
    tensors = sum(tensor.nbytes for tensor in record.activations.values())
    wordy = record.replace(prompt="\x00" * 60, response="indistinguishable"[:16] * 40)
    assert tensors + 2 * line_of(wordy) <= sizes.most_bytes(60, 40) <= tensors + 7 * real


def test_what_compresses_is_smaller_on_disk_and_lines_are_not(tiny_llama):
    sizes = AnswerSizes.of(recorded(tiny_llama[0], Selection(), tokens=1), Selection(), is_encoder_decoder=False)
    plain, smaller = sizes.stored_bytes(100, 20), sizes.stored_bytes(100, 20, ratio=2.0)
    assert plain - smaller == sizes.tensor_bytes(100, 20) / 2
