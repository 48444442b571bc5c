"""What comes with actframe passes the suites that third parties use; storage backends do so in files of their own."""

from pathlib import Path

import pytest

from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions
from actframe.benchmarks.opening import open_benchmark
from actframe.capture.forward_hooks import ForwardHooks
from actframe.capture.hidden_states import OutputHiddenStates
from actframe.registry import registry
from actframe.testing import BenchmarkAdapterTests, CaptureStrategyTests

DATA = Path(__file__).parent / "data" / "benchmarks"
BUILT_IN = sorted(each.name for each in registry().plugins()[0].extensions if issubclass(each, BenchmarkAdapter))


class TestForwardHooks(CaptureStrategyTests):
    @pytest.fixture
    def strategy(self):
        return ForwardHooks()


class TestOutputHiddenStates(CaptureStrategyTests):
    @pytest.fixture
    def strategy(self):
        return OutputHiddenStates()


class TestBenchmarks(BenchmarkAdapterTests):
    @pytest.fixture(params=BUILT_IN)
    def adapter(self, request, tmp_path):
        data = DATA / request.param
        if request.param == "jsonl":
            data = tmp_path / "own.jsonl"
            data.write_text('{"question": "2 + 2?", "answer": "4"}\n{"question": "3 + 3?", "answer": "6"}\n')
        return open_benchmark(request.param, BenchmarkOptions(data=str(data) if data.exists() else None))
