"""Every class of transformers that can be built tiny here: recorded bit for bit, or refused with the reason."""

from pathlib import Path

import pytest
from zoo.classes import families
from zoo.page import render, row
from zoo.sweep import sweep

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"

SAMPLE = [
    "albert",
    "bart",
    "bert",
    "blip",
    "bloom",
    "clip",
    "deepseek_v3",
    "gemma3",
    "gemma3n_text",
    "gpt2",
    "hrm_text",
    "idefics3",
    "jamba",
    "llama",
    "mamba",
    "openai-gpt",
    "qwen2_vl",
    "qwen3_moe",
    "resnet",
    "rwkv",
    "swin",
    "t5",
    "vit",
    "wav2vec2",
    "whisper",
    "xlm",
    "xlnet",
]
"""Families that differ in how their blocks are named, nested, called and fed."""


@pytest.fixture(scope="module")
def sampled():
    return sweep(SAMPLE, workers=1)


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_sample_of_the_classes_is_exact_or_refused_as_the_page_says(sampled, kind):
    assert_never_wrong(sampled[kind])
    assert row(kind, sampled[kind]) in PAGE.read_text(encoding="utf-8"), "run: python docs/generate_architectures.py"


@pytest.fixture(scope="module")
def everything():
    return sweep()


@pytest.mark.slow
@pytest.mark.parametrize("kind", families())
def test_every_class_is_exact_or_refused(everything, kind):
    assert_never_wrong(everything[kind])


@pytest.mark.slow
def test_the_page_of_the_architectures_is_up_to_date(everything):
    assert PAGE.read_text(encoding="utf-8") == render(everything), "run: python docs/generate_architectures.py"


@pytest.mark.slow
def test_nearly_all_classes_are_exact(everything):
    exact = [outcome.name for family in everything.values() for outcome in family if outcome.verdict == "exact"]
    assert len(exact) >= 750


def assert_never_wrong(outcomes):
    wrong = {outcome.name: outcome.why for outcome in outcomes if outcome.verdict == "wrong"}
    assert not wrong
