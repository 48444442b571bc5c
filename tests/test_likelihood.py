"""Log-likelihoods of choices: what the choices of a question share is computed once, and nothing else changes."""

import math
import random

import pytest
import torch
from torch.nn.functional import log_softmax

from actframe import ActivationRecorder
from actframe.runs.choices import EncodedChoice, Ranking
from actframe.runs.likelihood import rank_batch
from actframe.runs.models import LoadedModel, load_model
from actframe.testing import tiny_model, tiny_tokenizer

START = 258
"""What the decoders of tiny encoder-decoders begin with."""

FAMILIES = {
    "llama": {},
    "gpt2": {},
    "gemma3_text": {"sliding_window": 16},
    "mistral": {"sliding_window": 16},
    "opt": {},
    "gpt_neox": {},
    "mamba": {"state_size": 8, "conv_kernel": 4, "num_hidden_layers": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "t5": {},
}


def tiny_of(family):
    return LoadedModel(f"tiny-{family}", tiny_model(family, **FAMILIES[family]), tiny_tokenizer())


def tokens(draw, least, most):
    return [draw.randrange(256) for _ in range(draw.randint(least, most))]


def ranking(prompt, *rests):
    """A question whose choices all have this context, and each a continuation of its own."""
    return Ranking("", prompt, tuple(EncodedChoice(prompt, rest) for rest in rests))


def some_questions(seed=0, count=5):
    """Prompts of 3 to 40 tokens, two to five choices of 1 to 7."""
    draw = random.Random(seed)
    return [
        ranking(tokens(draw, 3, 40), *(tokens(draw, 1, 7) for _ in range(draw.randint(2, 5)))) for _ in range(count)
    ]


def naive(loaded, choice):
    """One forward pass over one whole choice, without any cache."""
    before, after = choice.context, choice.continuation
    with torch.no_grad():
        if loaded.is_encoder_decoder:
            decoder = torch.tensor([[START, *after[:-1]]])
            logits = loaded.model(input_ids=torch.tensor([before]), decoder_input_ids=decoder).logits[0]
        else:
            logits = loaded.model(torch.tensor([[*before, *after[:-1]]])).logits[0, len(before) - 1 :]
    logprobs = log_softmax(logits.float(), -1)
    each = [float(logprobs[place, token]) for place, token in enumerate(after)]
    greedy = all(int(logprobs[place].argmax()) == token for place, token in enumerate(after))
    return math.fsum(each), greedy


def assert_as_naive(loaded, rankings):
    found = rank_batch(loaded, rankings)
    for ours, each in zip(found, rankings, strict=True):
        theirs = [naive(loaded, choice) for choice in each.choices]
        assert [value.loglikelihood for value in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
        assert [value.greedy for value in ours] == [greedy for _, greedy in theirs]
        assert [value.tokens for value in ours] == [len(choice.continuation) for choice in each.choices]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_one_whole_pass_per_choice_gives(family):
    assert_as_naive(tiny_of(family), some_questions())


@pytest.mark.parametrize("family", FAMILIES)
def test_contexts_may_differ_from_choice_to_choice(family):
    draw = random.Random(1)
    questions = []
    for shared in (tokens(draw, 5, 9), tokens(draw, 20, 30), []):
        same = tokens(draw, 2, 4)
        contexts = [[*shared, number, *tokens(draw, 1, 12)] for number in range(3)]
        questions.append(Ranking("", shared, tuple(EncodedChoice(context, same) for context in contexts)))
    assert_as_naive(tiny_of(family), questions)
    assert_as_naive(tiny_of(family), questions[2:])


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mamba", "t5"])
def test_letters_need_no_pass_but_that_of_the_prompts(family):
    loaded = tiny_of(family)
    draw = random.Random(2)
    questions = [ranking(tokens(draw, 3, 30), [65], [66], [67], [68]) for _ in range(4)]
    ran = []
    with loaded.model.register_forward_hook(lambda *_: ran.append(True)):
        rank_batch(loaded, questions)
    assert len(ran) == 1
    assert_as_naive(loaded, questions)


def test_longer_choices_need_one_more_pass_for_each_choice():
    loaded = tiny_of("llama")
    widths = []

    def note(module, args, kwargs, output):
        widths.append((*kwargs["input_ids"].shape, output.logits.shape[1]))

    questions = [ranking(list(range(30)), [1, 2, 3], [4]), ranking(list(range(20)), [5, 6], [7, 8, 9, 10])]
    with loaded.model.register_forward_hook(note, with_kwargs=True):
        rank_batch(loaded, questions)
    # Rows, columns, and of how many columns there are logits.
    assert widths == [(2, 30, 1), (2, 2, 2), (1, 3, 3)]


@pytest.mark.parametrize("family", ["mamba", "bloom", "t5"])
def test_whole_passes_compute_no_logits_of_long_prompts_where_the_model_allows_it(family):
    loaded = tiny_of(family)
    shapes = []
    questions = [ranking(list(range(40)), [1, 2, 3], [4, 5])]
    with loaded.model.register_forward_hook(lambda module, args, output: shapes.append(output.logits.shape[1])):
        rank_batch(loaded, questions)
    assert max(shapes) <= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_else_is_in_a_batch_changes_nothing(family):
    loaded, questions = tiny_of(family), some_questions(seed=3)
    together = rank_batch(loaded, questions)
    backwards = rank_batch(loaded, questions[::-1])[::-1]
    alone = [rank_batch(loaded, [question])[0] for question in questions]
    for other in (backwards, alone):
        for ours, theirs in zip(together, other, strict=True):
            assert [v.loglikelihood for v in ours] == pytest.approx([v.loglikelihood for v in theirs], abs=1e-5)
            assert [v.greedy for v in ours] == [v.greedy for v in theirs]


def test_a_continuation_that_the_model_would_write_itself_is_greedy():
    loaded = tiny_of("llama")
    prompt = [72, 101, 108, 108, 111]
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    other = [*ids[5:8], (ids[8] + 1) % 256]
    own, changed = rank_batch(loaded, [ranking(prompt, ids[5:], other)])[0]
    assert own.greedy
    assert not changed.greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_pass_over_the_prompts_is_recorded_and_as_if_it_ran_alone(family):
    loaded, questions = tiny_of(family), some_questions(seed=4, count=3)
    recorded = []
    recorder = ActivationRecorder(loaded.model, into=recorded)
    found = rank_batch(loaded, questions, recorder)
    again = rank_batch(loaded, questions[:1], recorder)
    assert [record.input_ids for record in recorded] == [each.prompt_ids for each in [*questions, questions[0]]]
    for record, question in zip(recorded, [*questions, questions[0]], strict=True):
        ids = torch.tensor([question.prompt_ids])
        start = {"decoder_input_ids": torch.tensor([[START]])} if loaded.is_encoder_decoder else {}
        with torch.no_grad(), ActivationRecorder(loaded.model) as alone:
            loaded.model(ids, **start)
        (expected,) = alone.records
        assert record.positions == expected.positions
        assert list(record.activations) == list(expected.activations)
        for site, tensor in expected.activations.items():
            torch.testing.assert_close(record.activations[site], tensor, atol=1e-4, rtol=1e-4)
        assert record.output_ids == []
    assert found == rank_batch(loaded, questions)
    assert again[0] == rank_batch(loaded, questions[:1])[0]


def test_probabilities_of_a_half_precision_model_are_summed_in_float32():
    loaded = tiny_of("llama")
    half = LoadedModel("half", tiny_model("llama").to(torch.bfloat16), loaded.tokenizer)
    values = [value.loglikelihood for value in rank_batch(half, [ranking([1, 2, 3], [4], [5], [6])])[0]]
    assert any(value != float(torch.tensor(value).to(torch.bfloat16)) for value in values)


def test_a_context_as_long_as_the_model_takes_is_computed():
    loaded = tiny_of("gpt2")
    assert loaded.context_length == 128
    # The last token of a choice is only predicted; rows that end earlier are padded no further than the model goes.
    assert_as_naive(loaded, [ranking([7] * 120, [1] * 9, [2, 3]), ranking([8] * 126, [1, 2], [3, 4, 5])])


def test_smollm2_gives_what_one_whole_pass_per_choice_gives():
    loaded = load_model("smollm2", device="cpu", dtype="float32")
    tokenizer = loaded.tokenizer
    texts = {
        "The capital of France is": [" Paris", " London", " the moon"],
        "Question: What is 2 + 2?\nAnswer:": [" four", " fourteen and a half", " 4", " none of these"],
    }
    questions = [
        ranking(tokenizer(context).input_ids, *(tokenizer(choice).input_ids for choice in choices))
        for context, choices in texts.items()
    ]
    assert_as_naive(loaded, questions)
    paris, *others = rank_batch(loaded, questions)[0]
    assert all(paris.loglikelihood > other.loglikelihood for other in others)
    assert paris.greedy
