"""`actframe capture`: texts of a file into a store, resumable, with what is wrong said before long work."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer

import pytest
import torch
from test_hub_data import COMMIT, DATA, Hub
from toys import interrupted_at_forward, no_forward
from typer.testing import CliRunner

from actframe import ActivationStore, capture_texts
from actframe.cli.main import app
from actframe.errors import BenchmarkError, SettingsError, StorageError
from actframe.runs.models import load_model
from actframe.runs.recording import CaptureSettings
from actframe.runs.settings import RunSettings
from actframe.runs.text_data import TextData, TextFields
from actframe.runs.text_run import TextRun, TextSettings
from actframe.testing import tiny_model, tiny_tokenizer

ROWS = [
    {"id": f"r{number}", "text": "ab " * (1 + number * 5 % 11), "label": number % 3, "tags": ["x", number]}
    for number in range(20)
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A folder with a tiny model, as a user would have one."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", max_position_embeddings=64).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(model_folder):
    return load_model(model_folder)


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "data.jsonl", ROWS)


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["capture", *map(str, arguments)])


@pytest.fixture
def quick(model_folder, data, tmp_path):
    """A command over twenty short texts, and the folder it writes to."""
    place = ["--activation-save-dir", tmp_path / "out"]
    return ["--model", model_folder, "--data", data, "--layers", "1", "--batch-tokens", 100, *place]


def settings(select=1, **more):
    own = {name: more.pop(name) for name in ("batch_tokens", "chat", "too_long", "empty") if name in more}
    return TextSettings(RunSettings(capture=CaptureSettings(select), **more), **{"batch_tokens": 100, **own})


def text_run(loaded, data, folder, *, fields=None, overwrite=False, limit=None, **more):
    texts = TextData(str(data), fields or TextFields(), limit=limit)
    return TextRun(loaded, texts, folder, settings(**more), overwrite=overwrite)


def assert_same_store(found, expected):
    """The same records, bit for bit, whatever their order; only the time of writing may differ."""
    ours, theirs = ({record.text_id: record for record in store} for store in (found, expected))
    assert len(found) == len(ours) == len(theirs)
    for key, record in ours.items():
        other = theirs[key]
        assert {**record, "timestamp": None, "activations": None} == {**other, "timestamp": None, "activations": None}
        for site, tensor in record.activations.items():
            assert torch.equal(tensor, other.activations[site])


# The command.


def test_each_row_becomes_a_record_with_what_the_row_says(quick, loaded, tmp_path):
    result = actframe(*quick)
    assert result.exit_code == 0, result.stderr
    assert "20 of 20 texts captured by" in result.stdout
    assert "20/20" in result.stderr
    store = ActivationStore(tmp_path / "out")
    records = {record.text_id: record for record in store}
    assert sorted(records) == sorted(row["id"] for row in ROWS)
    alone = capture_texts(loaded, None, [row["text"] for row in ROWS], 1, batch_tokens=100)
    for number, row in enumerate(ROWS):
        record = records[row["id"]]
        assert (record.prompt, record.label, record.tags, record.row) == (
            row["text"],
            row["label"],
            row["tags"],
            number,
        )
        assert record.recorded == "replay"
        assert torch.equal(record.activations["layer_1"], alone[number].activations["layer_1"])
    assert len(store.where(label=2)) == sum(row["label"] == 2 for row in ROWS)


def test_the_same_command_again_computes_nothing(quick, tmp_path):
    assert actframe(*quick).exit_code == 0
    shards = sorted((tmp_path / "out" / "shards").iterdir())
    again = actframe(*quick)
    assert again.exit_code == 0
    assert "all 20 records are in" in again.stderr
    assert sorted((tmp_path / "out" / "shards").iterdir()) == shards


def test_another_run_in_the_folder_is_refused_with_what_differs_unless_it_is_replaced(quick, data, tmp_path):
    assert actframe(*quick).exit_code == 0
    other = actframe(*quick, "--layers", "2", "--limit", 5)
    assert other.exit_code == 1
    assert "holds another run" in other.stderr
    assert "limit: none -> 5" in other.stderr
    assert "capture.sites: layer_1 (1) -> layer_2 (1)" in other.stderr
    written(data, ROWS[:7])
    assert "data.fingerprint" in actframe(*quick).stderr
    replaced = actframe(*quick, "--overwrite")
    assert replaced.exit_code == 0
    assert len(ActivationStore(tmp_path / "out")) == 7


def test_pairs_have_their_boundary(quick, data, tmp_path):
    written(data, [{"q": "who?", "a": "nobody"}, {"q": "what then?", "a": "no"}])
    result = actframe(*quick, "--prompt-field", "q", "--response-field", "a", "--positions", "response")
    assert result.exit_code == 0, result.stderr
    first, second = sorted(ActivationStore(tmp_path / "out"), key=lambda record: record.row)
    assert (first.prompt, first.response, first.prompt_tokens, first.text_id) == ("who?", "nobody", 4, 0)
    assert first.positions == [4, 5, 6, 7, 8, 9]
    assert second.positions == [10, 11]


def test_json_is_all_there_is_on_stdout(quick, data):
    written(data, [*ROWS, {"id": "long", "text": "x" * 65}, {"id": "none", "text": " "}])
    told = json.loads(actframe(*quick, "--too-long", "skip", "--empty", "skip", "--json").stdout)
    assert (told["texts"], told["records"], told["new"]) == (22, 20, 20)
    assert told["skipped"] == {"too_long": {"count": 1, "first": ["long"]}, "empty": {"count": 1, "first": ["none"]}}
    assert told["partial"] is False
    assert told["sites"] == ["layer_1"]
    again = json.loads(actframe(*quick, "--too-long", "skip", "--empty", "skip", "--json").stdout)
    assert (again["records"], again["new"]) == (20, 0)


def test_skipped_texts_are_counted_and_named(quick, data):
    written(data, [*ROWS, {"id": "long", "text": "x" * 65}])
    result = actframe(*quick, "--too-long", "skip")
    assert result.exit_code == 0
    assert "of 21 texts, 1 are skipped: 1 (long) do not fit the context of 64 tokens" in result.stderr
    assert "20 of 21 texts captured" in result.stdout


def test_a_dry_run_says_what_it_takes_and_writes_nothing(quick, tmp_path):
    result = actframe(*quick, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "20 of 20" in result.stdout
    assert not (tmp_path / "out").exists()
    told = json.loads(actframe(*quick, "--dry-run", "--json").stdout)
    assert told["tokens"] == sum(len(row["text"]) for row in ROWS)
    assert told["token_bytes"] == 32 * 4
    assert actframe(*quick).exit_code == 0
    taken = ActivationStore(tmp_path / "out").bytes_on_disk
    assert 0.5 * taken < told["disk_bytes"] < 1.5 * taken


def test_max_disk_ends_it_and_more_room_goes_on(quick, tmp_path):
    ended = actframe(*quick, "--max-disk", "100kB", "--flush-every", "3")
    assert ended.exit_code == 1
    assert "ended early: the folder may take 100.0 kB" in ended.stderr
    kept = len(ActivationStore(tmp_path / "out"))
    assert 0 < kept < 20
    assert f"{kept} of 20 records are kept" in ended.stderr
    assert actframe(*quick).exit_code == 0
    assert len(ActivationStore(tmp_path / "out")) == 20


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--too-long", "cut"], "'cut' is not one of error, skip"),
        (["--chat-template", "yes"], "'yes' is not one of auto, on, off"),
        (["--prompt-field", "text"], "a pair has a prompt field and a response field"),
        (["--field", "a", "--prompt-field", "b", "--response-field", "c"], "give either the one or the others"),
        (["--split", "test"], "a split is of a data set on the hub"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(quick, more, message):
    result = actframe(*quick, *more)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


# What is wrong with the data is said before the model runs.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "txt": "x"}], r"line 1 has no field 'text' \(did you mean 'txt'\?\); it has 'id', 'txt'"),
        ([{"text": "x"}, {"text": None}], "line 2: 'text' should be a text, not None"),
        ([{"text": "x"}, {"text": ["x"]}], "line 2: 'text' should be a text, not "),
        (
            [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}, {"id": "a", "text": "z"}],
            "the rows 0 and 2 of .* have the same id",
        ),
        ([{"text": "x", "model": 1, "data_model": 2}], "has both 'model' and 'data_model'"),
        ([], "holds no text"),
        (
            [{"text": "x" * 65}, {"text": "y"}, {"text": "z" * 70}],
            r"of 3 texts, 2 \(0, 2\) do not fit the context of 64",
        ),
        ([{"text": "y"}, {"id": "e", "text": ""}], r"of 2 texts, 1 \(e\) are empty"),
    ],
)
def test_rows_that_cannot_be_computed_are_said_before_the_model_runs(loaded, tmp_path, rows, message):
    data = written(tmp_path / "data.jsonl", rows)
    with no_forward(loaded.model), pytest.raises(ValueError, match=message):
        text_run(loaded, data, tmp_path / "out").execute()
    assert not (tmp_path / "out").exists()


def test_fields_with_names_that_records_use_are_said_under_another(loaded, tmp_path):
    data = written(tmp_path / "data.jsonl", [{"text": "x", "model": "gpt", "timestamp": 3, "dropped": 1}])
    text_run(loaded, data, tmp_path / "out", fields=TextFields(drop=("dropped",))).execute()
    (record,) = ActivationStore(tmp_path / "out")
    assert record.model == loaded.name
    assert (record.data_model, record.data_timestamp) == ("gpt", 3)
    assert "dropped" not in record


def test_a_folder_that_holds_another_store_is_refused_at_once(loaded, data, tmp_path):
    with ActivationStore(tmp_path / "out") as store:
        capture_texts(loaded, None, ["a"], 1, into=store)
    with no_forward(loaded.model), pytest.raises(StorageError, match=r"lost its run\.json"):
        text_run(loaded, data, tmp_path / "out")


# Formats.


def test_every_format_gives_the_same_texts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"id": "a", "text": "None"}, {"id": "b", "text": "one, two"}, {"id": "c", "text": 'a "quoted" é'}]
    written(tmp_path / "t.jsonl", rows)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with (tmp_path / "t.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "text"])
        table.writeheader()
        table.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.json", "t.csv", "t.parquet"):
        texts = list(TextData(str(tmp_path / name), TextFields()))
        assert [(text.prompt, text.about["text_id"]) for text in texts] == [(row["text"], row["id"]) for row in rows]
    (tmp_path / "t.txt").write_text("one\n\n two\r\nthree")
    texts = list(TextData(str(tmp_path / "t.txt"), TextFields()))
    assert [(text.number, text.prompt) for text in texts] == [(0, "one"), (1, " two"), (2, "three")]


def test_each_file_of_a_folder_of_plain_files_is_one_text(tmp_path):
    folder = tmp_path / "letters"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "one.txt").write_bytes(b"first line\r\n\nthird line\n")
    (folder / "a.txt").write_text("\ufeffshort")
    (folder / ".hidden.txt").write_text("not seen")
    data = TextData(str(folder), TextFields())
    found = [(text.number, text.about["text_id"], text.prompt) for text in data]
    assert found == [(0, "a.txt", "short"), (1, "b/one.txt", "first line\r\n\nthird line")]
    before = data.identity()
    (folder / "a.txt").rename(folder / "c.txt")
    assert TextData(str(folder), TextFields()).identity() != before
    (folder / "rows.jsonl").write_text('{"text": "a row"}')
    assert [text.prompt for text in TextData(str(folder), TextFields())] == ["a row"]
    (folder / "rows.jsonl").unlink()
    (folder / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BenchmarkError, match=r"c\.txt cannot be read"):
        list(TextData(str(folder), TextFields()))


def test_a_large_file_is_streamed(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"text": "line {number}"}}\n' for number in range(200_000))
    texts = iter(TextData(str(path), TextFields()))
    began = time.process_time()
    assert next(texts).prompt == "line 0"
    assert time.process_time() - began < 0.1


# Going on.


def test_what_was_interrupted_goes_on_and_becomes_what_it_would_have_been(loaded, data, tmp_path):
    whole = text_run(loaded, data, tmp_path / "whole")
    whole.execute()
    run = text_run(loaded, data, tmp_path / "out")
    with interrupted_at_forward(loaded.model, 5, layer=0), pytest.raises(KeyboardInterrupt):
        run.execute()
    assert run.result.reason == "interrupted"
    kept = run.result.records
    assert 0 < kept < 20
    assert len(ActivationStore(tmp_path / "out")) == kept
    result = text_run(loaded, data, tmp_path / "out").execute()
    assert (result.records, result.new) == (20, 20 - kept)
    assert_same_store(ActivationStore(tmp_path / "out"), ActivationStore(tmp_path / "whole"))


def test_a_batch_of_which_a_part_is_there_gives_the_rest_as_it_would_have_been(loaded, data, tmp_path):
    text_run(loaded, data, tmp_path / "whole").execute()
    run = text_run(loaded, data, tmp_path / "out")

    def stop_within_a_batch(now):
        if now.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(stop_within_a_batch)
    assert len(ActivationStore(tmp_path / "out")) == 7
    text_run(loaded, data, tmp_path / "out").execute()
    assert_same_store(ActivationStore(tmp_path / "out"), ActivationStore(tmp_path / "whole"))


def test_ctrl_c_of_the_command_keeps_what_is_there(model_folder, tmp_path):
    data = written(tmp_path / "data.jsonl", [{"text": "x y " * 15} for _ in range(20_000)])
    command = [sys.executable, "-m", "actframe", "capture", "--model", model_folder, "--data", data]
    command += ["--activation-save-dir", tmp_path / "out", "--flush-every", "20", "--batch-tokens", 128]
    environment = {**os.environ, "COLUMNS": "120"}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        ledger = tmp_path / "out" / "ledger"
        for _ in range(1200):
            if ledger.exists() and any(file.stat().st_size for file in ledger.iterdir()):
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    kept = len(ActivationStore(tmp_path / "out"))
    assert 0 < kept < 20_000
    assert f"{kept} of 20000 records are kept in" in said
    assert "the same command again goes on from there" in said


# Data sets of the hub.


@pytest.fixture
def hub(tmp_path):
    """The environment of a process whose hub is on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "120",
        }
        server.shutdown()


def test_a_data_set_of_the_hub_is_captured_and_its_commit_kept(hub, tmp_path):
    pytest.importorskip("datasets")
    tiny_model("llama", max_position_embeddings=512).save_pretrained(tmp_path / "roomy")
    tiny_tokenizer().save_pretrained(tmp_path / "roomy")
    command = [sys.executable, "-m", "actframe", "capture", "--model", tmp_path / "roomy", "--layers", "1"]
    command += ["--split", "test", "--prompt-field", "question", "--response-field", "answer"]
    command += ["--activation-save-dir", tmp_path / "out", "--json", "--data"]
    done = subprocess.run(
        [*map(str, command), "openai/gsm8k"], env=hub, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = [json.loads(line) for line in (DATA / "test.jsonl").read_text().splitlines()]
    assert told["records"] == told["texts"] == len(rows)
    store = ActivationStore(tmp_path / "out")
    pairs = {(row["question"], row["answer"]) for row in rows}
    assert {(record.prompt, record.response) for record in store} == pairs
    assert store.run["data"]["revision"] == COMMIT
    assert store.run["data"]["split"] == "test"
    gated = subprocess.run(
        [*map(str, command), "own/gated"], env=hub, capture_output=True, text=True, check=False, timeout=300
    )
    assert gated.returncode == 1
    assert "is gated" in gated.stderr
    assert "--data" in gated.stderr


def test_a_data_set_that_cannot_be_had_says_so_and_how_to_use_a_file(loaded, tmp_path):
    with pytest.raises(BenchmarkError, match=r"nobody/nothing.*(cache|hub)"):
        TextRun(loaded, TextData("nobody/nothing", TextFields()), tmp_path / "out", settings())


def test_fields_and_settings_that_make_no_sense_are_errors(loaded):
    with pytest.raises(SettingsError, match="a prompt field and a response field"):
        TextFields(prompt="a")
    with pytest.raises(SettingsError, match="captured into a store"):
        TextSettings(RunSettings())
