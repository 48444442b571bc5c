"""`actframe plugins --check`: the suites over what is installed, and what there is to say where they cannot run."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from actframe.cli import plugins
from actframe.cli.main import app
from actframe.distributions import Entry
from actframe.registry import Registry

PLUGIN = """
from actframe import BenchmarkAdapter, BenchmarkError, Question, hookimpl

class Sums(BenchmarkAdapter):
    name = "sums"

    def questions(self):
        for number in range(3):
            yield Question(f"sums/{number}", f"{number} + 1?", str(number + 1))

    def extract_answer(self, response, question):
        words = response.replace(".", " ").split()
        return next((word for word in words if word in "123"), None)

class Careless(Sums):
    name = "careless"

    def extract_answer(self, response, question):
        return response.split()[0]

class Choosy(Sums):
    name = "choosy"

    @classmethod
    def open(cls, options):
        if options.task != "addition":
            raise BenchmarkError("choosy needs a task: choosy:addition")
        if options.data is not None:
            raise BenchmarkError("choosy has no option 'data'")
        return cls()

@hookimpl
def extensions():
    return [Sums, Careless, Choosy]
"""


IDLE = """
from actframe import hookimpl

@hookimpl
def record_captured(record):
    pass
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A registry with a plugin of three benchmarks, one that does not load, and one that provides nothing."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_sums.py").write_text(PLUGIN)
    (tmp_path / "torn.py").write_text("import a_library_that_is_not_there")
    (tmp_path / "idle.py").write_text(IDLE)
    found = Registry(
        [
            Entry("sums", "their_sums", "Their_Distribution", "1.0"),
            Entry("torn", "torn", "torn", "0.1"),
            Entry("idle", "idle", "idle", "0.1"),
        ]
    )
    with pytest.warns(RuntimeWarning, match="plugin 'torn'"):
        found.plugins()
    monkeypatch.setattr(plugins, "registry", lambda: found)
    yield
    sys.modules.pop("their_sums", None)


def check(name, *flags):
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["plugins", "--check", name, *flags])
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def test_an_extension_that_keeps_its_contract_is_said_to():
    code, said, _ = check("choosy:addition")
    assert "benchmark 'choosy' of plugin 'sums' (Their_Distribution 1.0)" in said
    assert "ids are texts and unique ok" in said
    assert "choices are ranked and the likeliest is judged skipped its scorings do not name" in said
    assert "keeps its contract: 16 checks; 1 skipped" in said
    assert code == 0


def test_what_is_wrong_is_said_beside_the_check_and_the_exit_code_is_1():
    code, said, _ = check("careless")
    assert code == 1
    assert "extraction never raises failed extract_answer" in said
    assert "IndexError: list index out of range; it gives None instead" in said
    assert "checks failed" in said


def test_a_distribution_means_all_that_it_provides_and_json_says_the_same():
    code, said, _ = check("their-distribution", "--json")
    assert code == 1
    found = json.loads(said)
    assert found["problems"] == []
    assert [(each["name"], each["ok"]) for each in found["checked"]] == [
        ("sums", True),
        ("careless", False),
        ("choosy", False),
    ]
    assert found["checked"][2]["refused"] == "choosy needs a task: choosy:addition"
    failed = [each["check"] for each in found["checked"][1]["checks"] if each["result"] == "failed"]
    assert "extraction never raises" in failed
    assert {each["cases"] for each in found["checked"][0]["checks"]} == {0, 1, 2}


def test_an_extension_that_needs_arguments_is_not_checked_and_says_what_it_needs():
    code, said, _ = check("choosy")
    assert (code, said.endswith("not checked: choosy needs a task: choosy:addition")) == (1, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "summs",
            "no plugin, distribution or extension named 'summs' (did you mean 'sums'?); `actframe plugins`",
        ),
        ("torn", "plugin 'torn' (torn 0.1): ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        ("idle", "plugin 'idle' (idle 0.1) provides no extensions, and its hooks have no suite"),
    ],
)
def test_what_cannot_be_checked_is_one_line_that_says_why(name, words):
    code, said, wrong = check(name)
    assert (code, said) == (1, "")
    assert wrong.startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from actframe.testing import StorageBackendTests", "actframe.testing.StorageBackendTests needs pytest"),
        (
            "from actframe.cli.plugins import plugins; plugins(check='pickle')",
            "actframe plugins --check needs pytest",
        ),
    ],
)
def test_without_pytest_only_the_suites_are_missing_and_say_so(statement, said):
    before = "import sys; sys.modules['pytest'] = None; import actframe, actframe.testing, actframe.cli.main;"
    done = subprocess.run([sys.executable, "-c", f"{before} {statement}"], capture_output=True, text=True, check=False)
    assert f'{said}, which is not installed: pip install "actframe[testing]"' in done.stderr


def test_nothing_but_the_suites_imports_pytest():
    check = "import actframe, actframe.testing, actframe.cli.main, sys; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
