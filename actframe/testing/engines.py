"""ExecutionEngineTests: what every engine must do, for the tests of yours.

from actframe.testing import ExecutionEngineTests

class TestPoolEngine(ExecutionEngineTests):
    @pytest.fixture
    def engine(self):
        return PoolEngine(workers=2)
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message, Prompting
from actframe.capture.selection import Selection
from actframe.runs.engines import ExecutionEngine
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunSettings
from actframe.runs.text_data import TextData, TextFields
from actframe.runs.text_run import TextRun, TextSettings
from actframe.storage.store import ActivationStore
from actframe.testing.models import tiny_model, tiny_tokenizer

__all__ = ["ExecutionEngineTests", "Lengths", "Refusal", "assert_same_answers"]

QUESTIONS = 24
STUMBLE = 5


class Lengths(BenchmarkAdapter):
    """A benchmark whose answers are the letter of the response's length.

    Args:
        stumbles: raise on the response to one question, which the contract of adapters forbids.
    """

    name = "lengths"

    def __init__(self, stumbles: bool = False) -> None:
        self.stumbles = stumbles

    def questions(self) -> Iterator[Question]:
        for number in range(QUESTIONS):
            text = f"{number}: " + "so " * (number % 7) + "?"
            yield Question(f"lengths/{number}", text, "ABCD"[number % 4], choices=("w", "x", "y", "z"))

    def conversation(self, question: Question, prompting: Prompting) -> list[Message]:
        return [Message("user", question.text)]

    def extract_answer(self, response: str, question: Question) -> str | None:
        if self.stumbles and question.id == f"lengths/{STUMBLE}":
            raise ValueError("no idea what this is")
        return None if len(response) % 5 == 0 else "ABCD"[len(response) % 4]


class Refusal:
    """A hook under which a model fails on every prompt that has a token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, module: Any, given: tuple[Any, ...]) -> None:
        # What is generated comes one by one, and may be anything.
        if given[0].shape[1] > 1 and bool((given[0] == self.token).any()):
            raise RuntimeError(f"the model does not like token {self.token}")


def assert_same_answers(found: ActivationStore, expected: ActivationStore, key: str = "question_id") -> None:
    """Two stores have the same records, each once, with the same answers; activations may differ in their last bits."""
    ours, wanted = (sorted(str(record[key]) for record in store) for store in (found, expected))
    missing, more = sorted({*wanted} - {*ours}), sorted({each for each in ours if ours.count(each) > 1})
    assert ours == wanted, f"missing in the store: {missing}; there more than once: {more}"
    theirs = {record[key]: record for record in expected}
    for record in found:
        other = theirs[record[key]]
        own = {"timestamp": None, "activations": None, "device": None}
        assert {**record, **own} == {**other, **own}
        assert list(record.activations) == list(other.activations)
        for site, tensor in record.activations.items():
            torch.testing.assert_close(tensor, other.activations[site])


class ExecutionEngineTests:
    """Subclass this with a fixture `engine`: an instance of yours, with two workers if it can have several.

    The tests run a tiny model with random weights, which is pickled whole, over two dozen questions.
    """

    @pytest.fixture
    def engine(self) -> ExecutionEngine:
        """The engine under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `engine` that returns the engine under test")

    @pytest.fixture
    def loaded(self) -> LoadedModel:
        """The model that answers."""
        return LoadedModel("tiny", tiny_model("llama"), tiny_tokenizer())

    @pytest.fixture
    def settings(self) -> RunSettings:
        """Six batches of four, of which the last two layers are recorded, and little is kept back."""
        capture = CaptureSettings(Selection([-2, -1], positions="last_prompt"))
        return RunSettings(
            generation=GenerationSettings(max_new_tokens=5, batch_size=4), capture=capture, flush_every=4
        )

    @pytest.fixture
    def expected(self, loaded: LoadedModel, settings: RunSettings, tmp_path: Path) -> ActivationStore:
        """What the engine `local` makes of the questions."""
        BenchmarkRun(loaded, Lengths(), tmp_path / "local", settings).execute()
        return ActivationStore(tmp_path / "local")

    def test_it_is_a_dataclass_whose_options_the_command_line_can_offer(self, engine: ExecutionEngine) -> None:
        assert dataclasses.is_dataclass(type(engine)), f"{type(engine).__name__} is no dataclass"
        types = typing.get_type_hints(type(engine))
        options: Any = engine
        for option in dataclasses.fields(options):
            assert option.metadata["help"], f"{option.name} says nothing about itself; use engine_option"
            known = {bool, int, float, str}
            assert {*(typing.get_args(types[option.name]) or (types[option.name],))} - {type(None)} <= known
            assert option.default is not dataclasses.MISSING
        assert isinstance(type(engine)(), ExecutionEngine), "an engine without options is what its name alone means"

    def test_a_run_has_the_keys_and_answers_that_the_local_engine_gives(
        self,
        engine: ExecutionEngine,
        loaded: LoadedModel,
        settings: RunSettings,
        expected: ActivationStore,
        tmp_path: Path,
    ) -> None:
        told: list[tuple[int, int]] = []
        run = BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine)
        result = run.execute(lambda now: told.append((now.done, now.correct)))
        assert_same_answers(ActivationStore(tmp_path / "out"), expected)
        assert not result.partial, f"the run says that it is not whole: {result.reason}"
        assert (result.new, len(result.answers)) == (QUESTIONS, QUESTIONS)
        assert told[0] == (0, 0)
        assert told[-1] == (QUESTIONS, sum(bool(record["correct"]) for record in expected))
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert json.loads((tmp_path / "out" / "results.json").read_text())["answers"]["done"] == QUESTIONS
        again = BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine).execute()
        assert again.new == 0

    def test_texts_get_the_records_that_the_local_engine_makes(
        self, engine: ExecutionEngine, loaded: LoadedModel, settings: RunSettings, tmp_path: Path
    ) -> None:
        (tmp_path / "texts.txt").write_text("".join(f"text {'x' * (number % 9)} {number}\n" for number in range(30)))
        data = TextData(str(tmp_path / "texts.txt"), TextFields())
        chosen = TextSettings(settings, batch_tokens=64)
        TextRun(loaded, data, tmp_path / "local", chosen).execute()
        result = TextRun(loaded, data, tmp_path / "out", chosen, engine=engine).execute()
        assert (result.records, result.new) == (30, 30), f"of 30 texts, {result.records} were said to have records"
        found, expected = (ActivationStore(tmp_path / name) for name in ("out", "local"))
        assert_same_answers(found, expected, "text_id")

    def test_an_adapter_that_fails_on_one_response_does_not_stop_the_run(
        self, engine: ExecutionEngine, loaded: LoadedModel, settings: RunSettings, tmp_path: Path
    ) -> None:
        run = BenchmarkRun(loaded, Lengths(stumbles=True), tmp_path / "out", settings, engine=engine)
        with pytest.warns(RuntimeWarning, match=f"question 'lengths/{STUMBLE}'.*no idea what this is"):
            result = run.execute()
        assert not result.partial
        (failed,) = ActivationStore(tmp_path / "out").where(question_id=f"lengths/{STUMBLE}")
        assert (failed["correct"], failed["unparsed"]) == (False, True)

    def test_a_question_on_which_the_model_fails_does_not_stop_the_run(
        self, engine: ExecutionEngine, loaded: LoadedModel, settings: RunSettings, tmp_path: Path
    ) -> None:
        plain = BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine)
        hopeless = plain.plan.jobs[7]
        (token,) = {*hopeless.input_ids} - {token for job in plain.plan.jobs[:7] for token in job.input_ids}
        failing = [job.question.id for job in plain.plan.jobs if token in job.input_ids]
        handle = loaded.model.get_input_embeddings().register_forward_pre_hook(Refusal(token))
        result = plain.execute()
        assert result.partial
        assert f"question {failing[0]!r}" in str(result.reason), (
            f"the run says {result.reason!r}, and names no question"
        )
        assert f"the model does not like token {token}" in str(result.reason)
        done = {record["question_id"] for record in ActivationStore(tmp_path / "out")}
        assert done == {job.question.id for job in plain.plan.jobs} - {*failing}
        handle.remove()
        again = BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine).execute()
        assert (again.partial, again.new) == (False, len(failing))

    def test_what_fails_for_every_question_ends_the_run_with_that_error(
        self, engine: ExecutionEngine, loaded: LoadedModel, settings: RunSettings, tmp_path: Path
    ) -> None:
        run = BenchmarkRun(
            loaded, Lengths(), tmp_path / "out", dataclasses.replace(settings, capture=None), engine=engine
        )
        everywhere = run.plan.jobs[0].input_ids[-1]
        assert all(everywhere in job.input_ids for job in run.plan.jobs)
        handle = loaded.model.get_input_embeddings().register_forward_pre_hook(Refusal(everywhere))
        with pytest.raises(RuntimeError, match="the model does not like token"):
            run.execute()
        handle.remove()
        assert not len(ActivationStore(tmp_path / "out"))

    def test_a_run_that_is_interrupted_keeps_what_it_has_and_goes_on(
        self,
        engine: ExecutionEngine,
        loaded: LoadedModel,
        settings: RunSettings,
        expected: ActivationStore,
        tmp_path: Path,
    ) -> None:
        def interrupt(now: Any) -> None:
            if now.done >= 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine).execute(interrupt)
        kept = len(ActivationStore(tmp_path / "out"))
        assert kept >= 5
        result = BenchmarkRun(loaded, Lengths(), tmp_path / "out", settings, engine=engine).execute()
        assert (result.partial, result.new) == (False, QUESTIONS - kept)
        assert_same_answers(ActivationStore(tmp_path / "out"), expected)
