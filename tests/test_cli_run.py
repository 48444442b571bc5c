import inspect
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.filesize import decimal
from typer.testing import CliRunner

from actframe import ActivationStore
from actframe.cli.main import app
from actframe.cli.options import parse_bytes, parse_every
from actframe.cli.run import run
from actframe.runs.generation import GenerationSettings
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import RunSettings
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
    assert len(ActivationStore(tmp_path / "out")) == 3
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("all"))
    summary = results["summary"]
    assert row[1] == "3"
    assert row[2] == f"{summary['accuracy']:.1%}"
    assert row[3:6] == [f"{summary['low']:.1%}", "-", f"{summary['high']:.1%}"]
    assert "Guessing gets 25%." in result.stdout
    assert f"3 answers, {decimal(results['bytes_on_disk'])}, in the store {tmp_path / 'out'}" in result.stdout


@pytest.mark.parametrize("capture", [[], ["--capture-activations"]])
def test_files_are_written_where_they_are_wanted(capture, quick, tmp_path):
    for _ in range(2):
        result = actframe(*quick, *capture, "--layout", "files")
        assert result.exit_code == 0
    out = tmp_path / "out"
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3
    assert all((answer["activations"] is not None) == bool(capture) for answer in answers)
    assert len(list(out.glob("answers.*_*.jsonl"))) == 1
    for name in ("results.json", "answers.jsonl"):
        assert str(out / name) in result.stdout
    assert ("3 activation files" in result.stdout) == bool(capture)


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
    store = ActivationStore(tmp_path / "out")
    assert (store.backend, len(store)) == ("zstd", 3)
    assert len(list((tmp_path / "out" / "shards").glob("*.safetensors.zst"))) == 1
    for record in store:
        assert list(record.activations) == ["embeddings", "layer_0", "layer_3"]
        assert record.positions == [record.prompt_length - 1]
        assert record.activations["layer_3"].dtype == torch.float16


def test_shards_are_as_large_as_the_flag_says(quick, tmp_path):
    assert actframe(*quick, "--capture-activations", "--shard-bytes", "1kB").exit_code == 0
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3


@pytest.mark.parametrize("layout", [[], ["--layout", "files"]])
@pytest.mark.parametrize("capture", [[], pytest.param(["--capture-activations"], marks=pytest.mark.slow)])
def test_the_commands_to_go_on_with_work_when_they_are_pasted(capture, layout, quick):
    result = actframe(*quick, *capture, *layout)
    lines = result.stdout.partition("Go on with\n")[2].splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert (
        len(commands)
        == {(True, True): 3, (True, False): 3, (False, True): 0, (False, False): 2}[bool(capture), bool(layout)]
    )
    for command in commands:
        done = subprocess.run(command, shell=True, check=True, capture_output=True, timeout=300)
        assert done.stdout


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
    records = {record.question_id: record for record in ActivationStore(tmp_path / "out")}
    assert len(printed["answers_given"]) == 3
    for answer in printed["answers_given"]:
        assert answer.items() <= dict(records[answer["question_id"]]).items()


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
        (["--layout", "folders"], "no layout 'folders'; there are store, files"),
        (["--max-disk", "much"], "'much' is not a size; write 50GB"),
        (["--shard-bytes", "0"], "shard_bytes is 0"),
        (["--flush-every", "often"], "'often' is neither a time"),
        (["--layout", "files", "--overwrite"], "--overwrite is about a store"),
        (["--layout", "files", "--flush-every", "5"], "--flush-every is about a store"),
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
    for name in ("batch_size", "batch_tokens", "temperature", "top_p", "seed"):
        assert shown[name] == getattr(generation, name), name
    assert (shown["num_trials"], shown["limit"]) == (settings.num_trials, settings.limit)
    assert shown["layout"] == settings.layout
    assert (settings.flush_every, settings.shard_bytes) == (parse_every("5m"), parse_bytes("256MiB"))
    assert (CaptureSettings().strategy, CaptureSettings().storage) == ("hooks", "safetensors")


def test_the_same_command_again_says_that_everything_is_there(quick):
    first = actframe(*quick, "--capture-activations")
    again = actframe(*quick, "--capture-activations")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "all 3 answers are in" in again.stderr


def test_another_command_in_the_same_folder_is_refused_in_one_line(quick, tmp_path):
    assert actframe(*quick).exit_code == 0
    result = actframe(*quick, "--limit", 2, "--capture-activations", "--layers", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {tmp_path / 'out'} holds another run (there -> asked for): limit: 3 -> 2; " in result.stderr
    assert "capture: none -> sites layer_0" in result.stderr
    assert "--overwrite" in result.stderr
    assert result.stderr.count("\n") == 1
    result = actframe(*quick, "--limit", 2, "--overwrite")
    assert result.exit_code == 0
    assert len(ActivationStore(tmp_path / "out")) == 2


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(quick, tmp_path):
    result = actframe(*quick, "--capture-activations", "--dry-run", "--max-disk", "50GB")
    assert result.exit_code == 0, result.stderr
    rows = {line.strip().partition("  ")[0]: line.split() for line in result.stdout.splitlines()}
    assert rows["answers to give"][-3:] == ["3", "of", "3"]
    for name in ("activations of a token", "an answer on disk", "disk", "free", "memory", "time"):
        assert name in rows
    assert rows["left of --max-disk"][-2:] == ["50.0", "GB"]
    assert not (tmp_path / "out").exists()
    printed = json.loads(actframe(*quick, "--dry-run", "--json").stdout)
    assert (printed["answers"], printed["folder"]) == (3, str(tmp_path / "out"))


def test_a_dry_run_of_a_run_that_is_half_done_is_about_the_rest(quick, tmp_path):
    assert actframe(*quick).exit_code == 0
    before = {path: path.stat().st_mtime for path in (tmp_path / "out").rglob("*")}
    printed = json.loads(actframe(*quick, "--dry-run", "--json").stdout)
    assert (printed["answers"], printed["total"]) == (0, 3)
    assert {path: path.stat().st_mtime for path in (tmp_path / "out").rglob("*")} == before


def test_a_run_that_may_take_no_more_disk_fails_and_says_how_to_go_on(quick, tmp_path):
    limited = [*quick, "--capture-activations", "--batch-size", "1", "--max-disk"]
    actframe(*limited[:-1], "--activation-save-dir", tmp_path / "whole")
    limit = json.loads((tmp_path / "whole" / "results.json").read_text())["bytes_on_disk"] - 1000
    result = actframe(*limited, f"{limit}")
    assert result.exit_code == 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    done = results["answers"]["done"]
    assert 0 < done < 3
    taken = decimal(results["bytes_on_disk"])
    assert f"ended early: the folder may take {decimal(limit)} and has {taken}; the next 1 answers" in result.stderr
    assert f"{done} of 3 answers are kept in {tmp_path / 'out'}" in result.stderr
    assert "the same command again, with more room, goes on from there" in result.stderr
    assert results["reason"] in result.stderr
    assert "Traceback" not in result.stderr
    assert actframe(*limited, "50 MB").exit_code == 0
    assert len(ActivationStore(tmp_path / "out")) == 3


def test_a_run_that_has_no_room_for_one_answer_says_nothing_of_answers(quick, tmp_path):
    result = actframe(*quick, "--capture-activations", "--max-disk", "1kB")
    assert result.exit_code == 1
    assert f"0 of 3 answers are kept in {tmp_path / 'out'}" in result.stderr
    commands = result.stdout.partition("Go on with\n")[2]
    assert "show" in commands
    assert "where(" not in commands


def test_files_are_not_put_among_those_of_a_store(quick, tmp_path):
    assert actframe(*quick).exit_code == 0
    before = sorted((tmp_path / "out").rglob("*"))
    result = actframe(*quick, "--layout", "files")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{tmp_path / 'out'} holds a store; give another folder, or use the layout 'store'" in result.stderr
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_a_store_behind_a_url_is_written(quick, tmp_path):
    result = actframe(*quick[:-1], f"memory://{tmp_path.name}/run")
    assert result.exit_code == 0, result.stderr
    assert f"in the store memory://{tmp_path.name}/run" in result.stdout
    refused = actframe(*quick[:-1], "memory://x", "--layout", "files")
    assert "memory://x can hold a store only" in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them")
def test_an_interrupt_keeps_the_files_of_finished_answers_and_says_where(tiny, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "actframe", "run", "--model", str(tiny), "--batch-size", "1", "--layout", "files"]
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
    assert f"{kept} of 144 answers are kept in {out}" in said
    assert "goes on" not in said
    results = json.loads((out / "results.json").read_text())
    assert (results["partial"], results["reason"]) == (True, "interrupted")


def test_what_was_said_about_prompts_and_draws_is_kept_with_the_run_and_binds_those_that_go_on(quick, tmp_path):
    asked = ["--system", "Be brief.", "--prompt-style", "reason", "--chat-template", "off", "--temperature", 1]
    asked += ["--top-p", 0.9, "--batch-tokens", 3000, "--subjects", "history,physics"]
    assert actframe(*quick, *asked).exit_code == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())["run"]
    assert run["prompt"] == {
        "num_fewshot": 0,
        "style": "reason",
        "system": "Be brief.",
        "chat": False,
        "template": None,
    }
    assert (run["scoring"], run["subjects"]) == ("generate", ["history", "physics"])
    assert (run["generation"]["top_p"], run["generation"]["batch_tokens"]) == (0.9, 3000)
    assert {record.subject for record in ActivationStore(tmp_path / "out")} == {"history", "physics"}
    other = actframe(*quick, *asked[2:])
    assert other.exit_code == 1
    assert "prompt.system: Be brief. -> none" in other.stderr


def test_choices_are_recorded_beside_the_answers_where_they_are_asked_for(quick, tmp_path):
    asked = ["--scoring", "loglikelihood", "--capture-activations", "--record-choices", "--positions", "last"]
    result = actframe(*quick, *asked)
    assert result.exit_code == 0, result.stderr
    assert "3 answers, 12 choices and their activations" in result.stdout
    store = ActivationStore(tmp_path / "out")
    assert len(store) == 15
    assert [len(store.where(question_id=each)) for each in dict.fromkeys(store.column("question_id"))] == [5, 5, 5]
    assert store.stack("layer_1", positions="last").shape[0] == 15
    again = actframe(*quick, *asked)
    assert "all 3 answers are in" in again.stderr
    assert len(ActivationStore(tmp_path / "out")) == 15
    without = [each for each in asked if each != "--record-choices"]
    assert "recorded_choices: 12 -> none" in " ".join(actframe(*quick, *without).stderr.split())


def test_responses_are_as_long_as_the_benchmark_says_where_nobody_says_more(tiny, tmp_path):
    command = ["--model", tiny, "--limit", 1, "--activation-save-dir", tmp_path / "out", "--prompt-style", "reason"]
    assert actframe(*command).exit_code == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["max_new_tokens"] == 512


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scoring", "guess"], 2, "'guess' is not one of generate, loglikelihood"),
        (["--benchmark", "arithmetic", "--scoring", "loglikelihood"], 2, "'arithmetic' is scored by generate only"),
        (["--subjects", "magic"], 1, "benchmark 'general' has no subject 'magic'"),
        (["--split", "test"], 1, "benchmark 'general' has no option 'split'"),
        (["--num-trials", "2"], 2, "2 trials at temperature 0 would give each answer 2 times"),
        (["--num-fewshot", "2"], 1, "no examples to show"),
        (["--top-p", "0.5"], 2, "top_p=0.5 has no effect at temperature 0"),
        (["--capture-activations", "--record-choices"], 2, "nothing is; leave it out, or use scoring='loglikelihood'"),
        (
            ["--scoring", "loglikelihood", "--record-choices"],
            2,
            "nothing is captured; give capture (--capture-activations)",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_is_written(arguments, code, message, quick, tmp_path):
    result = actframe(*quick, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
