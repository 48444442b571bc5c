"""Runs that rank choices by log-likelihood: what the records say, what is recorded, and what is refused."""

import json

import pytest
import torch
from toys import Toy, assert_same_answers, interrupted_at_forward, settings

from actframe import ActivationRecorder, ActivationStore, PromptError, Question, SettingsError
from actframe.benchmarks.prompting import Completion, Prompting
from actframe.capture.selection import Selection
from actframe.runs.choices import make_ranking
from actframe.runs.estimate import estimate_run
from actframe.runs.generation import GenerationSettings
from actframe.runs.likelihood import rank_batch
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.runs.settings import RunSettings

PLAIN = Prompting(chat=False)


class Facts(Toy):
    """Nine questions, whose four choices have between one and nine tokens."""

    name = "facts"

    def completions(self, question):
        words = ("yes", "no", "maybe", "not at all")
        return [Completion(f"Q: {question.text}\nA:", f" {word}") for word in words]


class Filled(Toy):
    """Two candidates are filled into a sentence, and what comes after it is compared; the last begin with them."""

    name = "filled"

    def questions(self):
        for number, blank in enumerate(("The dog saw {} and", "Because {} slept, nobody", "{} did not know that")):
            yield Question(f"filled/{number}", blank, "B", choices=("Ann", "Bob"))

    def completions(self, question):
        return [Completion(question.text.format(name), " it rained.") for name in question.choices]


def ranked(capture=None, **more):
    changed = settings(capture=capture, **more)
    return RunSettings(
        changed.num_trials, changed.limit, changed.generation, capture, scoring="loglikelihood", layout=changed.layout
    )


@pytest.mark.parametrize("layout", ["store", "files"])
def test_answers_say_what_the_likelihoods_of_their_choices_are(layout, tiny, tmp_path):
    result = BenchmarkRun(tiny, Facts(), tmp_path, ranked(layout=layout)).execute()
    assert len(result.answers) == 9
    assert result.circumstances["output_tokens"] == 0
    for question, answer in zip(Facts().questions(), result.answers, strict=True):
        ranking = make_ranking(tiny, Facts(), question, PLAIN)
        likelihoods = rank_batch(tiny, [ranking])[0]
        verdict = Facts().judge_choices(likelihoods, question)
        assert answer["question_id"] == question.id
        assert answer["loglikelihoods"] == pytest.approx([each.loglikelihood for each in likelihoods], abs=1e-4)
        assert answer["greedy"] == [each.greedy for each in likelihoods]
        assert (answer["extracted_answer"], answer["correct"]) == (verdict.answer, verdict.correct)
        assert answer["metrics"] == verdict.metrics
        assert answer["metrics"].keys() == {"accuracy_norm"}
        assert (answer["prompt"], answer["response"]) == (f"Q: {question.text}\nA:", "")
        assert answer["prompt_tokens"] == len(ranking.prompt_ids)
        assert not answer["unparsed"]
        assert not answer["truncated"]


def test_what_is_recorded_is_the_prompt_alone(tiny, tmp_path):
    result = BenchmarkRun(tiny, Facts(), tmp_path / "recorded", ranked(CaptureSettings())).execute()
    plain = BenchmarkRun(tiny, Facts(), tmp_path / "plain", ranked()).execute()
    assert result.summary == plain.summary
    store = ActivationStore(tmp_path / "recorded")
    assert len(store) == 9
    for record in store:
        with torch.no_grad(), ActivationRecorder(tiny.model) as recorder:
            tiny.model(torch.tensor([tiny.tokenizer(record.prompt).input_ids]))
        (alone,) = recorder.records
        assert record.input_ids == alone.input_ids
        assert record.positions == alone.positions
        assert list(record.activations) == list(alone.activations)
        for site, tensor in alone.activations.items():
            torch.testing.assert_close(record.activations[site], tensor, atol=1e-5, rtol=1e-4)
        assert record.output_ids == []
        assert record.response == ""
        assert len(record.loglikelihoods) == 4


def test_selections_mean_what_they_mean_where_answers_are_generated(tiny, tmp_path):
    capture = CaptureSettings(Selection(["layer_1"], positions="last_prompt"))
    BenchmarkRun(tiny, Facts(), tmp_path, ranked(capture)).execute()
    for record in ActivationStore(tmp_path):
        assert record.positions == [len(record.input_ids) - 1]
        assert record.activations["layer_1"].shape == (1, 32)


def test_where_contexts_differ_what_they_begin_with_is_the_prompt(tiny, tmp_path):
    result = BenchmarkRun(tiny, Filled(), tmp_path, ranked(CaptureSettings())).execute()
    store = ActivationStore(tmp_path)
    prompts = {record.question_id: (record.prompt, record.input_ids, list(record.activations)) for record in store}
    sites = ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3"]
    ids = {text: tiny.tokenizer(text).input_ids for text in ("The dog saw ", "Because ")}
    assert prompts == {
        "filled/0": ("The dog saw ", ids["The dog saw "], sites),
        "filled/1": ("Because ", ids["Because "], sites),
        # They begin with the candidates: there is nothing that could be recorded.
        "filled/2": ("", [], []),
    }
    for question, answer in zip(Filled().questions(), result.answers, strict=True):
        likelihoods = rank_batch(tiny, [make_ranking(tiny, Filled(), question, PLAIN)])[0]
        assert answer["loglikelihoods"] == pytest.approx([each.loglikelihood for each in likelihoods], abs=1e-4)


def test_a_run_that_was_interrupted_goes_on_as_it_would_have_gone(tiny, tmp_path):
    asked = ranked(CaptureSettings())
    BenchmarkRun(tiny, Facts(), tmp_path / "whole", asked).execute()
    with interrupted_at_forward(tiny.model, 12), pytest.raises(KeyboardInterrupt):
        BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked).execute()
    resumed = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked).execute()
    assert 0 < resumed.new < 9
    assert_same_answers(ActivationStore(tmp_path / "parts"), ActivationStore(tmp_path / "whole"))


def test_a_batch_that_memory_does_not_suffice_for_is_halved_also_when_its_prompts_are_recorded_already(tiny, tmp_path):
    widths = []

    def refuse(module, args, kwargs, output):
        rows, width = kwargs["input_ids"].shape
        widths.append((rows, width))
        # The pass over the prompts fits, and those that go on from it do not.
        if (
            rows > 2
            and kwargs.get("past_key_values") is not None
            and kwargs["past_key_values"].get_seq_length() > width
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")

    run = BenchmarkRun(tiny, Facts(), tmp_path / "halved", ranked(CaptureSettings()))
    with (
        tiny.model.register_forward_hook(refuse, with_kwargs=True),
        pytest.warns(RuntimeWarning, match="memory does not suffice"),
    ):
        run.execute()
    plain = BenchmarkRun(tiny, Facts(), tmp_path / "plain", ranked(CaptureSettings())).execute()
    assert max(rows for rows, _ in widths) == 4
    assert [answer["extracted_answer"] for answer in run.result.answers] == [
        answer["extracted_answer"] for answer in plain.answers
    ]
    assert [record.input_ids for record in ActivationStore(tmp_path / "halved")] == [
        record.input_ids for record in ActivationStore(tmp_path / "plain")
    ]


def test_another_scoring_or_another_choice_is_another_run(tiny, tmp_path):
    BenchmarkRun(tiny, Facts(), tmp_path, ranked()).execute()
    with pytest.raises(SettingsError, match="scoring"):
        BenchmarkRun(tiny, Facts(), tmp_path, settings())

    class Other(Facts):
        def completions(self, question):
            return [*super().completions(question)[:3], Completion(f"Q: {question.text}\nA:", " never")]

    with pytest.raises(SettingsError, match="benchmark.fingerprint"):
        BenchmarkRun(tiny, Other(), tmp_path, ranked())


@pytest.mark.parametrize("options", [{"num_trials": 2}, {"num_trials": 2, "temperature": 1.0}, {"temperature": 0.5}])
def test_more_trials_or_a_temperature_are_refused_because_nothing_is_drawn(options):
    num_trials = options.pop("num_trials", 1)
    with pytest.raises(SettingsError, match="no effect where choices are ranked .* nothing is drawn"):
        RunSettings(num_trials, generation=GenerationSettings(**options), scoring="loglikelihood")


def test_a_benchmark_that_is_not_scored_so_says_how_it_is(tiny, tmp_path):
    class Written(Toy):
        name = "written"
        scorings = ("generate",)

    with pytest.raises(SettingsError, match="'written' is not scored by 'loglikelihood'; it is by generate"):
        BenchmarkRun(tiny, Written(), tmp_path, ranked())


def test_choices_that_do_not_fit_the_context_are_counted_and_left_out(tiny, tmp_path):
    class Long(Facts):
        def completions(self, question):
            # Fits with all choices but the last, which has nine tokens more.
            before = "x" * 120 if question.id == "toy/3" else "Q:"
            return [Completion(before, continuation) for continuation in (" a", " b", " c", " ten or so")]

    with pytest.warns(RuntimeWarning, match="1 of 9 questions are left out: with their choices .* which is 128 tokens"):
        run = BenchmarkRun(tiny, Long(), tmp_path, ranked())
    result = run.execute()
    assert run.plan.too_long == ["toy/3"]
    assert len(result.answers) == 8
    assert json.loads((tmp_path / "results.json").read_text())["too_long"] == ["toy/3"]

    class Longer(Facts):
        def completions(self, question):
            return [Completion("x" * 130, " a"), Completion("x" * 130, " b")]

    with pytest.raises(
        PromptError, match="every question of 'facts' is too long for 'tiny': .* 131 tokens, which do not"
    ):
        BenchmarkRun(tiny, Longer(), tmp_path / "longer", ranked())


def test_no_chat_template_is_used_unless_it_is_asked_for(tiny, tmp_path):
    before = tiny.tokenizer.chat_template
    tiny.tokenizer.chat_template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    try:
        plain = BenchmarkRun(tiny, Facts(), tmp_path / "a", ranked())
        asked = RunSettings(scoring="loglikelihood", prompting=Prompting(chat=True))
        chat = BenchmarkRun(tiny, Facts(), tmp_path / "b", asked)
        generated = BenchmarkRun(tiny, Facts(), tmp_path / "c", settings())
    finally:
        tiny.tokenizer.chat_template = before
    assert [run.plan.prompting.chat for run in (plain, chat, generated)] == [False, True, True]
    assert tiny.tokenizer.decode(chat.plan.jobs[0].input_ids) == "<Q: one?\nA:>"
    assert chat.plan.jobs[0].prompt == plain.plan.jobs[0].prompt == "Q: one?\nA:"


def test_examples_stand_before_the_question(tiny, tmp_path):
    class Shown(Facts):
        def examples(self, question, count):
            return [each for each in self.questions() if each.id != question.id][:count]

    asked = RunSettings(limit=3, scoring="loglikelihood", prompting=Prompting(num_fewshot=2, system="Answer."))
    run = BenchmarkRun(tiny, Shown(), tmp_path, asked)
    assert run.plan.jobs[2].prompt == "Answer.\n\nQ: one?\nA: yes\n\nQ: the second question is long\nA: yes\n\nQ: 3\nA:"
    assert tiny.tokenizer.decode(run.plan.jobs[2].choice_ids[3]) == f"{run.plan.jobs[2].prompt} not at all"


def test_the_estimate_counts_prompts_and_no_responses(tiny, tmp_path):
    estimate = estimate_run(BenchmarkRun(tiny, Facts(), tmp_path, ranked(CaptureSettings())))
    assert estimate.answers == 9
    assert estimate.output_tokens == 0
    assert estimate.disk_bytes > 0
    assert estimate.disk_bytes_max <= 1.5 * estimate.disk_bytes
