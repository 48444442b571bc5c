"""How a suite is shown to be able to fail: for each check there is an extension that breaks just that promise."""

from dataclasses import dataclass, field
from typing import Any

from actframe.testing.checking import run_suite


@dataclass(frozen=True)
class Mutant:
    """An extension that breaks one promise.

    Attributes:
        extension: the class.
        check: the test that is there to find it.
        said: words of what the check says about it.
        also: other tests that cannot but find it as well.
        arguments: what the extension is made with.
    """

    extension: Any
    check: str
    said: str
    also: frozenset = frozenset()
    arguments: tuple = field(default=())

    def __str__(self):
        return self.extension.__name__

    def make(self):
        return self.extension(*self.arguments)


def checks_of(suite):
    return {name for name in dir(suite) if name.startswith("test_")}


def assert_found(mutant):
    """The check that is there for it finds the mutant, and says what is wrong with it."""
    report = run_suite(mutant.extension, mutant.make, only=mutant.check)
    outcome = report.outcomes[mutant.check]
    assert outcome.result == "failed", f"{mutant} passed {mutant.check}"
    assert mutant.said in outcome.said, outcome.said


def assert_found_by_nothing_else(mutant):
    """All other checks pass, but those that cannot."""
    report = run_suite(mutant.extension, mutant.make)
    failed = {name for name, outcome in report.outcomes.items() if outcome.result == "failed"}
    assert failed == {mutant.check, *mutant.also}, {name: report.outcomes[name].said for name in failed}
