"""The suites over one extension that is installed: what `actframe plugins --check` lets pytest run.

The fixture `checked` comes from `actframe.testing.checking` and gives the extension.
"""

from __future__ import annotations

from typing import Any

import pytest

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.capture.base import CaptureStrategy
from actframe.runs.engines import ExecutionEngine
from actframe.storage.base import StorageBackend
from actframe.testing import BenchmarkAdapterTests, CaptureStrategyTests, ExecutionEngineTests, StorageBackendTests

__all__ = ["SUITES", "TestBenchmarkAdapter", "TestCaptureStrategy", "TestExecutionEngine", "TestStorageBackend"]


class TestStorageBackend(StorageBackendTests):
    """The suite of a storage backend."""

    @pytest.fixture
    def backend(self, checked: Any) -> StorageBackend:
        """The installed one."""
        backend: StorageBackend = checked()
        return backend


class TestCaptureStrategy(CaptureStrategyTests):
    """The suite of a capture strategy."""

    @pytest.fixture
    def strategy(self, checked: Any) -> CaptureStrategy:
        """The installed one."""
        strategy: CaptureStrategy = checked()
        return strategy


class TestBenchmarkAdapter(BenchmarkAdapterTests):
    """The suite of a benchmark."""

    @pytest.fixture
    def adapter(self, checked: Any) -> BenchmarkAdapter:
        """The installed one, opened as it was named."""
        adapter: BenchmarkAdapter = checked()
        return adapter


class TestExecutionEngine(ExecutionEngineTests):
    """The suite of an engine."""

    @pytest.fixture
    def engine(self, checked: Any) -> ExecutionEngine:
        """The installed one, with the options that it has where nothing is said."""
        engine: ExecutionEngine = checked()
        return engine


SUITES: dict[type[Any], type[Any]] = {
    StorageBackend: TestStorageBackend,
    CaptureStrategy: TestCaptureStrategy,
    BenchmarkAdapter: TestBenchmarkAdapter,
    ExecutionEngine: TestExecutionEngine,
}
"""Which suite an extension is held to, by its contract."""
