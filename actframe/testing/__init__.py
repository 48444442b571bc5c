"""For those who test code that uses actframe, or that extends it.

Conformance suites hold an extension to what its contract promises: subclass one in a test file, with one fixture that
returns yours, and pytest runs the rest. They need pytest; nothing else here does. Beside them are
tiny seeded models, records and tensors without a model, and a model's self-test.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from actframe.errors import needs_extra
from actframe.testing.bundles import DTYPES, assert_same, assert_survives, random_tensor
from actframe.testing.models import FAMILIES, tiny_model, tiny_tokenizer
from actframe.testing.proofs.report import SelfTestReport
from actframe.testing.proofs.selftest import selftest
from actframe.testing.records import assert_same_record, random_record

if TYPE_CHECKING:
    from actframe.testing.adapters import BenchmarkAdapterTests
    from actframe.testing.engines import ExecutionEngineTests
    from actframe.testing.storage import StorageBackendTests
    from actframe.testing.strategies import CaptureStrategyTests

__all__ = [
    "DTYPES",
    "FAMILIES",
    "BenchmarkAdapterTests",
    "CaptureStrategyTests",
    "ExecutionEngineTests",
    "SelfTestReport",
    "StorageBackendTests",
    "assert_same",
    "assert_same_record",
    "assert_survives",
    "random_record",
    "random_tensor",
    "selftest",
    "tiny_model",
    "tiny_tokenizer",
]

_SUITES = {
    "BenchmarkAdapterTests": "actframe.testing.adapters",
    "CaptureStrategyTests": "actframe.testing.strategies",
    "ExecutionEngineTests": "actframe.testing.engines",
    "StorageBackendTests": "actframe.testing.storage",
}


def __getattr__(name: str) -> Any:
    """Import a suite when it is first used: only then is pytest needed."""
    if name not in _SUITES:
        raise AttributeError(f"module 'actframe.testing' has no attribute {name!r}")
    home = _SUITES[name]
    with needs_extra(f"actframe.testing.{name}", "pytest", "testing"):
        import pytest
    if home not in sys.modules:
        # So that a failure shows the values that were compared, as in a test file.
        pytest.register_assert_rewrite(home)
    return getattr(importlib.import_module(home), name)
