"""Prompts to token ids: templates, start tokens, lengths, and what is refused."""

import copy

import pytest
from tokenizers.processors import TemplateProcessing

from actframe.errors import ModelError, PromptError
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import check_lengths, encode_prompts
from actframe.testing import tiny_model

CHAT = "{% for m in messages %}<bos>[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture
def tiny(tiny_llama):
    return LoadedModel("tiny", tiny_llama[0], copy.deepcopy(tiny_llama[1]))


@pytest.fixture
def tiny_chat(tiny):
    tiny.tokenizer.chat_template = CHAT
    return tiny


def test_chat_models_get_their_template_and_only_its_special_tokens(tiny_chat):
    tokenizer = tiny_chat.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    (ids,) = encode_prompts(tiny_chat, ["hi"])
    assert tokenizer.decode(ids) == "<bos>[hi]>"
    (plain,) = encode_prompts(tiny_chat, ["hi"], chat=False)
    assert tokenizer.decode(plain) == "<bos>hi"


def test_a_prompt_that_was_put_into_a_template_already_has_one_start_token(tiny):
    tiny.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 256)]
    )
    assert encode_prompts(tiny, ["<bos>[hi]>", "[hi]>"])[0] == encode_prompts(tiny, ["[hi]>"])[0]


def test_a_model_without_a_template_gets_the_prompt_alone(tiny):
    assert encode_prompts(tiny, ["hi"]) == [tiny.tokenizer("hi").input_ids]


def test_a_template_that_is_demanded_and_missing_is_an_error(tiny):
    with pytest.raises(ModelError, match="'tiny' has no chat template; use chat=False"):
        encode_prompts(tiny, ["hi"], chat=True)


@pytest.mark.parametrize("empty", ["", "  \n\t"])
def test_an_empty_prompt_is_refused_by_its_index(empty, tiny, tiny_chat):
    with pytest.raises(PromptError, match="prompt 2 of 3 is empty"):
        encode_prompts(tiny, ["a", "b", empty])
    with pytest.raises(PromptError, match="prompt 0 of 1 is empty"):
        encode_prompts(tiny_chat, [empty])


def test_prompt_and_response_must_fit_the_context_together(tiny):
    check_lengths(tiny, [[1], [1] * 120], max_new_tokens=8)
    with pytest.raises(PromptError, match=r"prompt 1 of 2 is too long: 121 tokens and 8 new .* 128 tokens; shorten"):
        check_lengths(tiny, [[1], [1] * 121], max_new_tokens=8)


def test_an_encoder_decoder_model_counts_prompt_and_response_apart(tiny):
    config = {"max_position_embeddings": 64, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    loaded = LoadedModel("bart", tiny_model("bart", **config), tiny.tokenizer)
    check_lengths(loaded, [[1] * 64], max_new_tokens=64)
    with pytest.raises(PromptError, match="65 tokens and 64 new ones"):
        check_lengths(loaded, [[1] * 65], max_new_tokens=64)


def test_a_model_without_a_limit_takes_any_length(tiny):
    check_lengths(LoadedModel("t5", tiny_model("t5"), tiny.tokenizer), [[1] * 10_000], max_new_tokens=10_000)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("one text", "put it in a list"),
        (["fine", 3], "prompt 1 is not text but int"),
        (["fine", "\ud800"], "prompt 1 cannot be encoded"),
    ],
)
def test_what_is_not_text_is_refused(prompts, message, tiny):
    with pytest.raises(PromptError, match=message):
        encode_prompts(tiny, prompts)


def test_a_template_that_refuses_a_prompt_is_an_error_of_that_prompt(tiny):
    tiny.tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(PromptError, match=r"prompt 0 cannot be encoded: .*no users here"):
        encode_prompts(tiny, ["hi"])
