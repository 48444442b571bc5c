"""The commands for stores, on stores that are real: sound, damaged, half-written, hostile."""

import json
import os
import re
import shlex
import shutil
import subprocess

import datasets
import numpy
import pytest
import torch
from pyarrow import parquet
from toys import Toy, interrupted_at_forward, settings
from typer.testing import CliRunner

from actframe import ActivationStore, capture_texts
from actframe.cli.main import app
from actframe.cli.progress import ByteBar
from actframe.runs import stored_sites
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.storage.files import save_activations
from actframe.testing import random_record

RUN = {"model": {"name": "tiny", "dtype": "bfloat16"}, "benchmark": {"name": "sums", "questions": 12}, "num_trials": 1}

ODD_KEYS = ("question_id", "trial", "model", "subject", "correct", "chance", "timestamp", "prompt")
ODD_GRADES = (["a"], {"b": [1]}, 3.5, "x" * 3000, None)
SHOWN = {
    *("location", "backend", "created", "run", "origin", "benchmarks", "models", "records", "shards", "writers"),
    *("expected", "ended", "questions", "trials", "accuracy", "by_subject", "first", "last", "sites"),
    "receipts",
    *("shards_looked_at", "unreadable", "tensor_bytes", "ratio", "bytes_on_disk", "writing", "problems", "preview"),
}


def actframe(*arguments, columns=120):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(argument) for argument in arguments])


def parse(result, code=0):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert result.exit_code == code, result.output
    return json.loads(result.stdout, parse_constant=refuse)


def fill(path, numbers=range(12), run=RUN, said=None, **changes):
    with ActivationStore(path, run=run, shard_bytes=changes.pop("shard_bytes", 2000), **changes) as store:
        for number in numbers:
            store.append(random_record(number, 3 + number % 4, **(said or {})))
    return path


def shards(path):
    return sorted((path / "shards").iterdir())


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def squeeze(text):
    return " ".join(text.split())


def everything(lists):
    return [each for some in lists for each in some]


def questions(path):
    return sorted(int(name.removeprefix("sums/")) for name in ActivationStore(path, create=False).column("question_id"))


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "run")


@pytest.fixture
def damaged(store):
    """One shard has a wrong bit, another is gone."""
    flip(shards(store)[1])
    shards(store)[2].unlink()
    return store


@pytest.fixture
def lost(damaged):
    """Which questions that concerns, by the names of the shards."""
    lines = [json.loads(line) for file in (damaged / "ledger").iterdir() for line in file.read_text().splitlines()]
    names = sorted({line["stored"]["shard"] for line in lines})
    return [[line["question_id"] for line in lines if line["stored"]["shard"] == name] for name in names[1:3]]


# verify and repair


def test_a_sound_store_is_called_sound(store):
    result = actframe("verify", store)
    assert result.exit_code == 0
    assert f"12 records in {len(shards(store))} shards" in result.stdout
    assert "sound" in result.stdout
    assert "verifying" in result.stderr
    found = parse(actframe("verify", store, "--json"))
    assert (found["ok"], found["records"], found["problems"]) == (True, 12, [])


def test_verify_names_the_records_that_are_damaged_and_what_to_do(damaged, lost):
    result = actframe("verify", damaged)
    assert result.exit_code == 1
    shown = squeeze(result.stdout)
    assert "2 problems" in shown
    for question in everything(lost):
        assert f"{question} (trial 0)" in shown
    assert "its checksum is not the one in the ledger" in shown
    assert f"repair {damaged}" in shown


def test_verify_as_json_says_it_by_record_and_fails_too(damaged, lost):
    found = parse(actframe("verify", damaged, "--json"), code=1)
    assert found["ok"] is False
    assert [problem["kind"] for problem in found["problems"]] == ["damaged", "missing"]
    named = [[record["question_id"] for record in problem["records"]] for problem in found["problems"]]
    assert named == lost
    assert found["records"] == 12 - len(everything(lost))


def test_verify_changes_nothing(damaged):
    before = {file: file.read_bytes() for file in damaged.rglob("*") if file.is_file()}
    actframe("verify", damaged)
    assert {file: file.read_bytes() for file in damaged.rglob("*") if file.is_file()} == before


def test_repair_moves_aside_what_is_damaged_and_says_how_it_comes_back(damaged, lost):
    broken = shards(damaged)[1].name
    result = actframe("repair", damaged)
    assert result.exit_code == 0
    shown = squeeze(result.stdout)
    assert f"moved to quarantine/{broken}" in shown
    assert (damaged / "quarantine" / broken).exists()
    assert f"{len(everything(lost))} records lost" in shown
    assert "same `actframe run` command again fills the gap" in shown
    assert actframe("verify", damaged).exit_code == 0
    again = actframe("repair", damaged)
    assert again.exit_code == 0
    assert "nothing to repair" in again.stdout
    assert "quarantine" in actframe("show", damaged).stdout


def test_repair_as_json_says_what_was_done(damaged, lost):
    done = parse(actframe("repair", damaged, "--json"))
    assert (done["changed"], len(done["quarantined"]), len(done["missing"]), done["left"]) == (True, 1, 1, [])
    assert [each["question_id"] for each in done["lost"]] == everything(lost)


def test_repair_fails_where_something_is_left(store):
    with ActivationStore(store, shard_bytes=1) as writing:
        writing.append(random_record(100))
        writing.flush()
        flip(max(shards(store), key=lambda file: file.stat().st_mtime_ns))
        result = actframe("repair", store)
    assert result.exit_code == 1
    assert "left as it is" in result.stdout
    assert "a process that still runs" in squeeze(result.stdout)


def test_after_repair_the_same_run_fills_exactly_the_gap(tiny, tmp_path):
    def execute():
        chosen = settings(capture=CaptureSettings(), shard_bytes=1)
        return BenchmarkRun(tiny, Toy(), tmp_path / "run", chosen).execute()

    execute()
    flip(shards(tmp_path / "run")[1])
    assert actframe("verify", tmp_path / "run").exit_code == 1
    lost = parse(actframe("repair", tmp_path / "run", "--json"))["lost"]
    assert lost
    assert execute().new == len(lost)
    assert parse(actframe("verify", tmp_path / "run", "--json"))["records"] == 9


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("converted", "`actframe convert` command again"),
        ("recorded", "Record them again"),
        ("defined", "Record them again"),
    ],
)
def test_repair_says_what_fills_the_gap_of_a_store_of_other_origin(tmp_path, made, words):
    path = fill(tmp_path / "source", run={"recorded": None, "defined": {"by": "me"}}.get(made, RUN))
    if made == "converted":
        assert actframe("convert", path, tmp_path / "new").exit_code == 0
        path = tmp_path / "new"
    flip(shards(path)[0])
    assert words in squeeze(actframe("repair", path).stdout)


# convert and merge


def test_convert_writes_a_store_again(store, tmp_path):
    arguments = ["--storage", "zstd", "--sites", "layer_*", "--positions", "last_prompt", "--dtype", "float32"]
    result = actframe("convert", store, tmp_path / "new", *arguments)
    assert result.exit_code == 0, result.output
    assert f"wrote the store {tmp_path / 'new'}" in result.stdout
    assert f"12 records in {len(shards(store))} shards" in result.stdout
    assert "x)" in result.stdout
    before, after = ActivationStore(store), ActivationStore(tmp_path / "new")
    assert (after.backend, after.sites) == ("zstd", ["layer_0", "layer_1"])
    expected = before.stack("layer_1", positions="last_prompt").float()
    assert torch.equal(after.stack("layer_1", positions="last"), expected)
    shown = actframe("show", tmp_path / "new").stdout
    assert f"converted from {store}" in squeeze(shown)
    assert "storage zstd; sites layer_*; positions last_prompt; dtype float32" in squeeze(shown)


def test_convert_as_json_says_what_was_written(store, tmp_path):
    done = parse(actframe("convert", store, tmp_path / "new", "--json"))
    count = len(shards(store))
    assert (done["records"], done["shards"], done["written"]) == (12, count, count)
    assert done["ratio"] == done["bytes_before"] / done["bytes_after"]
    assert done["location"] == str(tmp_path / "new")


def test_an_interrupted_convert_says_so_and_goes_on(store, tmp_path, monkeypatch):
    show = ByteBar.__call__

    def interrupt(bar, done, total):
        show(bar, done, total)
        if len(list((tmp_path / "new" / "shards").iterdir())) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ByteBar, "__call__", interrupt)
    result = actframe("convert", store, tmp_path / "new")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "the same command again goes on" in squeeze(result.stderr)
    monkeypatch.undo()
    done = parse(actframe("convert", store, tmp_path / "new", "--json"))
    assert done["written"] == len(shards(store)) - 2
    assert questions(tmp_path / "new") == list(range(12))
    complete = actframe("convert", store, tmp_path / "new")
    assert "complete already" in complete.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["new", "--storage", "zst"], 1, "did you mean 'zstd'?"),
        (["new", "--positions", "lats"], 2, "no positions 'lats'"),
        (["new", "--dtype", "float99"], 2, "torch has no dtype 'float99'"),
        (["new", "--sites", "layer_9"], 1, "holds no site 'layer_9'"),
        (["new", "--force"], 2, "a store is never replaced"),
        (["new.safetensors"], 2, "--storage safetensors"),
        (["run"], 2, "it is the store itself"),
        (["other"], 1, "is a store already"),
        (["folder"], 1, "holds other things"),
    ],
)
def test_a_convert_that_makes_no_sense_is_refused_before_anything_is_written(store, tmp_path, arguments, code, words):
    fill(tmp_path / "other", range(3))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    result = actframe("convert", store, tmp_path / arguments[0], *arguments[1:])
    assert result.exit_code == code, result.output
    assert words in squeeze(result.stderr.replace("│", ""))
    assert "goes on" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_for_stores_is_refused_for_files(tmp_path):
    path = save_activations(random_record(1), tmp_path / "one.safetensors")
    for flag, value in (("--storage", "zstd"), ("--positions", "last"), ("--dtype", "float32")):
        result = actframe("convert", path, tmp_path / "two.safetensors", flag, value)
        assert result.exit_code == 2
        assert flag in result.stderr
    done = parse(actframe("convert", path, tmp_path / "two.safetensors", "--json"))
    assert done["bytes_before"] == path.stat().st_size


def test_converting_a_damaged_store_says_what_to_do(store, tmp_path):
    flip(shards(store)[1])
    result = actframe("convert", store, tmp_path / "new")
    assert result.exit_code == 1
    assert "actframe repair" in result.stderr


def test_stores_are_written_behind_a_url(store, tmp_path):
    url = f"memory://{tmp_path.name}"
    other = fill(tmp_path / "other", range(12, 15))
    assert f"wrote the store {url}/new" in actframe("convert", store, f"{url}/new").stdout
    assert actframe("merge", f"{url}/new", other, "--into", f"{url}/all").exit_code == 0
    assert questions(f"{url}/all") == list(range(15))
    done = parse(actframe("export", f"{url}/all", "--to", "npz", "--out", tmp_path / "x.npz", "--json"))
    assert done["records"] == 15


def test_merge_makes_one_store_of_several(tmp_path):
    parts = [fill(tmp_path / name, numbers) for name, numbers in (("a", range(5)), ("b", range(5, 12)))]
    result = actframe("merge", *parts, "--into", tmp_path / "all")
    assert result.exit_code == 0
    assert questions(tmp_path / "all") == list(range(12))
    assert f"merged from {parts[0]} (5), {parts[1]} (7)" in squeeze(actframe("show", tmp_path / "all").stdout)
    assert parse(actframe("merge", *parts, "--into", tmp_path / "all", "--json"))["written"] == 0


@pytest.mark.parametrize(
    ("names", "into", "code", "words"),
    [
        (["run"], "all", 2, "give two stores or more"),
        (["run", "./run"], "all", 2, "is given twice"),
        (["run", "other"], "run", 2, "is one of the stores to merge"),
        (["run", "copy"], "all", 1, "one is made of the other"),
        (["run", "other"], "all", 1, "to the same questions: sums/0 (trial 0)"),
        (["run", "rum"], "all", 1, "did you mean 'run'?"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(store, tmp_path, monkeypatch, names, into, code, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store, tmp_path / "copy")
    fill(tmp_path / "other", range(3))
    result = actframe("merge", *names, "--into", into)
    assert result.exit_code == code, result.output
    assert words in squeeze(result.stderr.replace("│", ""))
    assert not (tmp_path / "all").exists()


# show


def test_show_says_of_a_run_what_its_results_say(tiny, tmp_path):
    chosen = settings(capture=CaptureSettings(), num_trials=2, temperature=1.0)
    result = BenchmarkRun(tiny, Toy(), tmp_path / "run", chosen).execute()
    shown = parse(actframe("show", tmp_path / "run", "--json"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert shown["accuracy"] == {"tiny": results["summary"]}
    assert shown["by_subject"] == results["by_subject"]
    assert (shown["records"], shown["expected"], shown["questions"], shown["trials"]) == (18, 18, 9, 2)
    assert (shown["models"], shown["benchmarks"]) == ({"tiny": 18}, ["toy"])
    assert shown["run"] == ActivationStore(tmp_path / "run").run
    stamps = [record.timestamp for record in ActivationStore(tmp_path / "run")]
    assert (shown["first"], shown["last"]) == (min(stamps), max(stamps))
    assert len(shown["preview"]) == 5
    assert set(shown) == SHOWN
    text = squeeze(actframe("show", tmp_path / "run").stdout)
    low, high = (f"{bound:.1%}" for bound in (result.summary.low, result.summary.high))
    for words in [
        "model tiny (LlamaForCausalLM, float32)",
        "benchmark toy",
        "records 18: 9 questions, 2 trials, 1 shard, 1 writer",
        "temperature 1.0",
        "embeddings, layer_0 .. layer_3; positions all; strategy hooks",
        f"{result.summary.accuracy:.1%} {low} - {high}",
        "layer_0 .. layer_3 (4) (pos, 32) float32",
        "Q: the second question is long",
        "question trial answer expected",
    ]:
        assert words in text, words
    assert "state" not in text


def test_show_gives_the_sites_their_true_shapes_and_sizes(store):
    shown = parse(actframe("show", store, "--json"))
    opened = ActivationStore(store)
    tensors = [record.activations["layer_1"] for record in opened]
    size = sum(tensor.numel() * 2 for tensor in tensors)
    rows = sum(len(tensor) for tensor in tensors)
    assert shown["sites"][2] == {
        "site": "layer_1",
        "shape": ["pos", 16],
        "dtype": "bfloat16",
        "records": 12,
        "rows": rows,
        "bytes": size,
    }
    on_disk = sum(file.stat().st_size for file in shards(store))
    assert shown["bytes_on_disk"]["shards"] == on_disk
    assert shown["tensor_bytes"] == 3 * size
    assert shown["ratio"] == 3 * size / on_disk


def test_positions_that_are_as_many_in_each_record_are_a_number(store, tmp_path):
    actframe("convert", store, tmp_path / "new", "--positions", "last")
    assert parse(actframe("show", tmp_path / "new", "--json"))["sites"][0]["shape"] == [1, 16]


def test_sites_of_very_many_shards_are_estimated_from_some(tmp_path):
    path = fill(tmp_path / "run", range(100), shard_bytes=1)
    found = parse(actframe("show", path, "--json"))
    assert (found["shards"], found["shards_looked_at"]) == (100, 64)
    assert found["sites"][0]["records"] == 100
    true = sum(3 + number % 4 for number in range(100)) * 16 * 2
    assert found["sites"][0]["bytes"] == pytest.approx(true, rel=0.05)
    assert "From 64 of 100 shards" in actframe("show", path).stdout


def test_where_looking_into_shards_takes_long_one_is_enough(store, monkeypatch):
    monkeypatch.setattr(stored_sites, "MOST_SECONDS", 0)
    found = parse(actframe("show", store, "--json"))
    assert (found["shards_looked_at"], found["sites"][0]["records"]) == (1, 12)


def test_show_says_why_a_run_ended_early(tiny, tmp_path):
    chosen = settings(capture=CaptureSettings(), batch_size=1)
    BenchmarkRun(tiny, Toy(), tmp_path / "whole", chosen).execute()
    limit = ActivationStore(tmp_path / "whole").bytes_on_disk // 2
    part = settings(capture=CaptureSettings(), batch_size=1, max_disk_bytes=limit)
    ended = BenchmarkRun(tiny, Toy(), tmp_path / "part", part).execute()
    assert ended.partial
    assert parse(actframe("show", tmp_path / "part", "--json"))["ended"] == ended.reason
    assert f"not complete ({squeeze(ended.reason)})" in squeeze(actframe("show", tmp_path / "part").stdout)


def test_show_and_repair_of_a_store_whose_identity_is_lost(store):
    (store / "run.json").unlink()
    assert "its run.json is lost" in squeeze(actframe("show", store).stdout)
    assert "run.json" in actframe("verify", store).stdout
    repaired = squeeze(actframe("repair", store).stdout)
    assert "made anew, with what the shards say of their run" in repaired
    assert parse(actframe("show", store, "--json"))["run"] == RUN


def test_show_says_that_a_run_is_not_complete_and_how_it_goes_on(tiny, tmp_path):
    job = BenchmarkRun(tiny, Toy(), tmp_path / "run", settings(capture=CaptureSettings(), flush_every=1))
    with pytest.raises(KeyboardInterrupt), interrupted_at_forward(tiny.model, 8):
        job.execute()
    text = squeeze(actframe("show", tmp_path / "run").stdout)
    there = len(ActivationStore(tmp_path / "run"))
    assert 0 < there < 9
    assert f"records {there} of 9" in text
    assert "not complete" in text
    assert "same `actframe run` command again goes on" in text
    row = next(line for line in actframe("ls", tmp_path).stdout.splitlines() if "toy" in line)
    assert re.search(rf" {there} .* of 9 answers$", row.rstrip())


def test_show_says_that_a_store_is_being_written(store):
    with ActivationStore(store) as writing:
        writing.append(random_record(12))
        writing.flush()
        result = actframe("show", store)
        listed = parse(actframe("ls", store, "--json"))
    assert "1 process writing to it now" in squeeze(result.stdout)
    assert [each["writing"] for each in listed] == [True]
    assert parse(actframe("show", store, "--json"))["writing"] == []


def test_show_tells_models_apart_and_counts_an_answer_once(tmp_path):
    one = fill(tmp_path / "one", said={"model": "one"})
    two = fill(tmp_path / "two", said={"model": "two", "correct": True}, run={"model": {"name": "two"}})
    assert actframe("merge", one, two, "--into", tmp_path / "both").exit_code == 0
    found = parse(actframe("show", tmp_path / "both", "--json"))
    assert found["models"] == {"one": 12, "two": 12}
    accuracy = {label: each["accuracy"] for label, each in found["accuracy"].items()}
    assert accuracy == {"one, sums": 4 / 12, "two": 1.0}
    fill(one, range(3), said={"model": "one", "correct": False})
    again = parse(actframe("show", one, "--json"))
    assert (again["records"], again["accuracy"]["one"]["answers"]) == (15, 12)


def test_show_of_records_that_are_no_answers_shows_them_without_marks(tmp_path):
    said = {"question_id": None, "correct": None, "subject": None}
    with ActivationStore(tmp_path / "plain") as store:
        for number in range(3):
            record = dict(random_record(number))
            store.append({key: value for key, value in record.items() if key not in said})
    result = actframe("show", tmp_path / "plain")
    assert result.exit_code == 0
    assert "What is 2 + 2?" in result.stdout
    assert not {"Accuracy", "wrong", "expected", "question", "answer"} & set(result.stdout.split())
    assert "prompt response" in squeeze(result.stdout)
    assert parse(actframe("show", tmp_path / "plain", "--json"))["accuracy"] == {}


@pytest.mark.parametrize(("responses", "heads"), [(None, "records text ─"), (["6"], "records prompt response ─")])
def test_show_calls_texts_texts_and_pairs_prompts_with_responses(tiny, tmp_path, responses, heads):
    with ActivationStore(tmp_path / "texts") as store:
        capture_texts(tiny.model, tiny.tokenizer, ["three and three"], into=store, responses=responses)
    assert heads in squeeze(actframe("show", tmp_path / "texts").stdout)


def test_an_empty_store_can_be_looked_at(tmp_path):
    ActivationStore(tmp_path / "empty").close()
    result = actframe("show", tmp_path / "empty")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "records 0" in squeeze(result.stdout)
    assert parse(actframe("show", tmp_path / "empty", "--json"))["sites"] == []
    assert actframe("verify", tmp_path / "empty").exit_code == 0


def test_a_store_of_a_run_without_answers_names_its_model(tmp_path):
    ActivationStore(tmp_path / "begun", run=RUN).close()
    assert "model tiny (bfloat16)" in squeeze(actframe("show", tmp_path / "begun").stdout)
    assert parse(actframe("show", tmp_path / "begun", "--json"))["models"] == {"tiny": 0}


def test_show_of_a_damaged_store_says_so(damaged):
    with pytest.warns(RuntimeWarning, match="1 shard is missing"):
        text = squeeze(actframe("show", damaged).stdout)
    assert "1 missing shard" in text
    assert "actframe verify" in text


@pytest.mark.parametrize("columns", [80, 120])
def test_a_store_cannot_drive_the_terminal(tmp_path, columns):
    evil = "\x1b]0;pwned\x07[bold red]x[/] \x9b2J\n" + "long " * 2000
    said = dict.fromkeys(("model", "subject", "prompt", "response", "extracted_answer", "expected"), evil)
    run = {"model": {"name": evil, "class": evil}, "benchmark": {"name": evil}, "generation": {evil: evil}}
    path = fill(tmp_path / "evil", range(3), run={**run, "capture": {"sites": [evil]}}, said=said)
    for command in ("show", "ls", "verify"):
        result = actframe(command, path, columns=columns)
        assert result.exit_code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(result.stdout)
        widest = max(len(line.rstrip()) for line in result.stdout.splitlines() if str(path) not in line)
        assert widest <= columns
        assert len(result.stdout.splitlines()) < 80
    parse(actframe("show", path, "--json"))


@pytest.mark.parametrize("run", [{"model": "x"}, {"merged": 3}, {"benchmark": [1]}, {"num_trials": "x", "capture": 1}])
def test_what_defines_a_run_may_be_anything(tmp_path, run):
    path = fill(tmp_path / "odd", range(3), run=run)
    for command in ("show", "ls"):
        assert actframe(command, path).exit_code == 0
        parse(actframe(command, path, "--json"))


@pytest.mark.parametrize("odd", [["a"], {"b": [1]}, 3.5, "x" * 3000, None, True])
@pytest.mark.parametrize(
    "key", ["question_id", "trial", "model", "subject", "correct", "chance", "timestamp", "prompt"]
)
def test_records_may_say_anything(tmp_path, key, odd):
    with ActivationStore(tmp_path / "odd") as store:
        store.append(random_record(0))
        store.append(random_record(1, **{key: odd}))
    found = parse(actframe("show", tmp_path / "odd", "--json"))
    assert found["records"] == 2
    assert sum(each["answers"] for each in found["accuracy"].values()) == 2 - (key == "correct" and odd in ODD_GRADES)
    for command in ("show", "ls", "verify"):
        assert actframe(command, tmp_path / "odd").exit_code == 0


# ls


def test_ls_lists_the_stores_below_a_folder_and_none_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "a")
    fill(tmp_path / "deep" / "er" / "b", range(3), run=None)
    fill(tmp_path / "a" / "shards" / "inner", range(1))
    fill(tmp_path / ".hidden" / "c", range(1))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{}")
    os.symlink(tmp_path, tmp_path / "loop")
    result = actframe("ls")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()[2:4]]
    assert [row[:4] for row in rows] == [["a", "tiny", "sums", "12"], ["deep/er/b", "tiny", "-", "3"]]
    found = parse(actframe("ls", tmp_path, "--json"))
    assert [each["location"] for each in found] == [str(tmp_path / "a"), str(tmp_path / "deep" / "er" / "b")]
    assert found[0]["bytes"] == ActivationStore(tmp_path / "a").bytes_on_disk
    assert set(found[0]) == {
        *("location", "models", "benchmarks", "records", "expected", "bytes", "last_write", "writing", "problem")
    }


def test_ls_goes_on_past_stores_that_are_damaged(tmp_path):
    for name in ("a", "b", "c", "d"):
        fill(tmp_path / name, range(3))
    (tmp_path / "a" / "run.json").write_text("{torn")
    (tmp_path / "b" / "run.json").unlink()
    for file in (tmp_path / "c" / "ledger").iterdir():
        file.write_bytes(b"\xff\xfe\n")
    found = parse(actframe("ls", tmp_path, "--json"))
    assert [each["records"] for each in found] == [3, 3, 1, 3]
    assert "damaged" in found[0]["problem"]
    assert "lost" in found[1]["problem"]
    assert "lost" in actframe("ls", tmp_path).stdout


def test_ls_says_that_there_are_none(tmp_path):
    result = actframe("ls", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no stores below {tmp_path}" in result.stderr
    assert parse(actframe("ls", tmp_path, "--json")) == []


@pytest.mark.parametrize("url", ["memory://clistores", "s3"])
def test_stores_behind_a_url_are_listed_shown_and_verified(url, request):
    url = request.getfixturevalue("s3_url") if url == "s3" else url
    fill(f"{url}/runs/first")
    fill(f"{url}/runs/deep/second", range(3))
    found = parse(actframe("ls", f"{url}/runs", "--json"))
    assert [(each["location"], each["records"]) for each in found] == [
        (f"{url}/runs/deep/second", 3),
        (f"{url}/runs/first", 12),
    ]
    assert f"{url}/runs/first" in actframe("ls", url).stdout
    shown = parse(actframe("show", f"{url}/runs/first", "--json"))
    assert (shown["records"], shown["shards_looked_at"], len(shown["sites"])) == (12, 1, 3)
    assert actframe("verify", f"{url}/runs/first").exit_code == 0
    missing = actframe("show", f"{url}/runs/frist")
    assert (missing.exit_code, "did you mean 'first'?" in missing.stderr) == (1, True)
    assert "is a part of the store" in actframe("show", f"{url}/runs/first/shards").stderr


# What is no store


@pytest.mark.parametrize("command", ["verify", "repair", "show"])
def test_what_is_no_store_is_named_with_what_to_do(command, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "answers.jsonl").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "more" / "notes").mkdir(parents=True)
    expected = {
        "files": "--layout files",
        "empty": "empty is an empty folder",
        "more": "`actframe ls more` lists the stores",
        "run/shards": "is a part of the store run",
        "rum": "there is no store at rum: nothing is there (did you mean 'run'?)",
    }
    if command != "show":
        save_activations(random_record(1), tmp_path / "one.safetensors")
        expected["one.safetensors"] = "`actframe show one.safetensors`"
        expected["run/run.json"] = "is a part of the store run"
        expected["rum/deep"] = "no folder"
    for path, words in expected.items():
        result = actframe(command, path)
        assert (result.exit_code, result.stdout) == (1, ""), path
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert words in result.stderr


def test_within_a_store_its_parts_are_told_from_it(store, monkeypatch):
    monkeypatch.chdir(store / "ledger")
    assert "error: . is a part of the store ..;" in actframe("show", ".").stderr
    monkeypatch.chdir(store)
    assert actframe("verify", ".").exit_code == 0


@pytest.mark.parametrize("command", [["stats"], ["compare", "other"]])
def test_a_store_where_a_file_is_wanted_is_told_from_a_file(store, tmp_path, command):
    path = save_activations(random_record(1), tmp_path / "one.safetensors")
    result = actframe(command[0], *([path] if len(command) > 1 else []), store)
    assert result.exit_code == 1
    assert f"{store} is a store, and {command[0]} takes an activation file" in result.stderr
    assert "actframe show" in result.stderr


# export


def load_exported(to, path, site):
    if to == "parquet":
        table = parquet.read_table(path)
        return table["question_id"].to_pylist(), table[site].to_pylist()
    if to == "npz":
        with numpy.load(path) as arrays:
            return arrays["question_id"].tolist(), arrays[site].tolist()
    found = datasets.load_from_disk(path)
    return list(found["question_id"]), list(found[site])


@pytest.mark.parametrize(("to", "name"), [("parquet", "run.parquet"), ("npz", "run.npz"), ("hf", "run-hf")])
def test_export_writes_what_other_programs_read(store, tmp_path, monkeypatch, to, name):
    monkeypatch.chdir(tmp_path)
    result = actframe(
        "export", store, "--to", to, "--sites", "layer_1", "--positions", "last", "--where", "correct=true"
    )
    assert result.exit_code == 0, result.output
    assert f"wrote {tmp_path / name}" in result.stdout
    assert "4 records, 1 site" in result.stdout
    asked, values = load_exported(to, str(tmp_path / name), "layer_1")
    assert asked == [f"sums/{number}" for number in (0, 3, 6, 9)]
    expected = ActivationStore(store).where(correct=True).stack("layer_1", positions="last").float()
    assert torch.equal(torch.tensor(values), expected)
    command = shlex.split(result.stdout.splitlines()[-1])
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "layer_1" in shown


def test_export_as_json_says_what_was_written_and_replaces_only_if_told(store, tmp_path):
    arguments = ["export", store, "--to", "npz", "--out", tmp_path / "x.npz", "--json"]
    done = parse(actframe(*arguments))
    assert (done["location"], done["records"], done["files"]) == (str(tmp_path / "x.npz"), 12, 1)
    assert done["bytes"] == (tmp_path / "x.npz").stat().st_size
    refused = actframe(*arguments)
    assert (refused.exit_code, "--overwrite" in refused.stderr) == (1, True)
    assert parse(actframe(*arguments, "--overwrite")) == done


@pytest.mark.parametrize(
    ("conditions", "records"),
    [
        (["subject=even"], 6),
        (["subject=even", "correct=True"], 2),
        (["trial=0"], 12),
        (["question_id=sums/3"], 1),
        (["prompt=What is 2 + 2?"], 1),
        (["level=7"], 12),
        (["grade=null"], 12),
    ],
)
def test_records_are_chosen_by_what_they_say(tmp_path, conditions, records):
    path = fill(tmp_path / "run", said={"level": "7", "grade": None})
    where = [argument for condition in conditions for argument in ("--where", condition)]
    done = parse(actframe("export", path, "--to", "npz", "--out", tmp_path / "x.npz", *where, "--json"))
    assert done["records"] == records


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "parqet"], 2, "did you mean 'parquet'?"),
        (["--to", "npz", "--where", "correct"], 2, "correct=false"),
        (["--to", "npz", "--where", "subject=eben"], 1, "did you mean 'even'?"),
        (["--to", "npz", "--where", "sobject=even"], 1, "did you mean 'subject'?"),
        (["--to", "npz", "--positions", "lats"], 2, "no positions 'lats'"),
        (["--to", "npz", "--sites", "layer_7"], 1, "no site 'layer_7'"),
        (["--to", "npz", "--out", "x.parquet"], 1, "ends with '.npz'"),
    ],
)
def test_an_export_that_makes_no_sense_is_refused(store, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = actframe("export", store, *arguments)
    assert result.exit_code == code, result.output
    assert words in squeeze(result.stderr.replace("│", ""))
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
