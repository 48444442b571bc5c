"""`--engine` on the command line, with the options of an engine that a plugin brings."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from actframe import ActivationStore, ExecutionEngine, SettingsError, engine_option, hookimpl
from actframe.cli import engine_options
from actframe.cli.main import app
from actframe.distributions import Entry
from actframe.registry import Registry
from actframe.testing import tiny_model, tiny_tokenizer

USED = []


@dataclass(frozen=True)
class Elsewhere(ExecutionEngine):
    """One worker in this process, whose options can be seen."""

    name = "elsewhere"
    in_process = True

    helping_hands: int = engine_option(2, "How many hands there are.", metavar="N")
    speed: float | None = engine_option(None, "How fast they are.")
    careful: bool = engine_option(False, "Look twice.")

    def __post_init__(self):
        if self.helping_hands < 1:
            raise SettingsError(f"helping_hands is {self.helping_hands}; it must be at least 1")

    def run(self, work, tasks: Iterator):
        USED.append(self)
        with work.worker() as worker:
            for task in tasks:
                yield from worker.compute(task)


@hookimpl
def extensions():
    return [Elsewhere]


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """This module is an installed plugin."""
    USED.clear()
    plugins = Registry([Entry("hands", __name__)])
    monkeypatch.setattr(engine_options, "registry", lambda: plugins)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "150"}).invoke(app, [*map(str, arguments)])


def test_a_run_goes_to_the_engine_that_is_named_with_the_options_that_are_given(model, tmp_path):
    asked = ("run", "--model", model, "--limit", 2, "--max-new-tokens", 2, "--activation-save-dir", tmp_path / "out")
    result = actframe(*asked, "--engine", "elsewhere", "--helping_hands", 3, "--speed", "1.5", "--careful")
    assert result.exit_code == 0, result.stderr
    assert [Elsewhere(3, 1.5, True)] == USED
    assert len(ActivationStore(tmp_path / "out")) == 2


def test_a_capture_goes_to_the_engine_that_is_named_too(model, tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    asked = ("--data", tmp_path / "texts.txt", "--layers", 0, "--activation-save-dir", tmp_path / "out")
    result = actframe("capture", "--model", model, *asked, "--engine=elsewhere")
    assert result.exit_code == 0, result.stderr
    assert [Elsewhere()] == USED
    assert len(ActivationStore(tmp_path / "out")) == 2


@pytest.mark.parametrize("command", ["run", "capture"])
def test_the_help_has_the_options_of_the_engine_that_is_named_and_no_others(command):
    shown = actframe(command, "--engine", "elsewhere", "--help").stdout
    assert "Engine elsewhere" in shown
    assert "How many hands there are." in shown
    assert "[default: 2]" in shown
    assert "--helping-hands" not in actframe(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--engine", "elswhere"],
            "no engine named 'elswhere' (did you mean 'elsewhere'?); installed: elsewhere,",
        ),
        (["--helping-hands", "3"], "No such option"),
        (["--engine", "elsewhere", "--helping-hands", "some"], "'--helping-hands'"),
        (["--engine", "elsewhere", "--helping-hands", "0"], "helping_hands is 0; it must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_a_mistake_in_the_command(arguments, message):
    result = actframe("run", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert USED == []
