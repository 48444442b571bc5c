import inspect
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from actframe.cli.main import app
from actframe.cli.run import run
from actframe.runs.generation import GenerationSettings
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import RunSettings
from actframe.storage.files import load_activations
from actframe.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a tiny model, as a user would have one."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["run", *map(str, arguments)])


@pytest.fixture
def quick(tiny, tmp_path):
    """What keeps a run short, and the folder it writes to."""
    return ["--model", tiny, "--limit", 3, "--max-new-tokens", 4, "--activation-save-dir", tmp_path / "out"]


def test_a_run_prints_its_results_and_where_they_are(quick, tmp_path):
    result = actframe(*quick)
    assert result.exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["answers"] == {"done": 3, "total": 3}
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 3
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("all"))
    summary = results["summary"]
    assert row[1] == "3"
    assert row[3] == f"{summary['accuracy']:.1%}"
    assert row[4:7] == [f"{summary['low']:.1%}", "-", f"{summary['high']:.1%}"]
    assert "Guessing gets 25%." in result.stdout
    assert str(tmp_path / "out" / "results.json") in result.stdout
    assert list((tmp_path / "out").glob("benchmark_activations_*")) == []


def test_progress_goes_to_stderr_with_its_figures(quick):
    result = actframe(*quick, "--capture-activations")
    assert "3/3" in result.stderr
    assert "accuracy" in result.stderr
    assert "tokens/s" in result.stderr
    assert "on disk" in result.stderr
    assert "3/3" not in result.stdout


def test_activations_are_saved_as_the_flags_say(quick, tmp_path):
    flags = ["--layers", "0,-1", "--sites", "embeddings", "--positions", "last_prompt", "--dtype", "float16"]
    result = actframe(*quick, "--capture-activations", *flags, "--storage", "zstd")
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3
    for answer in answers:
        assert answer["activations"].endswith(".safetensors.zst")
        saved = load_activations(tmp_path / "out" / answer["activations"])
        assert list(saved["activations"]) == ["embeddings", "layer_0", "layer_3"]
        assert saved["positions"] == [saved["prompt_length"] - 1]
        assert saved["activations"]["layer_3"].dtype == torch.float16
        assert (saved["question_id"], saved["correct"]) == (answer["question_id"], answer["correct"])


def test_the_commands_to_go_on_with_work_when_they_are_pasted(quick):
    result = actframe(*quick, "--capture-activations")
    lines = result.stdout.partition("Go on with\n")[2].splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert [command.split(" actframe ")[1].split()[0] for command in commands] == ["show", "stats", "compare"]
    for command in commands:
        subprocess.run(command, shell=True, check=True, capture_output=True, timeout=300)


def test_flags_may_be_written_with_underscores(quick, tmp_path):
    spelled = [str(flag).replace("--max-new-tokens", "--max_new_tokens") for flag in quick]
    result = actframe(*spelled, "--num_trials", "2", "--temperature", "0.7", "--batch_size=2")
    assert result.exit_code == 0, result.stderr
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert (settings["num_trials"], settings["batch_size"], settings["max_new_tokens"]) == (2, 2, 4)


def test_json_is_all_there_is_on_stdout(quick, tmp_path):
    result = actframe(*quick, "--capture-activations", "--json")
    printed = json.loads(result.stdout)
    assert printed["folder"] == str(tmp_path / "out")
    assert printed["summary"]["questions"] == 3
    lines = map(json.loads, (tmp_path / "out" / "answers.jsonl").read_text().splitlines())
    given = {answer["question_id"]: answer for answer in printed["answers_given"]}
    assert given == {line["question_id"]: line for line in lines}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layers", "0"], "--layers says what to capture; add --capture-activations"),
        (["--storage", "zstd"], "--storage says what to capture"),
        (["--capture-activations", "--layers", "one"], "Invalid value for '--layers': 'one' is not a layer"),
        (["--capture-activations", "--positions", "nowhere"], "no positions 'nowhere'; there are all, prompt"),
        (["--capture-activations", "--dtype", "float3"], "torch has no dtype 'float3'"),
        (["--num-trials", "2"], "2 trials at temperature 0"),
        (["--num-trials", "0"], "Invalid value for '--num-trials'"),
        (["--limit", "none"], "--limit"),
        (["--fast"], "No such option"),
    ],
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(quick, tmp_path, flags, words):
    result = actframe(*quick, *flags)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "no-such-model-anywhere"], "no-such-model-anywhere"),
        (["--benchmark", "trivia"], "no benchmark named 'trivia'"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--capture-activations", "--strategy", "magic"], "no capture strategy named 'magic'"),
        (["--capture-activations", "--storage", "zipn"], "no storage backend named 'zipn'"),
        (["--capture-activations", "--layers", "99"], "number of layers is 4"),
        (["--capture-activations", "--sites", "layer_0.heart"], "no site 'layer_0.heart'"),
        (["--activation-save-dir", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_what_does_not_exist_is_one_line_before_the_model_runs(quick, tmp_path, flags, words):
    result = actframe(*quick, *flags)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert not list(tmp_path.glob("out/*.json*"))


def test_the_defaults_that_help_shows_are_those_of_the_settings():
    shown = {name: parameter.default for name, parameter in inspect.signature(run).parameters.items()}
    generation, settings = GenerationSettings(), RunSettings()
    for name in ("batch_size", "max_new_tokens", "temperature", "seed"):
        assert shown[name] == getattr(generation, name), name
    assert (shown["num_trials"], shown["limit"]) == (settings.num_trials, settings.limit)
    assert (CaptureSettings().strategy, CaptureSettings().storage) == ("hooks", "safetensors")


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs signals as POSIX has them")
def test_an_interrupt_keeps_the_finished_answers_and_says_where(tiny, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "actframe", "run", "--model", str(tiny), "--batch-size", "1"]
    command += ["--max-new-tokens", "200", "--activation-save-dir", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        answers, deadline = out / "answers.jsonl", time.monotonic() + 120
        while not (answers.exists() and answers.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=120)
    assert (process.returncode, printed) == (130, "")
    assert "Traceback" not in said
    assert said.endswith("interrupted\n")
    kept = len(answers.read_text().splitlines())
    assert f"{kept} finished answers are kept in {out}" in said
    results = json.loads((out / "results.json").read_text())
    assert (results["partial"], results["reason"]) == (True, "interrupted")
