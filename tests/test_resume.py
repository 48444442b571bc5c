"""A real `actframe run` that is ended in the middle: by Ctrl-C, by the system, by kill -9. Then it goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from toys import assert_same_answers

from actframe import ActivationStore
from actframe.testing import tiny_model, tiny_tokenizer

ANSWERS = 48


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run of a few seconds whose answers are drawn, in the arguments of one process."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    run = [sys.executable, "-m", "actframe", "run", "--model", str(folder), "--limit", str(ANSWERS // 2)]
    run += ["--num-trials", "2", "--temperature", "1", "--batch-size", "4", "--max-new-tokens", "100"]
    return [*run, "--capture-activations", "--layers", "0-2", "--flush-every", "3", "--activation-save-dir"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The run that is never interrupted, and how long it takes to its first and last answer."""
    out = tmp_path_factory.mktemp("whole") / "out"
    began = time.monotonic()
    process = start(command, out)
    wait_for_answers(out, 1)
    first = time.monotonic() - began
    finish(process)
    return ActivationStore(out), first, time.monotonic() - began


def start(command, out):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process, code=0):
    printed, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return printed, said


def wait_for_answers(out, count):
    deadline = time.monotonic() + 120
    while committed(out) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def committed(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("ledger/*.jsonl"))


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_end_writes_what_is_finished_and_says_how_to_go_on(end, command, whole, tmp_path):
    out = tmp_path / "out"
    process = start(command, out)
    wait_for_answers(out, 3)
    process.send_signal(end)
    printed, said = finish(process, 130)
    kept = committed(out)
    assert 3 <= kept < ANSWERS
    assert printed == ""
    assert "Traceback" not in said
    assert f"{kept} of {ANSWERS} answers are kept in {out}, accuracy " in said
    assert said.endswith("the same command again goes on from there\ninterrupted\n")
    results = json.loads((out / "results.json").read_text())
    assert (results["partial"], results["reason"]) == (True, "interrupted")
    assert results["answers"] == {"done": kept, "total": ANSWERS}

    printed, said = finish(start(command, out))
    assert f"{ANSWERS}/{ANSWERS}" in said
    assert_same_answers(ActivationStore(out), whole[0])
    assert json.loads((out / "results.json").read_text())["answers"]["done"] == ANSWERS
    assert f"all {ANSWERS} answers are in {out} already" in finish(start(command, out))[1]


def kill_and_resume(command, whole, out, moments):
    """Kill a run after each of these many seconds, and go on until it is done."""
    kept = {}
    for moment in moments:
        process = start(command, out)
        time.sleep(moment)
        process.kill()
        process.communicate()
        if out.exists() and list(out.glob("ledger/*.jsonl")):
            found = {path.name: path.read_bytes().rpartition(b"\n")[0] for path in out.glob("ledger/*.jsonl")}
            assert all(found.get(name, b"").startswith(lines) for name, lines in kept.items())
            kept = found
    finish(start(command, out))
    assert_same_answers(ActivationStore(out), whole[0])


def test_a_run_that_is_killed_goes_on_as_if_it_had_never_been(command, whole, tmp_path):
    _, first, last = whole
    kill_and_resume(command, whole, tmp_path / "out", [first + (last - first) / 4, (first + last) / 2])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_killed_at_any_moments_goes_on_as_if_it_had_never_been(seed, command, whole, tmp_path):
    _, first, last = whole
    draw = random.Random(seed)
    kill_and_resume(command, whole, tmp_path / "out", [draw.uniform(0.8 * first, last) for _ in range(5)])
