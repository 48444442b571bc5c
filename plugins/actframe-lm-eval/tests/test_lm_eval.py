"""Tasks of the real library, read from local files: the same prompts, and the same metrics as its own evaluation."""

import json
import warnings
from dataclasses import replace
from importlib import metadata

import lm_eval
import pytest
import yaml
from actframe_lm_eval.adapter import LmEval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from actframe import ActivationStore, BenchmarkError, BenchmarkOptions, Prompting, UnknownNameError
from actframe.benchmarks.opening import open_benchmark
from actframe.registry import registry
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.runs.settings import RunSettings
from actframe.testing import BenchmarkAdapterTests, tiny_model, tiny_tokenizer

COUNT = 12

DOCUMENTS = [
    {
        "question": f"What is {number} + {number + 3}?",
        "choices": [str(2 * number + off) for off in (1, 3, 4, 13)],
        "gold": 1,
        "answer": str(2 * number + 3),
    }
    for number in range(COUNT)
]
SHOWN = [{**each, "question": each["question"].replace("What is", "How much is")} for each in DOCUMENTS[:6]]

CHOICES = {
    "task": "sums_ranked",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
FILLED = {
    "task": "sums_filled",
    "output_type": "multiple_choice",
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{[question ~ ' It is ' ~ choices[0], question ~ ' It is ' ~ choices[1]]}}",
    "doc_to_target": " and that is right",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN = {
    "task": "sums_written",
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n", "Q"], "do_sample": False, "max_gen_toks": 8},
    "filter_list": [
        {"name": "first", "filter": [{"function": "regex", "regex_pattern": "^(.)"}, {"function": "take_first"}]},
        {"name": "second", "filter": [{"function": "regex", "regex_pattern": "^.(.)"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


PLAIN = {name: value for name, value in WRITTEN.items() if name != "filter_list"} | {"task": "sums_plain"}


@pytest.fixture(scope="module", params=[CHOICES, FILLED, PLAIN], ids=lambda config: config["task"])
def task(request, tmp_path_factory):
    return LmEval(task_in(tmp_path_factory.mktemp("task"), request.param))


class TestLmEval(BenchmarkAdapterTests):
    @pytest.fixture
    def adapter(self, task):
        return task


@pytest.fixture(scope="module")
def tiny():
    return LoadedModel("tiny", tiny_model("llama", max_position_embeddings=512), tiny_tokenizer())


def task_in(folder, config, documents=None, **more):
    """The YAML file of a task over local documents."""
    for name, rows in (("test", documents or DOCUMENTS), ("train", SHOWN)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {name: str(folder / f"{name}.jsonl") for name in ("test", "train")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "training_split": "train",
        "fewshot_split": "train",
    }
    path = folder / f"{config['task']}.yaml"
    path.write_text(yaml.safe_dump({**data, **config, **more}))
    return str(path)


def harness(loaded, path, **options):
    """What the harness itself says: its samples in the order of the documents, and its totals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = TaskManager(include_defaults=False)
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4)
        found = lm_eval.simple_evaluate(model, tasks=[path], task_manager=manager, bootstrap_iters=0, **options)
    (name,) = found["results"]
    return sorted(found["samples"][name], key=lambda each: (each["filter"], each["doc_id"])), found["results"][name]


def settings(scoring, **more):
    prompting = Prompting(chat=False, **more)
    generation = GenerationSettings(max_new_tokens=8, batch_size=4)
    return RunSettings(generation=generation, prompting=prompting, scoring=scoring, capture=CaptureSettings("layer_2"))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_the_benchmark_is_found_through_its_entry_point():
    assert [point.value for point in metadata.entry_points(group="actframe", name="lm_eval")] == ["actframe_lm_eval"]
    from actframe import BenchmarkAdapter

    assert registry().find(BenchmarkAdapter, "lm_eval") is LmEval


@pytest.mark.parametrize(("config", "num_fewshot"), [(CHOICES, 0), (CHOICES, 3), (FILLED, 0), (FILLED, 2)])
def test_ranked_choices_have_the_prompts_and_metrics_of_the_harness(config, num_fewshot, tiny, tmp_path):
    path = task_in(tmp_path, config)
    samples, totals = harness(tiny, path, num_fewshot=num_fewshot or None)
    adapter = open_benchmark(f"lm_eval:{path}")
    assert adapter.scorings == ("loglikelihood",)
    for question, sample in zip(adapter.questions(), samples, strict=True):
        asked = adapter.ranking(question, Prompting(num_fewshot, chat=False))
        assert [(each.context, each.continuation) for each in asked] == [tuple(pair) for pair in sample["arguments"]]
    result = BenchmarkRun(tiny, adapter, tmp_path / "run", settings("loglikelihood", num_fewshot=num_fewshot)).execute()
    assert [answer["question_id"] for answer in result.answers] == [f"{config['task']}/{n}" for n in range(COUNT)]
    for answer, sample in zip(result.answers, samples, strict=True):
        assert answer["loglikelihoods"] == pytest.approx([each[0][0] for each in sample["resps"]], abs=1e-3)
        assert answer["metrics"] == {name: sample[name] for name in answer["metrics"]}
        assert answer["correct"] == bool(sample["acc"])
    for metric in ("acc", "acc_norm")[: len(config["metric_list"])]:
        assert mean(answer["metrics"][metric] for answer in result.answers) == pytest.approx(totals[f"{metric},none"])
    store = ActivationStore(tmp_path / "run")
    assert all(len(record.activations["layer_2"]) == len(record.input_ids) for record in store)


@pytest.mark.parametrize("config", [CHOICES, FILLED])
def test_each_choice_of_a_ranked_task_has_a_record_under_the_id_of_its_question(config, tiny, tmp_path):
    path = task_in(tmp_path, config)
    samples, _ = harness(tiny, path)
    asked, adapter = settings("loglikelihood"), open_benchmark(f"lm_eval:{path}")
    plain = BenchmarkRun(tiny, adapter, tmp_path / "plain", asked).execute()
    result = BenchmarkRun(tiny, adapter, tmp_path / "run", replace(asked, record_choices=True)).execute()
    assert [dict(answer) for answer in result.answers] == [dict(answer) for answer in plain.answers]
    store = ActivationStore(tmp_path / "run")
    for answer, sample in zip(result.answers, samples, strict=True):
        *choices, own = store.where(question_id=answer["question_id"])
        assert "choice" not in own
        assert [record.choice for record in choices] == list(range(len(sample["arguments"])))
        said = [each[0] for each in sample["resps"]]
        assert [record.logprob for record in choices] == pytest.approx([value for value, _ in said], abs=1e-3)
        assert [record.is_greedy for record in choices] == [bool(greedy) for _, greedy in said]
        for record, arguments in zip(choices, sample["arguments"], strict=True):
            assert tiny.tokenizer.decode([*record.input_ids, *record.output_ids]) == "".join(arguments)
            assert len(record.activations["layer_2"]) == len(record.input_ids) + len(record.output_ids)
    right = {record.question_id: record for record in store.where(is_expected=True)}
    assert [right[answer["question_id"]].choice for answer in result.answers] == [each["gold"] for each in DOCUMENTS]
    if config is CHOICES:
        said = [right[answer["question_id"]].choice_text for answer in result.answers]
        assert said == [document["answer"] for document in DOCUMENTS]


def test_what_a_metric_compares_beyond_the_choices_is_recorded_without_a_letter(tiny, tmp_path):
    metrics = [{"metric": "acc"}, {"metric": "acc_mutual_info"}]
    adapter = open_benchmark(f"lm_eval:{task_in(tmp_path, CHOICES, metric_list=metrics)}")
    BenchmarkRun(tiny, adapter, tmp_path / "run", replace(settings("loglikelihood"), record_choices=True)).execute()
    store = ActivationStore(tmp_path / "run")
    for question in adapter.questions():
        *choices, own = store.where(question_id=question.id)
        assert own.metrics.keys() == {"acc", "acc_mutual_info"}
        assert [record.choice_label for record in choices] == ["A", "B", "C", "D", None, None, None, None]
        # Each by itself, behind the token that a text begins with.
        assert [tiny.tokenizer.decode(record.output_ids) for record in choices[4:]] == [
            f" {text}" for text in question.choices
        ]
        assert {record.is_expected for record in choices[4:]} == {None}
        assert {record.recorded for record in choices[4:]} == {"replay"}


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_written_answers_have_the_prompts_filters_and_metrics_of_the_harness(num_fewshot, tiny, tmp_path):
    before, _ = harness(tiny, task_in(tmp_path, WRITTEN), num_fewshot=num_fewshot or None)
    said = [sample["resps"][0][0] for sample in before[:COUNT]]
    # What the model says becomes the right answer of every other document, so that both filters are right sometimes.
    documents = [
        {**each, "answer": response[number % 2 : number % 2 + 1] or "x"} if number % 4 < 2 else each
        for number, (each, response) in enumerate(zip(DOCUMENTS, said, strict=True))
    ]
    (tmp_path / "again").mkdir()
    path = task_in(tmp_path / "again", WRITTEN, documents)
    samples, totals = harness(tiny, path, num_fewshot=num_fewshot or None)
    adapter = open_benchmark(f"lm_eval:{path}")
    assert adapter.scorings == ("generate",)
    assert adapter.max_new_tokens("direct") == 8
    result = BenchmarkRun(tiny, adapter, tmp_path / "run", settings("generate", num_fewshot=num_fewshot)).execute()
    first, second = samples[:COUNT], samples[COUNT:]
    for answer, one, other in zip(result.answers, first, second, strict=True):
        assert answer["prompt"] == one["arguments"][0][0]
        assert answer["response"] == one["resps"][0][0]
        assert answer["metrics"] == {
            "exact_match,first": one["exact_match"],
            "exact_match,second": other["exact_match"],
        }
        assert answer["correct"] == bool(one["exact_match"])
    for name in ("first", "second"):
        ours = mean(answer["metrics"][f"exact_match,{name}"] for answer in result.answers)
        assert ours == pytest.approx(totals[f"exact_match,{name}"])
        assert 0 < ours < 1


def test_a_task_keeps_its_own_number_of_examples_where_none_is_given(tiny, tmp_path):
    path = task_in(tmp_path, CHOICES, num_fewshot=2)
    samples, _ = harness(tiny, path)
    adapter = LmEval(path)
    for question, sample in zip(adapter.questions(), samples, strict=True):
        assert adapter.ranking(question, Prompting())[0].context == sample["arguments"][0][0]
        assert adapter.ranking(question, Prompting())[0].context.count("How much") == 2


def test_contexts_do_not_depend_on_the_order_in_which_questions_are_put(tmp_path):
    path = task_in(tmp_path, CHOICES)
    one, other = LmEval(path), LmEval(path)
    questions = list(one.questions())
    prompting = Prompting(3)
    forwards = [one.ranking(question, prompting) for question in questions]
    other.ranking(questions[5], Prompting(1))
    backwards = [other.ranking(question, prompting) for question in reversed(questions)]
    assert forwards == backwards[::-1]


def test_in_a_chat_examples_are_messages(tmp_path):
    adapter = LmEval(task_in(tmp_path, WRITTEN))
    question = next(adapter.questions())
    messages = adapter.conversation(question, Prompting(2, system="Be short.", chat=True))
    assert [each.role for each in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[0].content == "Be short."
    assert messages[-1].content == "Question: What is 0 + 3?\nAnswer:"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]},
            "'loglikelihood_roll",
        ),
        ({"unsafe_code": True}, "runs code that models write"),
        ({"doc_to_image": ["question"]}, "asks about images or sound"),
        ({"repeats": 4}, "wants 4 responses to each question"),
        ({"doc_to_text": "{{question.nothing.there}}"}, "cannot be loaded: "),
    ],
)
def test_tasks_that_are_not_run_are_refused_with_the_reason(changes, message, tmp_path):
    with pytest.raises(BenchmarkError, match=message):
        LmEval(task_in(tmp_path, {**CHOICES, **changes}))


def test_what_is_no_task_is_refused_and_the_nearest_are_named(tmp_path):
    with pytest.raises(BenchmarkError, match="lm_eval needs a task"):
        LmEval.open(BenchmarkOptions())
    with pytest.raises(BenchmarkError, match="has no option 'split'"):
        LmEval.open(BenchmarkOptions(task="x.yaml", split="test"))
    with pytest.raises(BenchmarkError, match="there is no file '.*missing.yaml'"):
        LmEval(str(tmp_path / "missing.yaml"))
    with pytest.raises(BenchmarkError, match="cannot show 9 examples"):
        adapter = LmEval(task_in(tmp_path, CHOICES))
        adapter.ranking(next(adapter.questions()), Prompting(9))


@pytest.mark.slow
def test_an_unknown_name_says_which_tasks_are_near():
    with pytest.raises(UnknownNameError, match="no task 'arc_eesy'; did you mean .*arc_easy"):
        LmEval("arc_eesy")
