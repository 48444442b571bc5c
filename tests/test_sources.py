"""Questions that come with actframe."""

from actframe.benchmarks.base import Question
from actframe.benchmarks.sources import bundled_questions


def test_known_keys_become_attributes_and_the_rest_metadata():
    assert bundled_questions("general.jsonl")[0] == Question(
        "general/geography/01",
        "Which of these countries is landlocked?",
        "C",
        ("Uruguay", "Guyana", "Paraguay", "Ecuador"),
        "geography",
        metadata={"difficulty": "hard"},
    )


def test_bundled_files_are_read_once():
    assert bundled_questions("general.jsonl") is bundled_questions("general.jsonl")
