"""Running a conformance suite on an extension that is installed, outside of any test file."""

from __future__ import annotations

import linecache
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from unittest import mock

import pytest

from actframe.extension import Extension
from actframe.testing import checked

__all__ = ["Outcome", "SuiteReport", "has_suite", "run_suite"]

Result = Literal["ok", "failed", "skipped"]

_ALONE = {"PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""What else is installed for pytest, or configured in this folder, has no say in a check."""


@dataclass
class Outcome:
    """What came of one check.

    Attributes:
        check: what must be true, as a sentence.
        result: `failed` where one of its cases failed, `skipped` where none ran.
        cases: how often it was tried.
        failed: how many of these failed.
        said: what is wrong with the first that failed, or why it was skipped.
    """

    check: str
    result: Result = "skipped"
    cases: int = 0
    failed: int = 0
    said: str = ""


@dataclass
class SuiteReport:
    """What a suite found out about an extension."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something ran, and nothing failed."""
        results = [each.result for each in self.outcomes.values()]
        return "ok" in results and "failed" not in results

    def as_json(self) -> list[dict[str, Any]]:
        """The checks in JSON-safe form."""
        return [asdict(each) for each in self.outcomes.values()]


def has_suite(extension: type[Extension]) -> bool:
    """Whether there is a suite for extensions of this kind."""
    return _suite_of(extension) is not None


def run_suite(
    extension: type[Extension], make: Callable[[], Any] | None = None, *, only: str | None = None
) -> SuiteReport:
    """Hold an extension to what its contract promises. Takes seconds; prints nothing.

    Args:
        extension: a class that `has_suite`.
        make: gives what is tested; by default the class itself, without arguments.
        only: the name of one test, where the others are not to run.
    """
    suite = _suite_of(extension)
    assert suite is not None, f"there is no suite for {extension.kind}s"
    listener = _Listener(make or extension)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, _ALONE):
        # No configuration file, no cache, no terminal: the report is the only thing that remains.
        options = ["-c", os.devnull, "--rootdir", folder, "--basetemp", f"{folder}/files", "-p", "no:cacheprovider"]
        options += ["--noconftest", "-p", "no:terminal", "-p", "no:logging"]
        test = "::".join([str(checked.__file__), suite.__name__, *([only] if only else [])])
        pytest.main([*options, test], plugins=[listener])
    return listener.report


def _suite_of(extension: type[Extension]) -> type[Any] | None:
    return next((suite for contract, suite in checked.SUITES.items() if issubclass(extension, contract)), None)


class _Listener:
    """Gives the tests what they are to test, and gathers what came of them."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.report = SuiteReport()

    @pytest.fixture
    def checked(self) -> Callable[[], Any]:
        """Makes the extension under test."""
        return self._make

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in how a test ended, or that it could not begin."""
        if report.when == "call" or not report.passed:
            name = report.nodeid.rpartition("::")[2].partition("[")[0]
            outcome = self.report.outcomes.setdefault(name, Outcome(_sentence(name)))
            _add(outcome, report)


def _add(outcome: Outcome, report: pytest.TestReport) -> None:
    outcome.cases += not report.skipped
    if report.failed:
        outcome.failed += 1
        if outcome.result != "failed":
            outcome.result, outcome.said = "failed", _what_is_wrong(report)
    elif report.skipped:
        outcome.said = outcome.said or _reason(report)
    elif outcome.result == "skipped":
        outcome.result, outcome.said = "ok", ""


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    return str(where[2]).removeprefix("Skipped: ") if isinstance(where, tuple) else str(where)


def _what_is_wrong(report: pytest.TestReport) -> str:
    """What a check says of a failure; of an error that no check expected, also where it was raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr)
    for said in ("AssertionError: ", "Failed: "):
        if crash.message.startswith(said):
            # What pytest adds is about the names of variables in the check, of which the reader knows nothing.
            return str(crash.message.removeprefix(said).partition("\nassert ")[0])
    if crash.message == "AssertionError":
        return f"not so: {linecache.getline(crash.path, crash.lineno).strip().removeprefix('assert ')}"
    return f"{crash.message} (raised at {crash.path}:{crash.lineno})"
