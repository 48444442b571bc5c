"""Log-likelihood scoring says what lm-evaluation-harness says: same model, same documents, same prompts."""

import json
import random
import warnings

import pytest
import yaml

from actframe import BenchmarkAdapter, Question
from actframe.benchmarks.general import General
from actframe.benchmarks.prompting import Completion, Prompting
from actframe.runs.choices import make_ranking
from actframe.runs.likelihood import rank_batch
from actframe.runs.models import LoadedModel, load_model
from actframe.testing import tiny_model, tiny_tokenizer

BATCH = 10

TEXTS = {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"}
LETTERS = {
    "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
    "doc_to_choice": ["A", "B", "C", "D"],
}
"""How a task of the harness puts a question: the texts of the choices are compared, or their letters."""


class Letters(BenchmarkAdapter):
    """Facts, and sums of two numbers with four numbers to choose from; its choices are compared by their letters."""

    name = "facts"

    def __init__(self, count):
        self.count = count

    def questions(self):
        facts = list(General().questions())
        draw = random.Random(5)
        for number in range(self.count):
            if number % 2 and number // 2 < len(facts):
                yield facts[number // 2]
                continue
            first, second = draw.randint(2, 99), draw.randint(2, 99)
            choices = draw.sample(sorted({first + second + off for off in (-10, -1, 0, 1, 2, 10)} - {0}), 4)
            if first + second not in choices:
                choices[draw.randrange(4)] = first + second
            text = f"What is {first} + {second}?"
            yield Question(
                f"sum/{number}", text, "ABCD"[choices.index(first + second)], choices=tuple(map(str, choices))
            )

    def extract_answer(self, response, question):
        return None

    def examples(self, question, count):
        return [each for each in self.questions() if each.id != question.id][:count]


class Texts(Letters):
    """The same, compared by the texts of the choices."""

    def completions(self, question):
        return [Completion(f"Question: {question.text}\nAnswer:", f" {choice}") for choice in question.choices]


def ours(loaded, benchmark):
    """The log-likelihoods of each question, its letter, and whether it is right, plainly and by length."""
    questions = list(benchmark.questions())
    rankings = [make_ranking(loaded, benchmark, question, Prompting(chat=False)) for question in questions]
    # Sorted by length, as a run does.
    order = sorted(range(len(rankings)), key=lambda number: rankings[number].longest)
    found = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        found |= zip(batch, rank_batch(loaded, [rankings[number] for number in batch]), strict=True)
    verdicts = []
    for number, question in enumerate(questions):
        verdict = benchmark.judge_choices(found[number], question)
        values = [value.loglikelihood for value in found[number]]
        greedy = [value.greedy for value in found[number]]
        verdicts.append((values, greedy, verdict.answer, verdict.correct, verdict.metrics["accuracy_norm"]))
    return verdicts


def theirs(loaded, benchmark, task, folder):
    """The same from lm-evaluation-harness, which reads the questions from a file."""
    documents = [
        {"question": each.text, "choices": list(each.choices), "gold": each.letters.index(each.answer)}
        for each in benchmark.questions()
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    config = {
        "task": "our_facts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **task,
    }
    (folder / "our_facts.yaml").write_text(yaml.safe_dump(config))
    with warnings.catch_warnings():
        # Whatever other libraries warn of, it is not ours to answer for.
        warnings.simplefilter("ignore")
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=BATCH)
        results = lm_eval.simple_evaluate(
            model, tasks=["our_facts"], task_manager=manager, bootstrap_iters=0, log_samples=True
        )
    samples = sorted(results["samples"]["our_facts"], key=lambda sample: sample["doc_id"])
    verdicts = []
    for sample in samples:
        values, greedy = zip(*(each[0] for each in sample["resps"]), strict=True)
        values = list(map(float, values))
        letter = "ABCD"[values.index(max(values))]
        verdicts.append((values, [str(each) == "True" for each in greedy], letter, sample["acc"], sample["acc_norm"]))
    return verdicts, results["results"]["our_facts"]


def assert_agreement(loaded, benchmark, task, folder):
    mine = ours(loaded, benchmark)
    other, totals = theirs(loaded, benchmark, task, folder)
    same = 0
    for (values, greedy, letter, *_), (expected, expected_greedy, expected_letter, *_) in zip(mine, other, strict=True):
        assert values == pytest.approx(expected, abs=2e-3)
        assert greedy == expected_greedy
        # Two choices that are equally likely but for the last bits may change places.
        first, second = sorted(expected)[-1:-3:-1]
        assert letter == expected_letter or first - second < 1e-4
        same += letter == expected_letter
    assert same >= 0.99 * len(mine)
    print(f"{same} of {len(mine)} letters are the same")
    assert sum(each[3] for each in mine) / len(mine) == pytest.approx(totals["acc,none"], abs=1e-9)
    assert sum(each[4] for each in mine) / len(mine) == pytest.approx(totals["acc_norm,none"], abs=1e-9)


@pytest.mark.parametrize(("benchmark", "task"), [(Texts, TEXTS), (Letters, LETTERS)])
def test_a_tiny_model_ranks_as_with_lm_evaluation_harness(benchmark, task, tmp_path):
    loaded = LoadedModel("tiny", tiny_model("llama", max_position_embeddings=512), tiny_tokenizer())
    assert_agreement(loaded, benchmark(40), task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "task"), [(Texts, TEXTS), (Letters, LETTERS)])
def test_smollm2_ranks_300_questions_as_with_lm_evaluation_harness(benchmark, task, tmp_path):
    loaded = load_model("smollm2", device="cpu", dtype="float32")
    assert_agreement(loaded, benchmark(300), task, tmp_path)
