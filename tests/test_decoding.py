"""Rows leave their batch when their responses have ended, and nothing else is different."""

import itertools

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, SynthIDTextWatermarkingConfig

from actframe import ActivationRecorder, Selection
from actframe.benchmarks.general import General
from actframe.runs import generation
from actframe.runs.decoding import Decoding, shared_beginning
from actframe.runs.generation import GenerationSettings, Request, generate_batch
from actframe.runs.models import LoadedModel, load_model
from actframe.testing import tiny_model, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "opt", "gemma2", "mixtral", "qwen3"]
REQUESTS = [Request([1, 5 + number, *range(3, 3 + number % 5)], number) for number in range(9)]
DRAWN = GenerationSettings(max_new_tokens=24, temperature=1.5)


def ending(family):
    """A model whose responses to `REQUESTS` end after different numbers of tokens."""
    model = tiny_model(family)
    free = generate_batch(LoadedModel("tiny", model, tiny_tokenizer()), REQUESTS, DRAWN)
    counts = torch.bincount(torch.tensor([token for each in free for token in each.output_ids]))
    model.generation_config.eos_token_id = counts.topk(5).indices.tolist()
    return LoadedModel("tiny", model, tiny_tokenizer())


def rows_of_passes(model, run):
    """How many rows each forward pass has meanwhile."""
    rows = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        run()
    finally:
        hook.remove()
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_have_ended_are_computed_no_more_and_the_others_go_on_as_with_them(family, monkeypatch):
    loaded = ending(family)
    found = []
    rows = rows_of_passes(loaded.model, lambda: found.extend(generate_batch(loaded, REQUESTS, DRAWN)))
    assert len(rows) == max(len(each.output_ids) for each in found)
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 9
    assert rows[-1] < 5
    monkeypatch.setattr(Decoding, "suits", lambda model, config: False)
    with_them = []
    rows = rows_of_passes(loaded.model, lambda: with_them.extend(generate_batch(loaded, REQUESTS, DRAWN)))
    assert set(rows) == {9}
    assert with_them == found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
@pytest.mark.parametrize("positions", ["all", "last_prompt", "response", "last"])
def test_rows_that_leave_are_recorded_as_they_are_alone(family, strategy, positions):
    loaded = ending(family)
    select = Selection(["embeddings", "layer_0"], positions=positions)

    def recorded(requests):
        with ActivationRecorder(loaded.model, select, strategy=strategy) as recorder:
            responses = generate_batch(loaded, requests, DRAWN)
        return [(*each, recorder.records[row]) for row, each in enumerate(zip(requests, responses, strict=True))]

    for request, response, record in recorded(REQUESTS):
        assert record.input_ids == request.input_ids
        assert record.output_ids == response.output_ids
        assert record["batch_size"] == len(REQUESTS)
        ((_, _, alone),) = recorded([request])
        assert record.positions == alone.positions
        for site, tensor in record.activations.items():
            torch.testing.assert_close(tensor, alone.activations[site], rtol=1e-4, atol=1e-4)


ALIKE = [Request([1, *range(40, 60), *range(3, 4 + 2 * number), 70 + number], number) for number in range(5)]


def shapes_of_passes(model, run):
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        run()
    finally:
        hook.remove()
    return shapes


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_what_prompts_begin_with_is_computed_once(family, monkeypatch):
    loaded = ending(family)
    found = []
    shapes = shapes_of_passes(loaded.model, lambda: found.extend(generate_batch(loaded, ALIKE, DRAWN)))
    assert shapes[:2] == [(1, 22), (5, 9)]
    assert all(width == 1 for _, width in shapes[2:])
    monkeypatch.setattr(generation, "shared_beginning", lambda model, prompts: 0)
    again = []
    shapes = shapes_of_passes(loaded.model, lambda: again.extend(generate_batch(loaded, ALIKE, DRAWN)))
    assert shapes[0] == (5, 31)
    assert found == again


@pytest.mark.parametrize("strategy", ["hooks", "output_hidden_states"])
@pytest.mark.parametrize("positions", ["all", "prompt", "last_prompt", "response", [3, -1]])
def test_rows_that_share_their_beginning_are_recorded_as_they_are_alone(strategy, positions):
    loaded = ending("llama")
    select = Selection(["embeddings", "layer_0"], positions=positions)

    def recorded(requests):
        with ActivationRecorder(loaded.model, select, strategy=strategy) as recorder:
            responses = generate_batch(loaded, requests, DRAWN)
        return list(zip(requests, responses, recorder.records, strict=True))

    for request, response, record in recorded(ALIKE):
        assert (record.input_ids, record.output_ids) == (request.input_ids, response.output_ids)
        assert record["batch_size"] == len(ALIKE)
        ((_, _, alone),) = recorded([request])
        assert record.positions == alone.positions
        assert record["prompt_length"] == alone["prompt_length"]
        for site, tensor in record.activations.items():
            torch.testing.assert_close(tensor, alone.activations[site], rtol=1e-4, atol=1e-4)


def test_a_short_prompt_that_is_left_over_of_a_longer_one_is_not_taken_for_it():
    """The second prompt is the first one without its middle, where the padding of the second stands."""
    loaded = LoadedModel("tiny", tiny_model("llama"), tiny_tokenizer())
    beginning = [1, *range(40, 60)]
    requests = [Request([*beginning, *middle, 5]) for middle in ([13, 3, 4], [], [258, 258, 258], [258, 258])]
    settings = GenerationSettings(max_new_tokens=1)
    for order in (requests, requests[::-1]):
        with ActivationRecorder(loaded.model, 0) as recorder:
            generate_batch(loaded, order, settings)
        assert [record.input_ids for record in recorder.records] == [each.input_ids for each in order]


def test_patterns_of_rows_that_share_their_beginning_are_those_of_rows_alone():
    loaded = ending("llama")
    loaded.model.set_attn_implementation("eager")

    def recorded(requests):
        with ActivationRecorder(loaded.model, "layer_0.attn_probs") as recorder:
            generate_batch(loaded, requests, DRAWN)
        return [record.activations["layer_0.attn_probs"] for record in recorder.records]

    for request, pattern in zip(ALIKE, recorded(ALIKE), strict=True):
        (alone,) = recorded([request])
        torch.testing.assert_close(pattern, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral"])
def test_where_places_are_counted_otherwise_every_row_is_computed_whole(family):
    model = tiny_model(family)
    assert shared_beginning(model, [each.input_ids for each in ALIKE]) == 0


def test_little_in_common_and_prompts_that_are_the_same_are_computed_row_by_row():
    model = tiny_model("llama")
    prompts = [each.input_ids for each in ALIKE]
    assert shared_beginning(model, prompts) == 22
    assert shared_beginning(model, [*prompts, prompts[0]]) == 0
    assert shared_beginning(model, prompts[:1]) == 0
    assert shared_beginning(model, [[1, *range(10 * n, 10 * n + 30)] for n in range(1, 6)]) == 0
    assert shared_beginning(model, [prompts[0], prompts[0][:18]]) == 17
    assert shared_beginning(model, [prompts[0], prompts[0][:16]]) == 0


def test_rows_that_a_text_stops_leave_too():
    loaded = LoadedModel("tiny", tiny_model("llama"), tiny_tokenizer())
    settings = GenerationSettings(max_new_tokens=24)
    free = generate_batch(loaded, REQUESTS, settings)
    # A letter of one row's response is where each row that says it ends.
    stop = next(letter for each in free for letter in each.text[2:] if letter.isascii() and letter.isalnum())
    requests = [Request(each.input_ids, stops=(stop,)) for each in REQUESTS[:8]] + [REQUESTS[8]]
    found = []
    rows = rows_of_passes(loaded.model, lambda: found.extend(generate_batch(loaded, requests, settings)))
    assert rows[-1] < 9
    assert found[8] == free[8]
    for stopped, without in zip(found[:8], free, strict=False):
        assert stopped.text == without.text.partition(stop)[0]
        assert stopped.output_ids == without.output_ids[: len(stopped.output_ids)]


def test_models_that_feed_their_forward_themselves_are_left_to_generate(monkeypatch):
    assert not Decoding.suits(tiny_model("t5"), generation.GenerationConfig())
    model = tiny_model("llama")
    assert Decoding.suits(model, model.generation_config)

    class Own(type(model)):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            return super().prepare_inputs_for_generation(*args, **kwargs)

    assert not Decoding.suits(Own(model.config), model.generation_config)
    assert not Decoding.suits(model, generation.GenerationConfig(cache_implementation="static"))


def test_models_with_images_whose_places_have_several_numbers_are_left_to_generate():
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 4, "vocab_size": 260, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 258}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2}
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, **{k: text[k] for k in ("vocab_size", "pad_token_id")}
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    loaded = LoadedModel("tiny", model, tiny_tokenizer())
    assert not Decoding.suits(model, model.generation_config)
    settings = GenerationSettings(max_new_tokens=6)
    assert generate_batch(loaded, ALIKE, settings) == [generate_batch(loaded, [each], settings)[0] for each in ALIKE]


def test_a_checkpoint_with_a_watermark_is_left_to_generate():
    loaded = ending("llama")
    loaded.model.generation_config.watermarking_config = SynthIDTextWatermarkingConfig(keys=[1, 2, 3, 4], ngram_len=3)
    assert not Decoding.suits(loaded.model, generation.GenerationConfig())
    assert len(generate_batch(loaded, REQUESTS, DRAWN)) == len(REQUESTS)


def test_smollm2_s_answers_are_those_of_generate(monkeypatch):
    loaded = load_model("smollm2", device="cpu", dtype="float32")
    prompts = [General().prompt(question) for question in itertools.islice(General().questions(), 4)]
    settings = GenerationSettings(max_new_tokens=16)
    found = generation.generate_responses(loaded, prompts, settings)
    assert len({len(each.output_ids) for each in found}) > 1
    monkeypatch.setattr(Decoding, "suits", lambda model, config: False)
    assert generation.generate_responses(loaded, prompts, settings) == found
