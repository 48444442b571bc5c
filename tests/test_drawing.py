"""Draws: of the right distribution, and those of one answer whatever is computed beside it."""

import pytest
import torch

from actframe.runs.decoding import Decoding
from actframe.runs.drawing import Drawing, answer_seed
from actframe.runs.generation import GenerationSettings, Request, generate_batch
from actframe.runs.models import LoadedModel
from actframe.testing import tiny_model, tiny_tokenizer

DRAWS = 4000
CHI_SQUARE_9_DEGREES = 33.7
"""Exceeded once in ten thousand times, at nine degrees of freedom."""


@pytest.fixture(scope="module")
def logits(tiny_llama):
    """Of ten tokens, as a model gives them."""
    return tiny_llama[0](torch.tensor([[5, 9, 2]])).logits[0, -1].detach()[:10] * 10


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.8)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, top_p, logits):
    """Each draw of a row, and the first draw of each row: both follow the softmax."""
    expected = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered = expected.sort(descending=True)
        kept = ordered.indices[: int((ordered.values.cumsum(-1) < top_p).sum()) + 1]
        expected = torch.zeros(10).index_copy(0, kept, expected[kept])
        expected /= expected.sum()
        assert 1 < len(kept) < 10
    one = Drawing(temperature, top_p, [answer_seed(0, "one", 0)], Decoding(1))
    along = torch.stack([one(None, logits[None]).argmax(-1)[0] for _ in range(DRAWS)])
    many = Drawing(temperature, top_p, [answer_seed(0, f"q{number}", 0) for number in range(DRAWS)], Decoding(DRAWS))
    across = many(None, logits.expand(DRAWS, -1)).argmax(-1)
    for drawn in (along, across):
        counts = torch.bincount(drawn, minlength=10)
        wanted = expected * DRAWS
        assert counts[wanted == 0].sum() == 0
        chi_square = ((counts - wanted) ** 2 / wanted)[wanted > 0].sum()
        assert chi_square < CHI_SQUARE_9_DEGREES


def test_another_seed_question_or_trial_draws_something_else():
    seeds = [answer_seed(seed, question, trial) for seed in (0, 1) for question in ("a", "b", "1") for trial in (0, 1)]
    assert len(set(seeds)) == 12
    assert answer_seed(1, "11", 1) != answer_seed(11, "1", 1)
    assert answer_seed(0, "general/1", 0) == 0xA72CF8A84247254F1AA692A5F3A498B5


REQUESTS = [Request([1, 5 + number, *range(3, 3 + number % 5)], answer_seed(7, f"q{number}", 0)) for number in range(9)]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_answer_draws_the_same_in_any_batch_and_any_order(family):
    loaded = LoadedModel("tiny", tiny_model(family), tiny_tokenizer())
    settings = GenerationSettings(max_new_tokens=12, temperature=1.3, top_p=0.95)
    alone = [generate_batch(loaded, [request], settings)[0] for request in REQUESTS]
    assert len({tuple(response.output_ids) for response in alone}) == len(REQUESTS)
    assert generate_batch(loaded, REQUESTS, settings) == alone
    assert generate_batch(loaded, REQUESTS[::-1], settings)[::-1] == alone
    assert generate_batch(loaded, REQUESTS[2:5], settings) == alone[2:5]


def test_rows_that_ended_early_change_nothing_for_the_others(tiny_llama):
    """The end of sequence is a token that some rows draw soon and others do not."""
    model = tiny_model("llama")
    loaded = LoadedModel("tiny", model, tiny_llama[1])
    settings = GenerationSettings(max_new_tokens=30, temperature=1.5)
    free = generate_batch(loaded, REQUESTS, settings)
    common = torch.bincount(torch.tensor([token for each in free for token in each.output_ids])).argmax()
    model.generation_config.eos_token_id = int(common)
    ended = generate_batch(loaded, REQUESTS, settings)
    assert len({len(each.output_ids) for each in ended}) > 2
    for with_end, without in zip(ended, free, strict=True):
        assert with_end.output_ids == without.output_ids[: len(with_end.output_ids)]
        assert with_end == generate_batch(loaded, [REQUESTS[ended.index(with_end)]], settings)[0]


def test_torch_s_random_state_is_neither_used_nor_changed(tiny_llama):
    loaded = LoadedModel("tiny", *tiny_llama)
    settings = GenerationSettings(max_new_tokens=5, temperature=1.0)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn.append(generate_batch(loaded, REQUESTS[:3], settings))
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1]
