import io
import math

import pytest
import torch
from rich.console import Console

from actframe.analysis.similarity import SiteSimilarity
from actframe.analysis.stats import site_stats
from actframe.cli import tables
from actframe.runs.results import RunResult


def draw(table, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None, emoji=False)
    console.print(table)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def answer(number, **changes):
    values = {
        "question_id": f"q{number}",
        "subject": "art" if number % 2 else "law",
        "prompt": f"Question [{number}]?\nA. x\nB. y",
        "expected": "A",
        "extracted_answer": "A",
        "correct": True,
        "unparsed": False,
        "truncated": False,
        "chance": 0.25,
    }
    return {**values, **changes}


def test_layers_that_are_alike_share_a_row():
    layers = [(f"layer_{index}", "(5, 8)", "bfloat16", 80) for index in range(12)]
    odd = [("layer_12", "(5, 9)", "bfloat16", 90), ("logits", "(5, 99)", "float32", 1980)]
    drawn = draw(tables.sites_table("Sites", [*layers, *odd]))
    assert "layer_0 .. layer_11 (12) (5, 8) bfloat16 80 bytes 960 bytes" in drawn
    assert "layer_12 (5, 9) bfloat16 90 bytes 90 bytes" in drawn
    assert "logits (5, 99) float32 2.0 kB 2.0 kB" in drawn


def test_statistics_of_a_large_model_fit_80_columns():
    tensor = torch.full((3, 8192), -0.0123456)
    tensor[1, 8191] = -65504.0
    (row,) = (line for line in draw(tables.stats_table("", [site_stats("layer_79", tensor)])) if "layer_79" in line)
    assert row.split()[1:] == ["-2.68", "417.8", "24570", "1.117", "65500", "@1", "65500", "@1:8191", "0.0%"]


def test_the_column_of_what_is_not_finite_stands_only_where_there_is_some():
    good, bad = torch.ones(2, 2), torch.tensor([[1.0, math.inf]])
    assert "nonfinite" not in " ".join(draw(tables.stats_table("", [site_stats("layer_0", good)])))
    assert "nonfinite" in " ".join(draw(tables.stats_table("", [site_stats("layer_0", bad)]), width=100))


def test_what_cannot_be_computed_is_a_dash():
    similarity = SiteSimilarity("layer_0", math.nan, 0.0, 1.0, None, 2)
    drawn = draw(tables.similarity_table("", [similarity], "last"))
    assert "layer_0 - 0 1" in drawn
    assert "CKA" not in " ".join(drawn)


def test_results_have_a_row_for_each_subject_and_one_for_all():
    answers = [answer(0), answer(1, correct=False), answer(2, correct=False, unparsed=True), answer(3)]
    drawn = draw(tables.results_table("", RunResult({}, answers)))
    assert [line.split()[:3] for line in drawn if line.startswith(("art", "law", "all"))] == [
        ["art", "2", "50.0%"],
        ["law", "2", "50.0%"],
        ["all", "4", "50.0%"],
    ]
    assert any("Guessing gets 25%." in line for line in drawn)
    assert len(draw(tables.results_table("", RunResult({}, answers), by_subject=False))) < len(drawn)


def test_results_of_one_subject_or_without_chance_say_no_more_than_there_is():
    drawn = draw(tables.results_table("", RunResult({}, [answer(1, chance=None), answer(3, chance=None)])))
    assert not any(line.startswith("art") for line in drawn)
    assert "Guessing" not in " ".join(drawn)


def test_chance_has_a_column_where_subjects_differ_in_it():
    drawn = draw(tables.results_table("", RunResult({}, [answer(1, chance=0.5), answer(2, chance=0.25)])))
    assert any("chance" in line for line in drawn)
    assert [line.split()[7] for line in drawn if line.startswith(("art", "law", "all"))] == ["50.0%", "25.0%", "37.5%"]
    assert "Guessing" not in " ".join(drawn)


def test_results_with_the_longest_figures_fit_80_columns_with_whole_names():
    subject = "high_school_government_and_politics"
    answers = [answer(1, subject=subject, chance=None)] + [answer(number, unparsed=True) for number in range(20000)]
    console = Console(file=io.StringIO(), width=80, color_system=None, emoji=False)
    console.print(tables.results_table("", RunResult({}, answers)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in console.file.getvalue()
    assert "".join(line.split(" ")[0] for line in lines if line.startswith(("high", "nt_"))) in subject


def test_results_of_no_answers_say_so():
    assert "No answers." in draw(tables.results_table("", RunResult({}, [])))


@pytest.mark.parametrize("width", [80, 120])
def test_answers_are_listed_with_the_first_line_of_their_question(width):
    given = [answer(1), answer(2, correct=False, unparsed=True, extracted_answer=None)]
    drawn = draw(tables.answers_table("", given), width)
    assert "Question [1]? A A right" in drawn
    assert "Question [2]? - A wrong" in drawn
