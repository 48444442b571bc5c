"""The process that compares: what it survives, how it ends, and that it is never asked by two."""

import importlib.metadata
import os
import signal
import threading

import pytest

from actframe.benchmarks.verifier import Verifier
from actframe.errors import ActframeError


@pytest.fixture
def verifier():
    verifier = Verifier(cpu_seconds=1)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    "bomb", [r"9^{9^{9^9}}", "1000000000!", "(a+b+c+d)^{99}", r"\int \frac{\sin(x^x)}{\log(\cos x)} dx"]
)
def test_a_comparison_without_end_is_ended_and_the_next_one_is_answered(verifier, bomb):
    assert verifier.equal(bomb, "5") is None
    assert verifier.equal("5", "5.0") is True


def test_a_form_without_end_is_none_and_what_cannot_be_read_has_none(verifier):
    assert verifier.normal(r"9^{9^{9^9}}") is None
    assert verifier.normal(r"(a+b+c+d)^{99}") is None
    assert verifier.normal(r"\frac{") is None
    assert verifier.normal(r"\frac{4}{6}") == "2/3"


def test_it_can_be_ended_from_any_thread(verifier):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(verifier.equal(r"9^{9^{9^9}}", "5")))
    thread.start()
    thread.join()
    assert verdicts == [None]


def test_time_on_the_clock_is_bounded_where_that_of_the_processor_does_not_pass(verifier):
    verifier = Verifier(wall_seconds=10)
    assert verifier.equal("x+1", "1+x") is True
    os.kill(verifier._process.pid, signal.SIGSTOP)
    verifier._wall_seconds = 0.2
    assert verifier.equal("x+1", "1+x") is None
    verifier.close()


def test_one_that_was_killed_is_started_again(verifier):
    assert verifier.equal("x+1", "1+x") is True
    verifier._process.kill()
    verifier._process.wait()
    assert verifier.equal("x+1", "1+x") is True


def test_closing_leaves_no_process_behind(verifier):
    verifier.equal("x", "y")
    process = verifier._process
    verifier.close()
    verifier.close()
    assert process.returncode is not None


def test_a_fork_starts_its_own(verifier):
    assert verifier.equal("x+1", "1+x") is True
    process = verifier._process
    verifier.leave_to_parent()
    assert process.stdin.closed
    assert verifier.equal("x+1", "1+x") is True
    assert verifier._process is not process
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)


def test_without_math_verify_the_error_says_how_to_get_it(verifier, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ActframeError, match=r'comparing .* needs math-verify, .* pip install "actframe\[math\]"'):
        verifier.equal("x+1", "1+x")


def test_one_that_does_not_start_is_an_error_and_no_verdict(verifier, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ActframeError, match="installed but does not start"):
        verifier.equal("x+1", "1+x")
