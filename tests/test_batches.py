"""Which prompts are computed together."""

from actframe.runs.batches import WINDOW_BATCHES, batch_tokens, plan_batches
from actframe.runs.generation import GenerationSettings

LENGTHS = [(37 * i) % 101 + 1 for i in range(500)]


def test_batches_cover_every_row_once_and_pad_little():
    batches = plan_batches(LENGTHS, GenerationSettings(batch_size=8))
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert max(map(len, batches)) == 8
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(LENGTHS)
    window = 8 * WINDOW_BATCHES
    assert all(max(batch) // window == min(batch) // window for batch in batches)


def test_the_longest_of_a_window_comes_first():
    assert plan_batches([3, 9, 4, 8], GenerationSettings(batch_size=2)) == [[1, 3], [2, 0]]


def test_batches_are_as_large_as_their_tokens_allow_and_no_larger():
    sizes = GenerationSettings(max_new_tokens=20, batch_size=32, batch_tokens=1000)
    batches = plan_batches(LENGTHS, sizes)
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert all(batch_tokens([LENGTHS[row] for row in batch], sizes) <= 1000 for batch in batches)
    assert {len(batch) for batch in batches if LENGTHS[batch[0]] > 90} == {1000 // 121}
    assert max(map(len, batches)) == 32


def test_a_prompt_that_is_too_long_for_a_batch_is_computed_alone():
    sizes = GenerationSettings(max_new_tokens=1, batch_size=4, batch_tokens=10)
    assert plan_batches([50, 4, 4, 60], sizes) == [[3], [0], [1, 2]]
