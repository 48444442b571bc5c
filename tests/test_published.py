"""Benchmarks from data sets: each published schema, the prompts made of it, and what is refused."""

import json
import pickle
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions, Question
from actframe.benchmarks.opening import open_benchmark
from actframe.benchmarks.prompting import PROMPT_STYLES, Prompting
from actframe.benchmarks.published import DatasetBenchmark
from actframe.benchmarks.rows import read_rows
from actframe.errors import ActframeError, BenchmarkError
from actframe.registry import registry

DATA = Path(__file__).parent / "data" / "benchmarks"
NAMES = sorted(path.name for path in DATA.iterdir() if not path.name.endswith("_csv"))


def opened(name, data=None, **options):
    return open_benchmark(name, BenchmarkOptions(data=str(data or DATA / name), **options))


def by_text(benchmark, text):
    (question,) = [question for question in benchmark.questions() if text in question.text]
    return question


def in_parquet(name, folder):
    """The data of a benchmark as Parquet files that are named as on the hub."""
    for path in sorted((DATA / name).iterdir()):
        configuration = registry().find(BenchmarkAdapter, name).published.configuration or "data"
        in_file = (configuration, path.stem) if path.suffix == ".jsonl" else (path.stem, "train")
        target = folder / in_file[0] / f"{in_file[1]}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(list(read_rows(path))), target)
    return folder


def test_there_are_data_for_every_benchmark_of_a_data_set():
    installed = registry().installed(BenchmarkAdapter)
    assert [
        name for name, found in installed.items() if issubclass(found, DatasetBenchmark) and name != "jsonl"
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_the_same_from_every_format(name, tmp_path):
    expected = list(opened(name).questions())
    assert len(expected) >= 2
    assert list(opened(name, in_parquet(name, tmp_path)).questions()) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_question_has_an_answer_among_its_choices_and_an_id_of_its_own(name):
    questions = list(opened(name).questions())
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert not question.choices or not question.answer or question.answer in question.letters


@pytest.mark.parametrize("style", PROMPT_STYLES)
@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_response_is_right_and_a_wrong_one_is_not(name, style):
    benchmark = opened(name)
    questions = [question for question in benchmark.questions() if question.answer]
    for question in questions:
        assert benchmark.judge(benchmark.reference(question, style), question).correct, question
    first, second = questions[:2]
    if first.answer != second.answer or first.choices != second.choices:
        wrong = next(q for q in questions if q.answer != first.answer)
        assert not benchmark.judge(benchmark.reference(wrong, "direct"), first).correct


@pytest.mark.parametrize("name", NAMES)
def test_examples_never_contain_the_question(name):
    benchmark = opened(name)
    for question in benchmark.questions():
        (example,) = benchmark.examples(question, 1)
        assert example.id != question.id
        assert example.answer
        assert len(benchmark.conversation(question, Prompting(num_fewshot=1, chat=True))) == 3
        with pytest.raises(BenchmarkError, match=rf"{name}.*: 99 examples were asked for, and the split '\w+' has \d"):
            benchmark.examples(question, 99)


@pytest.mark.parametrize("name", NAMES)
def test_it_pickles_without_what_it_read_and_gives_the_same_again(name):
    benchmark = opened(name, seed=5)
    before = pickle.dumps(benchmark)
    questions = list(benchmark.questions())
    benchmark.examples(questions[0], 1)
    assert len(pickle.dumps(benchmark)) == len(before)
    again = pickle.loads(before)
    assert list(again.questions()) == questions
    assert again.identity() == benchmark.identity()
    assert benchmark.identity()["data"] == str(DATA / name)
    json.dumps(benchmark.identity())


@pytest.mark.parametrize("name", NAMES)
def test_each_column_that_is_missing_is_named(name, tmp_path):
    published = registry().find(BenchmarkAdapter, name).published
    path = next(path for path in sorted((DATA / name).iterdir()) if published.split in path.name or "gpqa" in path.name)
    rows = list(read_rows(path))
    for column in published.columns:
        without = tmp_path / f"{path.name.partition('.')[0]}-{published.split}.jsonl"
        without.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != column}) for row in rows))
        with pytest.raises(BenchmarkError, match=rf"line 1 lacks the column '{column}'; it has '"):
            opened(name, without).questions()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mmlu", {"answer": 4}, r"line 1: 'answer' is 4; there are 4 choices, 0 to 3"),
        ("mmlu", {"answer": "E"}, r"line 1: 'answer' is 'E'; there are 4 choices"),
        ("mmlu", {"answer": True}, r"line 1: 'answer' is True; there are 4 choices"),
        ("mmlu", {"question": " "}, r"line 1: 'question' should be a text that is not empty, not ' '"),
        ("mmlu", {"question": None}, r"line 1: 'question' should be a text that is not empty, not None"),
        ("mmlu", {"choices": ["x"], "answer": 0}, r"line 1: 1 choices; there should be 2 to 26"),
        ("mmlu", {"choices": ["x"] * 27, "answer": 0}, r"line 1: 27 choices; there should be 2 to 26"),
        ("mmlu", {"choices": ["x", None]}, r"line 1: 'choices' should be a list of texts, not \['x', None\]"),
        ("mmlu_pro", {"answer": "A"}, r"line 1: 'answer' is 'A', and 'answer_index' 2 means 'C'"),
        ("mmlu_pro", {"answer": "E", "answer_index": 4}, r"the answer 'E' is an option that says 'N/A'"),
        ("mmlu_pro", {"options": ["x"] * 27}, r"27 choices; there should be 2 to 26"),
        ("gsm8k", {"answer": "42"}, r"'answer' should end in '#### ' and a number, not '42'"),
        ("gsm8k", {"answer": "#### many"}, r"'answer' should end in '#### ' and a number"),
        ("arc_easy", {"answerKey": "F"}, r"'answerKey' is 'F', which is none of the labels A, B, C, D"),
        ("arc_easy", {"choices": ["a", "b"]}, r"'choices' should hold texts under 'text' and 'label'"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["A", "B"]}}, r"'choices' has 1 texts and 2 labels"),
        ("arc_easy", {"id": "Own_2"}, r"line 2: the id 'Own_2' is already that of .*test\.jsonl, line 1"),
        ("hellaswag", {"label": "4"}, r"'label' is '4'; there are 4 choices, 0 to 3"),
        ("hellaswag", {"label": "-1"}, r"'label' is '-1'; there are 4 choices"),
        ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"]}}, r"should be an object with 'choices', 'labels'"),
        (
            "truthfulqa",
            {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}},
            r"2 labels, one of them 1 and the",
        ),
        (
            "truthfulqa",
            {"mc1_targets": {"choices": ["a", "b"], "labels": [1]}},
            r"2 labels, one of them 1 and the",
        ),
        ("boolq", {"answer": "maybe"}, r"'answer' should be true or false, not 'maybe'"),
        ("winogrande", {"sentence": "No blank."}, r"'sentence' has no blank \(_\): 'No blank\.'"),
        ("winogrande", {"answer": "3"}, r"'answer' is '3'; there are 2 choices, 1 to 2"),
        ("piqa", {"label": 2}, r"'label' is 2; there are 2 choices, 0 to 1"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_its_place(name, change, message, tmp_path):
    published = registry().find(BenchmarkAdapter, name).published
    first, *others = read_rows(DATA / name / f"{published.split}.jsonl")
    path = tmp_path / f"{published.split}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [first | change, *others]))
    with pytest.raises(BenchmarkError, match=rf"{published.split}\.jsonl.*{message}"):
        opened(name, path).questions()


def test_the_original_csv_files_of_mmlu_are_its_questions():
    original, hub = opened("mmlu", DATA / "mmlu_csv"), opened("mmlu")
    assert sorted(original.questions(), key=lambda q: q.id) == sorted(hub.questions(), key=lambda q: q.id)
    question = by_text(original, "letters has the word")
    assert question.choices == ("3", "4", "None", "NA")
    assert [example.answer for example in original.examples(question, 2)] == ["B", "C"]


def test_examples_of_mmlu_are_of_the_subject():
    benchmark = opened("mmlu")
    with pytest.raises(BenchmarkError, match=r"2 examples .* split 'dev' has 1 for the subject 'knots'"):
        benchmark.examples(by_text(benchmark, "necktie"), 2)


def test_rows_that_are_alike_have_ids_that_differ(tmp_path):
    rows = list(read_rows(DATA / "mmlu" / "test.jsonl"))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in [rows[0], *rows]))
    ids = [question.id for question in opened("mmlu", tmp_path).questions()]
    assert ids[1] == f"{ids[0]}-2"
    assert [ids[0], *ids[2:]] == [question.id for question in opened("mmlu").questions()]


def test_options_that_only_fill_up_are_left_out_of_mmlu_pro():
    benchmark = opened("mmlu_pro")
    first, second, third = benchmark.questions()
    assert (first.choices, first.answer, first.id) == (("0.5 l", "0.75 l", "1 l", "1.25 l"), "C", "11")
    assert (second.choices[0], len(second.choices), second.answer) == ("Ladle", 6, "F")
    assert (len(third.choices), third.answer) == (10, "C")
    (example,) = benchmark.examples(first, 1)
    assert benchmark.reference(example, "reason") == "Four quarters make a whole.\nThe answer is C."


def test_solutions_of_gsm8k_lose_the_marks_of_the_calculator():
    benchmark = opened("gsm8k")
    question = by_text(benchmark, "baker")
    assert question.answer == "1236"
    assert benchmark.reference(question, "reason") == (
        "The rolls bring 12*3=$36.\nTogether that is 36+1200=$1236.\nThe answer is 1236."
    )
    assert benchmark.judge("She takes 1,236 dollars.\n#### 1,236", question).correct


def test_answers_of_math500_are_compared_as_mathematics(monkeypatch):
    benchmark = opened("math500")
    question = by_text(benchmark, "positive root")
    assert benchmark.judge(r"So $x=\sqrt{12}$, and \boxed{\sqrt{12}}.", question).correct
    assert not benchmark.judge(r"\boxed{-2\sqrt{3}}", question).correct
    assert benchmark.judge("I do not know.", question).answer is None
    assert (question.subject, question.metadata, question.id) == ("Algebra", {"level": 2}, "own/algebra/1.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ActframeError, match=r"needs math-verify, .* pip install \"actframe\[math\]\""):
        benchmark.questions()


def test_shuffled_choices_depend_on_the_seed_and_the_question_alone(tmp_path):
    benchmark = opened("truthfulqa")
    orders = {q.text: q.choices for q in benchmark.questions()}
    rows = list(read_rows(DATA / "truthfulqa" / "validation.jsonl"))
    (tmp_path / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows[::-1]))
    assert {q.text: q.choices for q in opened("truthfulqa", tmp_path).questions()} == orders
    answers = {opened("truthfulqa", seed=seed).questions()[0].answer for seed in range(20)}
    assert answers == set("ABCD")
    for seed in range(5):
        for question, row in zip(opened("truthfulqa", seed=seed).questions(), rows, strict=True):
            assert question.choices[question.letters.index(question.answer)] == row["mc1_targets"]["choices"][0]


def test_gpqa_has_three_sets_told_apart_by_file():
    assert len(opened("gpqa").questions()) == len(opened("gpqa:diamond", DATA / "gpqa").questions()) == 2
    main = opened("gpqa:main", DATA / "gpqa").questions()
    assert {q.choices[q.letters.index(q.answer)] for q in main} == {"1/3", "12", "None"}
    with pytest.raises(BenchmarkError, match="has no set 'easy'; there are diamond, main, extended"):
        opened("gpqa:easy", DATA / "gpqa")


def test_a_question_whose_answer_is_hidden_stays_without_one(tmp_path):
    assert by_text(opened("commonsense_qa"), "Who knows?").answer == ""
    (tmp_path / "test.jsonl").write_text(json.dumps({"goal": "Rest.", "sol1": "a", "sol2": "b", "label": -1}))
    assert opened("piqa", tmp_path, split="test").questions()[0].answer == ""
    with pytest.raises(BenchmarkError, match=r"has no file or folder for the split 'validation'; there: test\.jsonl"):
        opened("piqa", tmp_path).questions()


def test_a_single_file_is_the_split_that_is_meant_and_has_no_examples(tmp_path):
    shutil.copy(DATA / "gsm8k" / "test.jsonl", tmp_path / "anything.jsonl")
    benchmark = opened("gsm8k", tmp_path / "anything.jsonl")
    assert [q.id for q in benchmark.questions()] == [q.id for q in opened("gsm8k").questions()]
    with pytest.raises(BenchmarkError, match=r"is a single file, without a split 'train'; give a folder"):
        benchmark.examples(benchmark.questions()[0], 1)
    with pytest.raises(BenchmarkError, match=r"is a single file, without a split 'validation'"):
        opened("gsm8k", tmp_path / "anything.jsonl", split="validation").questions()


def test_a_folder_without_the_split_says_what_is_there():
    with pytest.raises(BenchmarkError, match=r"split 'validation'; there: test\.jsonl, train\.jsonl"):
        opened("gsm8k", split="validation").questions()


def test_a_split_is_found_in_names_of_files_and_folders(tmp_path):
    for number, name in enumerate(["test/data-0.jsonl", "testing.jsonl", "latest.jsonl", "x/y_test.jsonl"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"question": f"{number}?", "answer": "#### 1"}))
    assert [question.text for question in opened("gsm8k", tmp_path).questions()] == ["0?", "3?"]


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(BenchmarkError, match=r"benchmark 'gsm8k': the split 'test' of '.*' has no rows"):
        opened("gsm8k", tmp_path).questions()


def test_data_that_are_not_there_are_refused_at_once(tmp_path):
    with pytest.raises(BenchmarkError, match=r"no file or folder '.*nowhere'; there: nothing"):
        opened("mmlu", tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="a revision is one of a data set on the hub"):
        opened("mmlu", revision="main")
    with pytest.raises(BenchmarkError, match="benchmark 'mmlu' has no tasks; leave out ':anatomy'"):
        opened("mmlu:anatomy", DATA / "mmlu")


def test_what_an_adapter_raises_is_told_with_the_row(tmp_path):
    class Broken(DatasetBenchmark):
        name = "broken"
        published = registry().find(BenchmarkAdapter, "gsm8k").published

        def read(self, row):
            return Question("", row.values["questoin"], "1")

        def extract_answer(self, response, question):
            return None

    with pytest.raises(BenchmarkError, match=r"jsonl, line 1: benchmark 'broken' cannot read it: KeyError: 'ques"):
        Broken(str(DATA / "gsm8k")).questions()


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_these(name):
    """The golden files were read, line by line, against lm-evaluation-harness 0.4.13 where choices are ranked."""
    benchmark = opened(name)
    question = benchmark.questions()[0]
    parts = []
    for style in PROMPT_STYLES:
        for message in benchmark.conversation(question, Prompting(1, style, "Be exact.", chat=True)):
            parts.append(f"[{style}, {message.role}]\n{message.content}")
    (message,) = benchmark.conversation(question, Prompting(1, "direct", "Be exact.", chat=False))
    parts.append(f"[direct, without a template]\n{message.content}|")
    if "loglikelihood" in benchmark.scorings:
        ranked = benchmark.ranking(question, Prompting(1, chat=False))
        parts.append(f"[ranked]\n{ranked[0].context}|{ranked[0].continuation}|")
        parts += [f"[or]\n{each.context.splitlines()[-1]}|{each.continuation}|" for each in ranked[1:]]
    golden = DATA.parent / "prompts" / f"{name}.txt"
    assert "\n\n".join(parts) + "\n" == golden.read_text(encoding="utf-8")
