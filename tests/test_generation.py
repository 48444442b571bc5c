"""Prompts to responses: order, padding, templates, seeds, limits, and what is refused."""

import copy

import pytest
import torch

from actframe.errors import ModelError, PromptError, SettingsError
from actframe.runs.generation import GenerationSettings, Response, generate_responses
from actframe.runs.models import LoadedModel, load_model
from actframe.testing import tiny_model, tiny_tokenizer

PROMPTS = ["one", "a much longer prompt than the others", "three 3", "4", "five is fine", "seven", "6 6 6"]


@pytest.fixture
def tiny(tiny_llama):
    return LoadedModel("tiny", tiny_llama[0], copy.deepcopy(tiny_llama[1]))


def greedy(model, ids, count):
    """The likeliest token, count times, without padding, cache or `generate`."""
    ids = torch.tensor([ids])
    start = ids.shape[1]
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[0, start:].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "mixtral"])
def test_a_batch_gives_what_each_prompt_gives_alone_and_by_hand(family):
    loaded = LoadedModel("tiny", tiny_model(family), tiny_tokenizer())
    settings = GenerationSettings(max_new_tokens=6, batch_size=3)
    together = generate_responses(loaded, PROMPTS, settings)
    assert together == [generate_responses(loaded, [prompt], settings)[0] for prompt in PROMPTS]
    for prompt, response in zip(PROMPTS, together, strict=True):
        by_hand = greedy(loaded.model, loaded.tokenizer(prompt).input_ids, 6)
        assert response.output_ids == by_hand[: len(response.output_ids)]


def test_an_encoder_decoder_model_answers_without_its_start_token():
    loaded = LoadedModel("tiny", tiny_model("t5"), tiny_tokenizer())
    settings = GenerationSettings(max_new_tokens=5, batch_size=4)
    together = generate_responses(loaded, PROMPTS, settings)
    assert together == [generate_responses(loaded, [prompt], settings)[0] for prompt in PROMPTS]
    ids = torch.tensor([loaded.tokenizer(PROMPTS[0]).input_ids])
    start = torch.tensor([[loaded.model.config.decoder_start_token_id]])
    first = loaded.model(input_ids=ids, decoder_input_ids=start).logits[0, -1].argmax()
    assert together[0].output_ids[0] == first


def test_a_response_ends_with_the_token_that_closed_it_and_knows_what_ended_it(tiny):
    (free,) = generate_responses(tiny, ["ends?"], GenerationSettings(max_new_tokens=8))
    assert (len(free.output_ids), free.truncated) == (8, True)
    assert free.prompt_tokens == len(tiny.tokenizer("ends?").input_ids)
    third = next(i for i, token in enumerate(free.output_ids) if i and token not in free.output_ids[:i])
    ending = tiny_model("llama")
    ending.generation_config.eos_token_id = [free.output_ids[third], 5]
    loaded = LoadedModel("tiny", ending, tiny.tokenizer)
    closed, other = generate_responses(loaded, ["ends?", "a longer one"], GenerationSettings(max_new_tokens=8))
    assert closed.output_ids == free.output_ids[: third + 1]
    assert not closed.truncated
    assert other.prompt_tokens > closed.prompt_tokens


def test_the_tokenizer_s_own_end_stops_a_response_too(tiny):
    (free,) = generate_responses(tiny, ["ends?"], GenerationSettings(max_new_tokens=4))
    tiny.tokenizer.eos_token = tiny.tokenizer.convert_ids_to_tokens(free.output_ids[0])
    (closed,) = generate_responses(tiny, ["ends?"], GenerationSettings(max_new_tokens=4))
    assert closed.output_ids == free.output_ids[:1]
    assert not closed.truncated


def test_an_end_at_the_limit_is_not_truncated(tiny):
    (free,) = generate_responses(tiny, ["ends?"], GenerationSettings(max_new_tokens=1))
    assert free.truncated
    tiny.tokenizer.eos_token = tiny.tokenizer.convert_ids_to_tokens(free.output_ids[0])
    (closed,) = generate_responses(tiny, ["ends?"], GenerationSettings(max_new_tokens=1))
    assert not closed.truncated


def test_the_user_s_model_tokenizer_and_random_state_are_left_as_they_were(tiny):
    tiny.tokenizer.pad_token = None
    tiny.tokenizer.padding_side = "right"
    before = (repr(tiny.tokenizer), tiny.model.generation_config.to_dict(), torch.get_rng_state())
    generate_responses(tiny, PROMPTS, GenerationSettings(max_new_tokens=3, temperature=0.7))
    assert repr(tiny.tokenizer) == before[0]
    assert tiny.model.generation_config.to_dict() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_seed_repeats_what_was_drawn_and_another_does_not(tiny):
    settings = GenerationSettings(max_new_tokens=12, temperature=1.0, seed=7, batch_size=3)
    drawn = generate_responses(tiny, PROMPTS, settings)
    assert generate_responses(tiny, PROMPTS, settings) == drawn
    other = GenerationSettings(max_new_tokens=12, temperature=1.0, seed=8, batch_size=3)
    assert generate_responses(tiny, PROMPTS, other) != drawn
    assert drawn != generate_responses(tiny, PROMPTS, GenerationSettings(max_new_tokens=12, batch_size=3))


def test_prompts_draw_with_seeds_of_their_own(tiny):
    same = generate_responses(tiny, ["a"] * 4, GenerationSettings(max_new_tokens=12, temperature=1.0, batch_size=1))
    assert len({tuple(response.output_ids) for response in same}) > 1


def test_drawing_follows_temperature_and_top_p_alone(tiny):
    """With a top_p that leaves one token, drawing is greedy, whatever the checkpoint suggests."""
    suggesting = tiny_model("llama")
    suggesting.generation_config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=1.9, min_p=0.5)
    loaded = LoadedModel("tiny", suggesting, tiny.tokenizer)
    plain = generate_responses(tiny, PROMPTS, GenerationSettings(max_new_tokens=10))
    assert generate_responses(loaded, PROMPTS, GenerationSettings(max_new_tokens=10)) == plain
    nearly = GenerationSettings(max_new_tokens=10, temperature=1.0, top_p=1e-6)
    assert generate_responses(loaded, PROMPTS, nearly) == plain


@pytest.mark.parametrize(
    "suggestion",
    [
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True},
        {"max_length": 4096},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
        {"return_dict_in_generate": True, "output_scores": True},
        {"max_new_tokens": 2, "min_new_tokens": 2},
        {"pad_token_id": None, "eos_token_id": None},
    ],
)
def test_nothing_is_said_about_what_a_checkpoint_suggests(suggestion, tiny, capfd):
    suggesting = tiny_model("llama")
    suggesting.generation_config.update(**suggestion)
    loaded = LoadedModel("tiny", suggesting, tiny.tokenizer)
    plain = generate_responses(tiny, PROMPTS, GenerationSettings(max_new_tokens=5))
    assert generate_responses(loaded, PROMPTS, GenerationSettings(max_new_tokens=5)) == plain
    assert capfd.readouterr() == ("", "")


def test_a_prompt_longer_than_the_context_is_refused_before_the_model_runs(tiny):
    ran = []
    handle = tiny.model.register_forward_pre_hook(lambda *_: ran.append(True))
    with (
        handle,
        pytest.raises(PromptError, match=r"prompt 1 of 2 is too long: 130 tokens and 8 new ones .* 128 tokens"),
    ):
        generate_responses(tiny, ["short", "x" * 130], GenerationSettings(max_new_tokens=8))
    assert not ran


def test_no_prompts_give_no_responses(tiny):
    assert generate_responses(tiny, []) == []


def test_models_that_cannot_answer_are_refused(tiny):
    with pytest.raises(ModelError, match="BertModel, which does not generate text"):
        generate_responses(LoadedModel("bert", tiny_model("bert"), tiny.tokenizer), ["hi"])
    with pytest.raises(ModelError, match="has no tokenizer"):
        generate_responses(LoadedModel("bare", tiny.model), ["hi"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be a whole number, at least 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0; it is a probability"),
        ({"top_p": 0.9}, "top_p=0.9 has no effect at temperature 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_they_are_made(settings, message):
    with pytest.raises(SettingsError, match=message):
        GenerationSettings(**settings)


def test_smollm2_answers_in_a_batch_as_it_does_alone(smollm2):
    exact = load_model("smollm2", device="cpu", dtype="float32")
    prompts = [
        "What is the capital of France?",
        "Say hello.",
        "Which planet is known as the Red Planet, and why is it?",
    ]
    settings = GenerationSettings(max_new_tokens=10)
    together = generate_responses(exact, prompts, settings)
    assert together == [generate_responses(exact, [prompt], settings)[0] for prompt in prompts]
    assert together[0] == Response(
        "The capital of France is Paris.", together[0].output_ids, together[0].prompt_tokens, truncated=False
    )
    assert together[2].truncated
