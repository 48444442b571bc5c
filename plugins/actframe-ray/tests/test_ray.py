"""The engine `ray` on a real Ray cluster of two workers on this machine: also where one of them is killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import ray
from actframe_ray.engine import RayEngine

from actframe import ActivationStore, BenchmarkAdapter, EngineError, ExecutionEngine, Question, SettingsError
from actframe.registry import registry
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunSettings
from actframe.testing import ExecutionEngineTests, tiny_model, tiny_tokenizer

# Ray leaves sockets and files of its own to the end of the process, and tells of what it will change one day.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUESTIONS = 80


class Numbers(BenchmarkAdapter):
    """Questions that are numbered; nobody knows the answers."""

    name = "numbers"

    def questions(self):
        for number in range(QUESTIONS):
            yield Question(f"numbers/{number}", f"What comes after {number}?" + "!" * (number % 5), str(number + 1))

    def extract_answer(self, response, question):
        return response[:1] or None


@pytest.fixture(scope="module")
def cluster():
    """Two cores of Ray, for all tests that need not begin their own; reached through the loopback alone."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()


@pytest.fixture
def loaded():
    return LoadedModel("tiny", tiny_model("llama"), tiny_tokenizer())


@pytest.fixture
def settings():
    """Twenty batches of four; what a worker has done is kept back until it is closed."""
    generation = GenerationSettings(max_new_tokens=60, batch_size=4)
    return RunSettings(generation=generation, capture=CaptureSettings("layer_2"), flush_every=None)


def workers():
    """The processes of workers on this machine, by their title."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::RayWorker"):
                found.add(int(process.name))
    return found


def answers(folder):
    return {
        record.question_id: (record.response, record.output_ids, record.correct) for record in ActivationStore(folder)
    }


@pytest.mark.usefixtures("cluster")
class TestRayEngine(ExecutionEngineTests):
    @pytest.fixture
    def engine(self):
        return RayEngine(workers=2)


@dataclass(frozen=True)
class Shooting(RayEngine):
    """Kills one of its workers, once each of them has done something."""

    shot: list = field(default_factory=list)

    def run(self, work, tasks):
        others, at_work = workers(), set()
        for outcome in super().run(work, tasks):
            yield outcome
            at_work.add(outcome.worker)
            if len(at_work) == self.workers and not self.shot:
                self.shot.append((workers() - others).pop())
                os.kill(self.shot[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_missing_or_there_twice(loaded, settings, tmp_path):
    BenchmarkRun(loaded, Numbers(), tmp_path / "local", settings).execute()
    told, engine = [], Shooting(workers=2)
    run = BenchmarkRun(loaded, Numbers(), tmp_path / "out", settings, engine=engine)
    with pytest.warns(RuntimeWarning, match="a worker died .*; what it had not written is computed again"):
        result = run.execute(lambda now: told.append(now.done))
    assert engine.shot
    assert (result.partial, result.new, len(result.answers)) == (False, QUESTIONS, QUESTIONS)
    store = ActivationStore(tmp_path / "out")
    assert len(store) == QUESTIONS
    assert answers(tmp_path / "out") == answers(tmp_path / "local")
    # Its answers were kept back when it died: the run saw that they are not there, and had them given again.
    assert any(later < earlier for earlier, later in itertools.pairwise(told))
    assert len(list((tmp_path / "out" / "ledger").glob("*.jsonl"))) >= 2
    assert store.verify().ok


class Deadly:
    """A hook under which the worker dies that computes a prompt with a token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, module, given):
        # What is generated comes one by one, and may be anything.
        if given[0].shape[1] > 1 and bool((given[0] == self.token).any()):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_question_at_which_every_worker_dies_is_left_out_and_named(loaded, settings, tmp_path):
    asked = replace(settings, limit=8, flush_every=1)
    run = BenchmarkRun(loaded, Numbers(), tmp_path, asked, engine=RayEngine(workers=2))
    deadly = next(iter({*tiny_tokenizer()("7").input_ids}))
    assert [job.question.id for job in run.plan.jobs if deadly in job.input_ids] == ["numbers/7"]
    loaded.model.get_input_embeddings().register_forward_pre_hook(Deadly(deadly))
    (batch,) = [each for each in run.plan.batches if any(job.question.id == "numbers/7" for job in each)]
    with pytest.warns(RuntimeWarning, match="a worker died"):
        result = run.execute()
    assert result.partial
    assert result.failures.keys() == {f"question {job.question.id!r}" for job in batch}
    assert "3 workers died at it (" in result.reason
    assert {*answers(tmp_path)} == {f"numbers/{number}" for number in range(8)} - {job.question.id for job in batch}


@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_sent_to_workers_is_said(loaded, settings, tmp_path):
    class Held(Numbers):
        def __init__(self):
            self.file = (tmp_path / "file").open("w")

    benchmark = Held()
    with pytest.raises(SettingsError, match="cannot be sent to workers: PicklingError"):
        BenchmarkRun(loaded, benchmark, tmp_path / "out", settings, engine=RayEngine()).execute()
    benchmark.file.close()


@pytest.mark.usefixtures("cluster")
def test_workers_that_the_cluster_is_too_small_for_are_refused(loaded, settings, tmp_path):
    with pytest.raises(EngineError, match=r"have 1 GPUs \(--gpus-per-worker\), and the Ray cluster has 0"):
        BenchmarkRun(loaded, Numbers(), tmp_path, settings, engine=RayEngine(gpus_per_worker=1)).execute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker is 1.5; it must be 0, a part of one, or a whole number"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        RayEngine(**options)


def test_it_is_found_by_its_name():
    assert registry().find(ExecutionEngine, "ray") is RayEngine


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run on two workers, in the arguments of one process, without its folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return [
        *(sys.executable, "-m", "actframe", "run", "--model", str(folder), "--limit", "32", "--batch-size", "2"),
        *("--max-new-tokens", "60", "--engine", "ray", "--workers", "2", "--cpus-per-worker", "1", "--json"),
    ]


def start(command, out):
    return subprocess.Popen(
        [*command, "--activation-save-dir", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_keeps_what_is_finished_and_the_same_command_goes_on(command, tmp_path):
    out = tmp_path / "out"
    with start([*command, "--flush-every", "2"], out) as process:
        deadline = time.monotonic() + 200
        while sum(path.read_bytes().count(b"\n") for path in out.glob("ledger/*.jsonl")) < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        # As a terminal does it: to all processes of the command, those of Ray as well.
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert printed == ""
    assert "Traceback" not in said
    kept = len(ActivationStore(out))
    assert 4 <= kept < 32
    assert f"{kept} of 32 answers are kept in {out}" in said
    with start(command, out) as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    told = json.loads(printed)
    assert told["answers"] == {"done": 32, "total": 32}
    assert len(ActivationStore(out)) == 32


def test_the_options_of_the_engine_stand_in_the_help_of_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "actframe", "run", "--engine", "ray", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "150"},
    )
    for option in ("--workers", "--gpus-per-worker", "--cpus-per-worker", "--ray-address"):
        assert option in done.stdout
