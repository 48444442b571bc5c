"""Engines: here, and where work arrives pickled; what is done again when workers die, and what is given up."""

import contextlib
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from toys import Toy, assert_same_answers, settings

from actframe import ActivationStore, ExecutionEngine, Outcome, Task, engine_option
from actframe.errors import EngineError, ModelError, SettingsError, StorageError
from actframe.registry import registry
from actframe.runs.attempts import Attempts
from actframe.runs.elsewhere import StorePlace, TravellingModel
from actframe.runs.engines import LocalEngine, Written
from actframe.runs.isolation import Isolation
from actframe.runs.models import LoadedModel, forget_models, load_model
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.testing import ExecutionEngineTests, tiny_model


class TestLocalEngine(ExecutionEngineTests):
    @pytest.fixture
    def engine(self):
        return LocalEngine()


@dataclass(frozen=True)
class Pickling(ExecutionEngine):
    """Workers that get their work as workers in other processes do, and take turns."""

    name = "pickling"
    workers: int = engine_option(2, "How many workers.")

    def run(self, work, tasks):
        copies = [pickle.loads(pickle.dumps(work)) for _ in range(self.workers)]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(copy.worker()) for copy in copies]
            for number, task in enumerate(tasks):
                place = number % len(workers)
                outcome = workers[place].compute_whole(pickle.loads(pickle.dumps(task)))
                yield replace(pickle.loads(pickle.dumps(outcome)), worker=str(place))


def test_a_worker_for_which_there_is_no_task_is_opened_and_closed_in_peace(tiny, tmp_path):
    chosen = settings(capture=CaptureSettings("layer_0"), limit=3)
    given = LoadedModel("tiny", tiny_model("llama"), tiny.tokenizer)
    result = BenchmarkRun(given, Toy(), tmp_path, chosen, engine=Pickling(workers=3)).execute()
    assert (result.partial, result.new) == (False, 3)


class TestPickling(ExecutionEngineTests):
    @pytest.fixture
    def engine(self):
        return Pickling()


@dataclass(frozen=True)
class Mortal(LocalEngine):
    """Its worker dies at some tasks, so often, before anything of them is done."""

    deaths: tuple = ()

    def run(self, work, tasks):
        left = dict(self.deaths)
        object.__setattr__(self, "deaths", tuple((number, count - 1) for number, count in self.deaths if count > 1))

        def survived():
            for task in tasks:
                if left.get(task.number):
                    lost.append(task.number)
                else:
                    yield task

        lost = []
        yield from super().run(work, survived())
        yield from (Outcome(number, lost="shot") for number in lost)


def answers(folder):
    return {record.question_id for record in ActivationStore(folder)}


def test_the_local_engine_is_found_by_its_name():
    assert registry().find(ExecutionEngine, "local") is LocalEngine


def test_tasks_at_which_workers_died_are_done_again(tiny, tmp_path):
    BenchmarkRun(tiny, Toy(), tmp_path / "plain", settings(capture=CaptureSettings())).execute()
    told = []
    engine = Mortal(deaths=((1, 2),))
    run = BenchmarkRun(tiny, Toy(), tmp_path / "out", settings(capture=CaptureSettings()), engine=engine)
    with pytest.warns(RuntimeWarning, match=r"a worker died \(shot\); what it had not written is computed again"):
        result = run.execute(told.append)
    assert (result.partial, result.new) == (False, 9)
    assert [each.done for each in told] == [0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 9]
    assert {each.earlier for each in told} == {0}
    assert_same_answers(ActivationStore(tmp_path / "out"), ActivationStore(tmp_path / "plain"))


def test_a_task_at_which_every_worker_dies_is_given_up_and_named(tiny, tmp_path):
    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(), engine=Mortal(deaths=((0, 9),)))
    with pytest.warns(RuntimeWarning, match="a worker died"):
        result = run.execute()
    assert result.partial
    assert result.new == 5
    lost = {job.question.id for job in run.plan.batches[0]}
    assert answers(tmp_path) == {f"toy/{number}" for number in range(9)} - lost
    assert result.reason.startswith("4 failed (question 'toy/")
    assert result.reason.endswith("3 workers died at it (shot)")
    assert BenchmarkRun(tiny, Toy(), tmp_path, settings()).execute().new == 4


def test_workers_that_die_at_nothing_are_not_replaced_for_ever():
    attempts = Attempts(lambda task: task.items)
    for _ in range(3):
        assert list(attempts.begin([Task(0, "ab")])) == [Task(0, "ab")]
        with pytest.warns(RuntimeWarning, match="a worker died"):
            attempts.take(Outcome(None, lost="out of memory"))
        assert attempts.again
    with pytest.raises(EngineError, match="keep dying where they are at no task: out of memory"):
        list(attempts.begin([]))


def test_tasks_at_which_a_worker_died_come_last():
    attempts = Attempts(lambda task: task.items)
    tasks = [Task(number, "a") for number in range(4)]
    with pytest.warns(RuntimeWarning, match="a worker died"):
        attempts.take(Outcome(1, lost="shot"))
    assert [task.number for task in attempts.begin(tasks)] == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layout": "files"}, "the layout 'files' is written by one process, and the engine 'pickling' has several"),
        ({"max_disk_bytes": 10**9}, "max_disk_bytes .*is kept by one process"),
    ],
)
def test_what_one_process_alone_can_keep_is_refused(more, message, tiny, tmp_path):
    with pytest.raises(SettingsError, match=message):
        BenchmarkRun(tiny, Toy(), tmp_path / "never", settings(**more), engine=Pickling())
    assert not (tmp_path / "never").exists()


def test_a_model_that_was_loaded_by_name_travels_by_its_name(tiny, tmp_path):
    given = LoadedModel("tiny", tiny_model("llama"), tiny.tokenizer)
    given.model.save_pretrained(tmp_path / "tiny")
    tiny.tokenizer.save_pretrained(tmp_path / "tiny")
    loaded = load_model(tmp_path / "tiny", device="cpu")
    packed = pickle.dumps(TravellingModel.of(loaded))
    assert len(packed) < 100_000 < len(pickle.dumps(TravellingModel.of(given)))
    arrived = pickle.loads(packed).load()
    assert arrived.name == loaded.name
    assert all(map(torch.equal, arrived.model.parameters(), loaded.model.parameters()))
    tiny_model("llama", seed=1).save_pretrained(tmp_path / "tiny")
    forget_models()
    with pytest.raises(ModelError, match=r"not that of the run \(there -> here\): weights sha256.*saved in a folder"):
        pickle.loads(packed).load()


def test_a_worker_that_finds_no_store_or_another_one_says_what_machines_must_share(tmp_path):
    place = StorePlace(str(tmp_path / "none"), "safetensors", 1 << 20, None, {"model": "a"})
    with pytest.raises(StorageError, match="cannot open the store of the run: .*at the same path"):
        place.open()
    assert not (tmp_path / "none").exists()
    ActivationStore(tmp_path / "other", run={"model": "b"}).close()
    with pytest.raises(StorageError, match="is not the store of the run; every machine"):
        replace(place, location=str(tmp_path / "other")).open()


def doubled(refused):
    def compute(items):
        if refused & {*items}:
            raise ValueError(f"refused {sorted(refused & {*items})}")
        return [2 * each for each in items]

    return compute


def test_the_item_that_fails_is_left_out_and_the_others_are_computed():
    parts = list(Isolation(len).run(list(range(8)), doubled({2, 5})))
    assert [each for part in parts for each in part.items] == list(range(8))
    assert [part.reason for part in parts if part.result is None] == [
        "ValueError: refused [2]",
        "ValueError: refused [5]",
    ]
    assert [each for part in parts for each in part.result or ()] == [0, 2, 6, 8, 12, 14]


def test_what_fails_again_and_again_is_not_about_the_items():
    isolation = Isolation(len)
    with pytest.raises(ValueError, match=r"refused \[2\]"):
        list(isolation.run(list(range(8)), doubled({*range(8)})))


def test_memory_that_does_not_suffice_for_one_item_costs_that_item():
    def compute(items):
        if len(items) > 2 or 3 in items:
            raise MemoryError
        return items

    isolation = Isolation(len)
    parts = list(isolation.run([1, 2, 3, 4, 5], compute))
    assert [each for part in parts for each in part.result or ()] == [1, 2, 4, 5]
    assert isolation.refused is not None


def test_what_workers_have_written_adds_up():
    assert Written(1, 2, 3, 4.0) + Written(10, 20, 30, 40.0) == Written(11, 22, 33, 44.0)
