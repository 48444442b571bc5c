"""Estimates against the runs that they are of."""

import json
import math

import pytest
from toys import Toy, hooks_of, settings

from actframe import ActivationStore, Selection
from actframe.benchmarks.general import General
from actframe.runs.estimate import estimate_run
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.runs.settings import RunSettings
from actframe.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def roomy():
    """The tiny model with a context in which the bundled questions fit."""
    return LoadedModel("tiny", tiny_model("llama", max_position_embeddings=2048), tiny_tokenizer())


@pytest.mark.parametrize("layout", ["store", "files"])
@pytest.mark.parametrize(
    "capture",
    [CaptureSettings(), CaptureSettings(Selection(0, positions="response")), CaptureSettings(storage="zstd")],
    ids=str,
)
def test_the_disk_that_is_expected_is_what_the_run_takes(capture, layout, roomy, tmp_path):
    chosen = settings(capture=capture, layout=layout, max_new_tokens=40, limit=40)
    run = BenchmarkRun(roomy, General(), tmp_path / "out", chosen)
    estimate = estimate_run(run)
    assert not (tmp_path / "out").exists()
    assert (estimate.answers, estimate.total, estimate.sampled) == (40, 40, 4)
    taken = run.execute().circumstances["bytes_on_disk"]
    assert taken == pytest.approx(estimate.disk_bytes, rel=0.25)
    assert taken <= 1.05 * estimate.disk_bytes_max
    assert estimate.answer_bytes == estimate.disk_bytes // 40


def test_the_bytes_of_a_token_are_those_of_its_row_in_every_site(roomy, tmp_path):
    run = BenchmarkRun(roomy, Toy(), tmp_path, settings(capture=CaptureSettings()))
    assert estimate_run(run).token_bytes == 5 * 32 * 4


def test_compression_is_measured_with_the_backend_itself(roomy, tmp_path):
    plain = estimate_run(BenchmarkRun(roomy, Toy(), tmp_path, settings(capture=CaptureSettings())))
    smaller = estimate_run(BenchmarkRun(roomy, Toy(), tmp_path, settings(capture=CaptureSettings(storage="zstd"))))
    assert plain.ratio == pytest.approx(1, abs=0.01)
    assert smaller.ratio > 1.05
    assert smaller.disk_bytes < plain.disk_bytes


def test_what_is_done_already_is_not_reckoned_again(roomy, tmp_path):
    chosen = settings(num_trials=3, temperature=1.0)

    def interrupt(now):
        if now.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BenchmarkRun(roomy, Toy(), tmp_path, chosen).execute(interrupt)
    estimate = estimate_run(BenchmarkRun(roomy, Toy(), tmp_path, chosen))
    assert (estimate.answers, estimate.total) == (7, 27)
    assert len(ActivationStore(tmp_path)) == 20


def test_nothing_stays_of_the_answers_that_were_sampled(roomy, tmp_path):
    before = hooks_of(roomy.model)
    run = BenchmarkRun(roomy, Toy(), tmp_path, settings(capture=CaptureSettings(), temperature=1.0))
    estimate_run(run)
    assert hooks_of(roomy.model) == before
    assert list(tmp_path.iterdir()) == []
    other = BenchmarkRun(roomy, Toy(), tmp_path / "b", settings(capture=CaptureSettings(), temperature=1.0))
    assert list(run.execute().answers) == list(other.execute().answers)


def test_memory_is_named_by_what_takes_it(roomy, tmp_path):
    chosen = settings(capture=CaptureSettings(), max_new_tokens=200, batch_size=8, limit=16)
    estimate = estimate_run(BenchmarkRun(roomy, General(), tmp_path, chosen))
    memory = estimate.memory
    assert memory.model == sum(parameter.nbytes for parameter in roomy.model.parameters()) + sum(
        buffer.nbytes for buffer in roomy.model.buffers()
    )
    assert memory.recorder >= 64 << 20
    assert 0 < memory.batch < estimate.disk_bytes_max
    assert memory.total == memory.model + memory.batch + memory.recorder + memory.store
    plain = estimate_run(BenchmarkRun(roomy, General(), tmp_path, settings(max_new_tokens=9, limit=16))).memory
    assert (plain.batch, plain.recorder, plain.store) == (0, 0, 0)


def test_a_limit_and_the_free_disk_are_told(roomy, tmp_path):
    estimate = estimate_run(BenchmarkRun(roomy, Toy(), tmp_path, settings(max_disk_bytes=5000)))
    assert estimate.disk_allowed == 5000
    assert estimate.disk_free > 0
    assert estimate_run(BenchmarkRun(roomy, Toy(), "memory://x/y", settings())).disk_free is None
    assert json.loads(json.dumps(estimate.as_json()))["memory"]["total"] == estimate.memory.total


def test_time_grows_with_the_number_of_batches(roomy, tmp_path):
    few = estimate_run(BenchmarkRun(roomy, General(), tmp_path, settings(limit=4)))
    many = estimate_run(BenchmarkRun(roomy, General(), tmp_path, settings(limit=144)))
    assert 0 < few.seconds < many.seconds
    assert math.isfinite(many.seconds)


def test_smollm2_takes_what_was_said(smollm2, tmp_path):
    chosen = RunSettings(
        limit=16, generation=GenerationSettings(max_new_tokens=16), capture=CaptureSettings(storage="zstd")
    )
    run = BenchmarkRun(smollm2, General(), tmp_path, chosen)
    estimate = estimate_run(run)
    assert estimate.token_bytes == 31 * 576 * 2
    assert 1.3 < estimate.ratio < 1.6
    assert run.execute().circumstances["bytes_on_disk"] == pytest.approx(estimate.disk_bytes, rel=0.15)
