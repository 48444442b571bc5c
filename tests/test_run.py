"""Benchmark runs: every answer joined with its own activations, on disk as it comes, whatever ends the run."""

import copy
import json
import resource
from dataclasses import asdict, fields, replace

import pytest
import torch
import toys
from toys import TEXTS, Toy, interrupted_at_forward

from actframe import ActivationStore, Question, Selection, load_activations
from actframe.benchmarks.answers import extract_choice
from actframe.benchmarks.base import Verdict
from actframe.benchmarks.general import General
from actframe.errors import BenchmarkError, ModelError, PromptError, SiteError, StorageError
from actframe.runs.generation import GenerationSettings, generate_responses
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunProgress, RunSettings
from actframe.runs.statistics import summarize, summarize_by_subject


def settings(**options):
    return toys.settings(layout="files", **options)


def lines_in(folder):
    """The answers of a file, in the order of the plan: batches come in another one."""
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["trial"], line["question_id"]))


def bytes_in(folder):
    return sum((folder / name).stat().st_size for name in ["answers.jsonl", *activation_files(folder)])


def activation_files(folder):
    return sorted(path.name for path in folder.glob("benchmark_activations_*"))


def test_every_question_is_answered_graded_and_written(tiny, tmp_path):
    result = BenchmarkRun(tiny, Toy(), tmp_path / "new" / "folder", settings()).execute()
    lines = lines_in(tmp_path / "new" / "folder")
    assert lines == result.answers
    assert sorted(line["question_id"] for line in lines) == [f"toy/{number}" for number in range(9)]
    prompts = [f"Q: {text}" for text in TEXTS]
    alone = dict(zip(prompts, generate_responses(tiny, prompts, settings().generation), strict=True))
    for line in lines:
        response = alone[line["prompt"]]
        assert line["response"] == response.text
        assert (line["prompt_tokens"], line["output_tokens"]) == (response.prompt_tokens, len(response.output_ids))
        assert line["truncated"] == response.truncated
        extracted = Toy().extract_answer(response.text, None)
        assert line["extracted_answer"] == extracted
        assert (line["correct"], line["unparsed"]) == (extracted == "A", extracted is None)
        assert (line["expected"], line["chance"], line["trial"], line["activations"]) == ("A", 0.25, 0, None)
    assert activation_files(tmp_path / "new" / "folder") == []


def test_the_results_are_those_of_the_answers(tiny, tmp_path):
    result = BenchmarkRun(tiny, Toy(), tmp_path, settings(limit=7)).execute()
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == json.loads(json.dumps(result.as_json()))
    lines = lines_in(tmp_path)
    assert len(lines) == 7
    assert written["summary"] == asdict(summarize(lines))
    assert written["by_subject"] == {subject: asdict(each) for subject, each in summarize_by_subject(lines).items()}
    assert (written["partial"], written["reason"]) == (False, None)
    assert (written["model"], written["benchmark"]) == ("tiny", "toy")
    assert written["settings"]["limit"] == 7
    assert written["settings"]["max_new_tokens"] == 6
    assert written["output_tokens"] == sum(line["output_tokens"] for line in lines)


def test_each_activation_file_is_of_the_answer_that_names_it(tiny, tmp_path):
    """The model is run once more over each answer's own ids: a file of another answer would not match."""
    plain = BenchmarkRun(tiny, Toy(), tmp_path / "plain", settings()).execute()
    capture = CaptureSettings(storage="safetensors")
    result = BenchmarkRun(tiny, Toy(), tmp_path / "recorded", settings(capture=capture)).execute()
    assert activation_files(tmp_path / "recorded") == sorted(answer["activations"] for answer in result.answers)
    for answer, without in zip(result.answers, plain.answers, strict=True):
        assert {**answer, "activations": None} == without
        data = load_activations(tmp_path / "recorded" / answer["activations"])
        said = ("prompt", "response", "question_id", "trial", "subject", "expected", "extracted_answer", "correct")
        for key in (*said, "unparsed", "truncated"):
            assert data[key] == answer[key]
        assert data["model"] == "tiny"
        assert data["input_ids"] == tiny.tokenizer(answer["prompt"]).input_ids
        ids = torch.tensor([data["input_ids"] + data["output_ids"]])
        with torch.no_grad():
            states = tiny.model(ids, output_hidden_states=True).hidden_states
        assert list(data["activations"]) == ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3"]
        for site, state in zip(list(data["activations"])[:4], states, strict=False):
            recorded = data["activations"][site]
            assert len(recorded) == len(data["positions"]) == ids.shape[1] - 1
            assert torch.allclose(recorded, state[0, : len(recorded)], atol=1e-5)


@pytest.mark.parametrize("storage", ["pickle", "safetensors", "zstd"])
def test_what_is_selected_is_saved_in_the_format_that_was_asked_for(storage, tiny, tmp_path):
    capture = CaptureSettings(Selection([-1], positions="last_prompt"), storage=storage)
    result = BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=capture, limit=2)).execute()
    for answer in result.answers:
        assert answer["activations"].endswith(capture.suffix)
        data = load_activations(tmp_path / answer["activations"])
        assert {site: tuple(tensor.shape) for site, tensor in data["activations"].items()} == {"layer_3": (1, 32)}
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["settings"]["capture"]["storage"] == storage
    assert written["bytes_on_disk"] == bytes_in(tmp_path)


def test_both_strategies_save_the_same(tiny, tmp_path):
    found = []
    for strategy in ("hooks", "output_hidden_states"):
        capture = CaptureSettings(["embeddings", 0, 1], strategy=strategy)
        result = BenchmarkRun(tiny, Toy(), tmp_path / strategy, settings(capture=capture, limit=4)).execute()
        found.append([load_activations(tmp_path / strategy / answer["activations"]) for answer in result.answers])
    for ours, theirs in zip(*found, strict=True):
        assert ours["question_id"] == theirs["question_id"]
        assert all(torch.equal(tensor, theirs["activations"][site]) for site, tensor in ours["activations"].items())


def test_trials_answer_every_question_anew_and_the_seed_repeats_them(tiny, tmp_path):
    drawn = settings(num_trials=3, temperature=1.0, seed=5)
    result = BenchmarkRun(tiny, Toy(), tmp_path / "a", drawn).execute()
    keys = [(answer["question_id"], answer["trial"]) for answer in result.answers]
    assert sorted(keys) == [(f"toy/{number}", trial) for number in range(9) for trial in range(3)]
    responses = {}
    for answer in result.answers:
        responses.setdefault(answer["question_id"], set()).add(answer["response"])
    assert all(len(each) > 1 for each in responses.values())
    assert (result.summary.questions, result.summary.answers) == (9, 27)
    assert BenchmarkRun(tiny, Toy(), tmp_path / "b", drawn).execute().answers == result.answers
    other = settings(num_trials=3, temperature=1.0, seed=6)
    assert BenchmarkRun(tiny, Toy(), tmp_path / "c", other).execute().answers != result.answers


def test_progress_is_told_after_each_answer(tiny, tmp_path):
    told = []
    capture = CaptureSettings("layer_0")
    result = BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=capture)).execute(told.append)
    assert [each.done for each in told] == [*range(10), 9]
    assert {each.total for each in told} == {9}
    for field in fields(RunProgress):
        values = [each.written.bytes_on_disk if field.name == "written" else getattr(each, field.name) for each in told]
        assert values == sorted(values)
    assert told[0].accuracy == told[0].tokens_per_second == 0
    assert told[-1].correct == sum(answer["correct"] for answer in result.answers)
    assert told[-1].accuracy == pytest.approx(result.summary.accuracy)
    assert told[-1].tokens == sum(answer["output_tokens"] for answer in result.answers)
    assert told[-1].tokens_per_second > 0
    assert told[-1].written.bytes_on_disk == bytes_in(tmp_path)


def assert_kept(folder, done, reason):
    """What a run that ended early leaves: whole answers, their activations, and results that say so."""
    lines = lines_in(folder)
    assert len(lines) == done
    assert sorted(line["activations"] for line in lines) == activation_files(folder)
    for line in lines:
        assert load_activations(folder / line["activations"])["question_id"] == line["question_id"]
    written = json.loads((folder / "results.json").read_text())
    assert written["partial"] is True
    assert reason in written["reason"]
    assert written["answers"] == {"done": done, "total": 9}
    assert written["summary"] == (asdict(summarize(lines)) if lines else None)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("calls", [2, 10])
def test_an_interrupt_while_the_model_runs_keeps_what_is_finished(calls, tiny, tmp_path):
    """Ten forwards: one to see how large answers are, six of the first batch of four, and half of the second."""
    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=CaptureSettings()))
    with interrupted_at_forward(tiny.model, calls), pytest.raises(KeyboardInterrupt):
        run.execute()
    assert_kept(tmp_path, 0 if calls == 2 else 4, "interrupted")
    assert len(run.execute().answers) == 9


def test_an_interrupt_between_two_answers_keeps_what_is_finished(tiny, tmp_path):
    def interrupt(progress):
        if progress.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=CaptureSettings())).execute(interrupt)
    assert_kept(tmp_path, 6, "interrupted")


def test_a_full_disk_keeps_what_is_finished_and_says_why_it_ended(tiny, tmp_path):
    """A limit on the size of files is what a test can have of a full disk: the longest answer's file exceeds it."""
    whole = BenchmarkRun(tiny, Toy(), tmp_path / "whole", settings(capture=CaptureSettings(), batch_size=1)).execute()
    in_order = sorted(answer["activations"] for answer in whole.answers)
    sizes = [(tmp_path / "whole" / name).stat().st_size for name in in_order]
    assert sizes[0] > sizes[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ordered = settings(capture=CaptureSettings(), batch_size=1)

    def fill(progress):
        if progress.done == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes[2:]) - 1, hard))

    try:
        with pytest.raises(StorageError, match="cannot save to .*benchmark_activations_.*File too large"):
            BenchmarkRun(tiny, Toy(), tmp_path / "full", ordered).execute(fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_kept(tmp_path / "full", 1 + sizes.index(max(sizes[2:]), 2) - 1, "StorageError: cannot save to")


def test_what_an_earlier_run_left_is_renamed_and_kept(tiny, tmp_path):
    first = BenchmarkRun(tiny, Toy(), tmp_path, settings(limit=2)).execute()
    BenchmarkRun(tiny, Toy(), tmp_path, settings(limit=3)).execute()
    assert len(lines_in(tmp_path)) == 3
    (answers,) = tmp_path.glob("answers.*_*.jsonl")
    (results,) = tmp_path.glob("results.*_*.json")
    kept = {line["question_id"]: line for line in map(json.loads, answers.read_text().splitlines())}
    assert kept == {answer["question_id"]: answer for answer in first.answers}
    assert json.loads(results.read_text())["settings"]["limit"] == 2


class Broken(Toy):
    name = "broken"

    def extract_answer(self, response, question):
        if question.id == "toy/3":
            raise ValueError("no idea")
        return super().extract_answer(response, question)


def test_an_adapter_that_fails_on_one_response_does_not_stop_the_run(tiny, tmp_path):
    with pytest.warns(RuntimeWarning, match=r"'broken' failed on the response to question 'toy/3' .*no idea"):
        result = BenchmarkRun(tiny, Broken(), tmp_path, settings()).execute()
    (failed,) = [answer for answer in result.answers if answer["question_id"] == "toy/3"]
    assert (failed["extracted_answer"], failed["correct"], failed["unparsed"]) == (None, False, True)
    assert len(result.answers) == 9


class Elsewhere(Toy):
    """A benchmark whose questions are given."""

    def __init__(self, *questions, fails=False):
        self._questions, self._fails = questions, fails

    def questions(self):
        return self._questions

    def prompt(self, question):
        return question.text if not self._fails else {}["missing"]


FINE = Question("fine", "fine?", "A")


@pytest.mark.parametrize(
    ("benchmark", "error", "message"),
    [
        (Elsewhere(), BenchmarkError, "benchmark 'toy' has no questions"),
        (Elsewhere(FINE, FINE), BenchmarkError, "two questions with the id 'fine'"),
        (Elsewhere(FINE, fails=True), BenchmarkError, "failed to make the prompt of question 'fine': KeyError"),
        (Elsewhere(FINE, Question("q2", "", "A")), BenchmarkError, "question 'q2' of 'toy' has no text"),
        (Elsewhere(Question("q3", "x" * 200, "A")), PromptError, "every question of 'toy' is too long .* 200 tokens"),
    ],
)
def test_bad_questions_are_found_before_the_model_runs(benchmark, error, message, tiny, tmp_path):
    with pytest.raises(error, match=message):
        BenchmarkRun(tiny, benchmark, tmp_path / "never", settings())
    assert not (tmp_path / "never").exists()


def test_a_site_that_the_model_does_not_have_is_found_before_the_model_runs(tiny, tmp_path):
    with pytest.raises(SiteError, match="no layer 7: the number of layers is 4"):
        BenchmarkRun(tiny, Toy(), tmp_path / "never", settings(capture=CaptureSettings([0, 7])))
    assert not (tmp_path / "never").exists()


def test_a_folder_that_cannot_be_written_is_found_before_the_model_runs(tiny, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=f"cannot write to the folder {folder}"):
            BenchmarkRun(tiny, Toy(), folder, settings())


def test_a_model_without_a_tokenizer_is_found_before_it_runs(tiny, tmp_path):
    with pytest.raises(ModelError, match="has no tokenizer"):
        BenchmarkRun(LoadedModel("bare", tiny.model), Toy(), tmp_path, settings())


def test_smollm2_answers_bundled_questions_with_its_activations(smollm2, tmp_path):
    chosen = RunSettings(
        limit=3,
        generation=GenerationSettings(max_new_tokens=8, batch_size=3),
        capture=CaptureSettings(Selection(["embeddings", -1], positions="last_prompt")),
        layout="files",
    )
    result = BenchmarkRun(smollm2, General(), tmp_path, chosen).execute()
    assert {answer["question_id"] for answer in result.answers} == {q.id for q in list(General().questions())[:3]}
    assert (result.summary.questions, result.summary.chance) == (3, 0.25)
    for answer in result.answers:
        data = load_activations(tmp_path / answer["activations"])
        assert data["model"] == "smollm2"
        assert data["activations"]["layer_29"].shape == (1, 576)
        assert data["activations"]["layer_29"].dtype == torch.bfloat16
        assert smollm2.tokenizer.decode(data["input_ids"]).endswith("<|im_start|>assistant\n")
        assert data["prompt"] in smollm2.tokenizer.decode(data["input_ids"])


def test_questions_that_do_not_fit_the_context_are_left_out_counted_and_named(tiny, tmp_path):
    long = [Question(f"long/{number}", "x" * 200, "A") for number in range(4)]
    with pytest.warns(
        RuntimeWarning, match=r"4 of 5 questions are left out: with 6 new .* 128 tokens \(long/0, .*\.\.\."
    ):
        result = BenchmarkRun(tiny, Elsewhere(*long[:2], FINE, *long[2:]), tmp_path, settings()).execute()
    assert [answer["question_id"] for answer in result.answers] == ["fine"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["too_long"] == result.circumstances["too_long"] == [question.id for question in long]
    assert (written["partial"], written["answers"]) == (False, {"done": 1, "total": 1})


@pytest.mark.parametrize("layout", ["store", "files"])
def test_batches_that_memory_does_not_suffice_for_are_halved_and_lose_nothing(layout, tiny, tmp_path):
    """A real allocation that fails, in the middle of `generate`, wherever there are more than two rows."""
    chosen = toys.settings(capture=CaptureSettings(), layout=layout, temperature=1.0)
    whole = BenchmarkRun(tiny, Toy(), tmp_path / "whole", chosen).execute()
    run = BenchmarkRun(tiny, Toy(), tmp_path / "halved", chosen)
    steps = []

    def allocate(module, arguments):
        steps.append(arguments[0].shape[0])
        if arguments[0].shape[0] > 2 and arguments[0].shape[1] == 1:
            torch.empty(1 << 50, dtype=torch.uint8)

    with (
        tiny.model.model.layers[2].register_forward_pre_hook(allocate),
        pytest.warns(RuntimeWarning, match="memory does not suffice for batches of") as said,
    ):
        halved = run.execute()
    assert len([each for each in said if "memory" in str(each.message)]) == 1
    # The prompts and the step that fails, of two batches: the second has fewer tokens, and is worth a try.
    assert steps.count(4) == 4
    left_out = {"activations": None}
    assert [{**each, **left_out} for each in halved.answers] == [{**each, **left_out} for each in whole.answers]
    (sitting,) = json.loads((tmp_path / "halved" / "results.json").read_text())["sittings"]
    assert sitting["halved_from_tokens"] > 0
    assert json.loads((tmp_path / "whole" / "results.json").read_text())["sittings"][0]["halved_from_tokens"] is None
    if layout == "store":
        records = list(ActivationStore(tmp_path / "halved"))
        assert sorted(record.question_id for record in records) == sorted(f"toy/{number}" for number in range(9))
        assert max(record.batch_size for record in records) == 2


class Thinking(Toy):
    """The answer is what stands behind the thought."""

    def __init__(self):
        self.seen = []

    def extract_answer(self, response, question):
        self.seen.append(response)
        return extract_choice(response, question.choices, question.letters)


@pytest.mark.parametrize("template", ["<think>\n", "<think>", ""])
def test_a_thought_that_the_prompt_opens_is_given_back_to_the_benchmark(template, tiny, tmp_path):
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" + f"{{{{ {template!r} }}}}"
    loaded = LoadedModel("tiny", tiny.model, tokenizer)
    benchmark = Thinking()
    result = BenchmarkRun(loaded, benchmark, tmp_path, settings()).execute()
    begun = "<think>\n" if template else ""
    assert sorted(benchmark.seen) == sorted(begun + answer["response"] for answer in result.answers)
    assert all(not answer["response"].startswith("<think>") for answer in result.answers)
    if template:
        assert all(answer["unparsed"] and answer["truncated"] for answer in result.answers)


class Unanswered(Toy):
    """Nobody knows the answers, and each response has a figure of its own."""

    def questions(self):
        return [replace(question, answer="") for question in super().questions()]

    def judge(self, response, question):
        return Verdict(response[:1], False, {"length": float(len(response))})


@pytest.mark.parametrize("layout", ["store", "files"])
def test_answers_that_nobody_can_grade_are_kept_with_their_figures(layout, tiny, tmp_path):
    told = []
    result = BenchmarkRun(tiny, Unanswered(), tmp_path, toys.settings(layout=layout)).execute(told.append)
    assert len(result.answers) == 9
    for answer in result.answers:
        assert (answer["correct"], answer["expected"], answer["unparsed"]) == (None, None, False)
        assert answer["metrics"] == {"length": float(len(answer["response"]))}
    assert (told[-1].done, told[-1].ungraded, told[-1].accuracy) == (9, 9, 0.0)


def test_only_questions_of_the_wanted_subjects_are_asked(tiny, tmp_path):
    chosen = replace(settings(limit=3), subjects=("s1",))
    result = BenchmarkRun(tiny, Toy(), tmp_path, chosen).execute()
    assert [answer["question_id"] for answer in result.answers] == ["toy/1", "toy/3", "toy/5"]
    with pytest.raises(BenchmarkError, match="no subject 's2'; it has s0, s1"):
        BenchmarkRun(tiny, Toy(), tmp_path, replace(chosen, subjects=("s2",)))
