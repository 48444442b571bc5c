"""The store: what is appended is committed, comes back bit for bit, and is found again."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch

from actframe import ActivationRecord, ActivationRecorder, ActivationStore, Selection, StorageError, UnknownNameError
from actframe.errors import FormatError, SelectionError, SettingsError, SiteError
from actframe.testing import assert_same_record, random_record

BACKENDS = ["safetensors", "zstd", "pickle", "npz"]


def fill(path, records, **settings):
    with ActivationStore(path, **settings) as store:
        for record in records:
            store.append(record)
    return store


def shards(path):
    return sorted(file.name for file in (path / "shards").iterdir())


@pytest.fixture
def records():
    return [random_record(number, 3 + number % 4) for number in range(20)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_record_comes_back_bit_for_bit(tmp_path, records, backend):
    fill(tmp_path / "run", records, backend=backend, shard_bytes=2000)
    store = ActivationStore(tmp_path / "run")
    assert store.backend == backend
    assert len(store) == len(records)
    assert len(shards(tmp_path / "run")) > 1
    for found, expected in zip(store, records, strict=True):
        assert_same_record(found, expected)
    assert_same_record(store[-1], records[-1])


def test_a_store_is_a_sequence(tmp_path, records):
    store = fill(tmp_path / "run", records)
    assert isinstance(store[3], ActivationRecord)
    assert [record.question_id for record in store[2:8:2]] == ["sums/2", "sums/4", "sums/6"]
    assert len(store[5:]) == 15
    assert_same_record(store[5:][-1], records[-1])
    with pytest.raises(IndexError, match="record 20 of 20"):
        store[20]
    assert next(reversed(store)).question_id == "sums/19"


def test_tensors_are_read_when_they_are_looked_up(tmp_path, records):
    store = fill(tmp_path / "run", records)
    record = store[0]
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    shard.unlink()
    assert record.prompt == records[0].prompt
    with pytest.raises(StorageError, match="No such file"):
        record.activations["layer_0"]


def test_shards_close_by_size(tmp_path):
    records = [random_record(number, 8, d_model=64) for number in range(10)]
    size = sum(tensor.nbytes for tensor in records[0].activations.values())
    fill(tmp_path / "run", records, shard_bytes=4 * size)
    assert len(shards(tmp_path / "run")) == 3


def test_a_record_larger_than_a_shard_is_a_shard(tmp_path, records):
    fill(tmp_path / "run", records[:3], shard_bytes=1)
    assert len(shards(tmp_path / "run")) == 3
    assert len(ActivationStore(tmp_path / "run")) == 3


def test_what_was_flushed_is_seen_by_others(tmp_path, records):
    with ActivationStore(tmp_path / "run") as store:
        reader = ActivationStore(tmp_path / "run")
        store.append(records[0])
        store.flush()
        assert len(store) == 1
        assert len(reader) == 0
        reader.refresh()
        assert_same_record(reader[0], records[0])
        store.append(records[1])
    reader.refresh()
    assert len(reader) == 2


def test_a_recorder_writes_into_a_store(tmp_path, tiny_llama):
    model, tokenizer = tiny_llama
    inputs = tokenizer(["one", "two and more"], return_tensors="pt", padding=True)
    kept = []
    with ActivationStore(tmp_path / "run") as store, ActivationRecorder(model, tokenizer=tokenizer, into=store):
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with ActivationRecorder(model, tokenizer=tokenizer, into=kept):
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
    for found, expected in zip(store, kept, strict=True):
        assert_same_record(found.replace(timestamp=""), expected.replace(timestamp=""))


def test_flushing_by_number_commits_without_being_asked(tmp_path, records):
    with ActivationStore(tmp_path / "run", flush_every=5) as store:
        for record in records[:11]:
            store.append(record)
        wait_for(lambda: store.progress.committed_records >= 10)
        reader = ActivationStore(tmp_path / "run")
        assert len(reader) >= 10


def test_flushing_by_time_commits_without_being_asked(tmp_path, records):
    with ActivationStore(tmp_path / "run", flush_every=timedelta(milliseconds=50)) as store:
        store.append(records[0])
        wait_for(lambda: store.progress.committed_records == 1)
        assert len(ActivationStore(tmp_path / "run")) == 1


def test_without_a_flush_nothing_is_committed_before_a_shard_is_full(tmp_path, records):
    with ActivationStore(tmp_path / "run", flush_every=None) as store:
        store.append(records[0])
        time.sleep(0.2)
        assert store.progress.committed_records == 0
        assert store.progress.queued_records == 1


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_nobody_closes_is_closed_at_exit(tmp_path):
    script = """
import sys
from actframe import ActivationStore
from actframe.testing import random_record
store = ActivationStore(sys.argv[1])
for number in range(3):
    store.append(random_record(number))
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=True)
    assert len(ActivationStore(tmp_path / "run")) == 3


def test_closing_twice_does_nothing_and_appending_afterwards_is_refused(tmp_path, records):
    store = fill(tmp_path / "run", records[:2])
    store.close()
    with pytest.raises(StorageError, match="was closed"):
        store.append(records[2])
    assert len(store) == 2


def test_a_store_that_begins_to_write_has_a_writer_before_its_first_record(tmp_path):
    store = ActivationStore(tmp_path / "run")
    assert store.folder.sizes("ledger") == {}
    store.begin()
    store.begin()
    (ledger,) = store.folder.sizes("ledger")
    assert store.folder.has_writer(f"ledger/{ledger}")
    store.close()
    assert store.folder.sizes("ledger") == {}
    with pytest.raises(StorageError, match="was closed"):
        store.begin()


def test_a_store_of_which_nothing_was_written_leaves_no_ledger(tmp_path):
    with ActivationStore(tmp_path / "run"):
        pass
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.json"]
    assert len(ActivationStore(tmp_path / "run")) == 0


def test_several_writers_append_to_one_store_at_once(tmp_path):
    def write(first):
        fill(tmp_path / "run", [random_record(first + number) for number in range(25)], shard_bytes=1000)

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = ActivationStore(tmp_path / "run")
    assert len(list((tmp_path / "run" / "ledger").iterdir())) == 4
    ids = [record.question_id for record in store]
    assert len(ids) == len(set(ids)) == 100
    for record in store:
        assert_same_record(record, random_record(int(record.question_id.removeprefix("sums/"))))


def test_a_store_is_appended_to_in_a_later_session(tmp_path, records):
    fill(tmp_path / "run", records[:5], backend="zstd")
    fill(tmp_path / "run", records[5:9])
    store = ActivationStore(tmp_path / "run")
    assert [record.question_id for record in store] == [record.question_id for record in records[:9]]
    assert {name.split(".", 1)[1] for name in shards(tmp_path / "run")} == {"safetensors.zst"}


def test_records_of_different_sites_and_dtypes_live_in_one_store(tmp_path):
    records = [
        random_record(0),
        random_record(1, sites=("layer_1", "logits")),
        random_record(2, dtype=torch.float32),
        random_record(3, 0),
        random_record(4).replace(activations={}),
        random_record(5, d_model=7),
    ]
    store = fill(tmp_path / "run", records)
    for found, expected in zip(store, records, strict=True):
        assert_same_record(found, expected)


def test_any_mapping_with_activations_can_be_appended(tmp_path):
    plain = {"prompt": "p", "activations": {"layer_0": torch.ones(2, 3)}}
    store = fill(tmp_path / "run", [plain])
    assert_same_record(store[0], plain)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"prompt": "p"}, "'activations'"),
        ({"activations": {"layer_0": [1.0]}}, "not a torch.Tensor"),
        ({"activations": {}, "score": torch.ones(1)}, "JSON cannot hold"),
        ({"activations": {}, "stored": 1}, "stored"),
        ({"activations": {}, "positions": [0.5]}, "list of int"),
        ({"activations": {}, "positions": [2**40]}, "list of int"),
        ({"activations": {}, "prompt_length": "3"}, "number of positions"),
        ({"activations": {}, "site_positions": {"layer_0": None}}, "list of int"),
        ({"activations": {"actframe.records": torch.ones(1)}}, "cannot be called"),
    ],
)
def test_what_is_no_record_is_refused_at_once(tmp_path, record, complaint):
    with ActivationStore(tmp_path / "run") as store:
        with pytest.raises(StorageError, match=complaint):
            store.append(record)
        store.append(random_record(0))
    assert len(store) == 1


# What it reads: views, columns, stacks.


def test_where_finds_records_by_what_they_say(tmp_path, records):
    store = fill(tmp_path / "run", records, shard_bytes=2000)
    wrong = store.where(correct=False, subject="odd")
    expected = [record for record in records if not record.correct and record.subject == "odd"]
    assert [record.question_id for record in wrong] == [record.question_id for record in expected]
    assert len(wrong.where(lambda said: said["question_id"].endswith("1"))) == 2
    assert len(store.where(lambda said: said["trial"] == 0, correct=True)) == 7
    assert wrong.column("subject") == ["odd"] * len(expected)
    assert [said["question_id"] for said in wrong.entries()] == [record.question_id for record in expected]
    assert len(store.where(correct=None)) == 0
    with pytest.raises(UnknownNameError, match="subject"):
        store.where(subjct="odd")


@pytest.mark.parametrize("backend", BACKENDS)
def test_stack_reads_one_site_of_all_records(tmp_path, records, backend):
    store = fill(tmp_path / "run", records, backend=backend, shard_bytes=2000)
    last = store.stack("layer_1", positions="last_prompt")
    assert torch.equal(last, torch.stack([r.activations["layer_1"][r.prompt_length - 1] for r in records]))
    everything = store.stack("layer_1")
    assert torch.equal(everything.values, torch.cat([record.activations["layer_1"] for record in records]))
    assert len(everything) == len(records)
    assert torch.equal(everything[7], records[7].activations["layer_1"])
    assert torch.equal(everything[-1], records[-1].activations["layer_1"])
    response = store.where(correct=True).stack(1, positions="response")
    expected = [record.activations["layer_1"][record.prompt_length :] for record in records if record.correct]
    assert torch.equal(response.values, torch.cat(expected))
    assert response.offsets.tolist() == [0, *torch.tensor([len(each) for each in expected]).cumsum(0).tolist()]


def test_stack_keeps_the_order_of_a_view_across_shards(tmp_path, records):
    store = fill(tmp_path / "run", records, shard_bytes=2000)
    backwards = store[::-1]
    expected = [record.activations["layer_0"] for record in reversed(records)]
    assert torch.equal(backwards.stack("layer_0").values, torch.cat(expected))
    assert torch.equal(backwards.stack("layer_0", 0), torch.stack([tensor[0] for tensor in expected]))


def test_stack_takes_the_names_that_people_know(tmp_path, records):
    store = fill(tmp_path / "run", records)
    expected = store.stack("layer_1", positions="last")
    for name in (1, "resid_post.1", "blocks.1.hook_resid_post"):
        assert torch.equal(store.stack(name, positions="last"), expected)


def test_stack_refuses_what_it_cannot_give(tmp_path, records):
    store = fill(tmp_path / "run", records)
    with pytest.raises(SiteError, match=r"no site 'layer_7'.*it holds embeddings"):
        store.stack("layer_7")
    with pytest.raises(SelectionError, match="15 of 20 records have no row of layer_0 for position 5"):
        store.stack("layer_0", 5)
    with pytest.raises(SelectionError, match="no positions 'middle'"):
        store.stack("layer_0", "middle")
    with pytest.raises(SelectionError, match="count from 0"):
        store.stack("layer_0", -1)
    with pytest.raises(SelectionError, match="no records"):
        store.where(subject="odd", correct=True).where(subject="even").stack("layer_0")
    mixed = fill(tmp_path / "mixed", [random_record(0), random_record(1, d_model=8)], shard_bytes=1)
    with pytest.raises(SelectionError, match="different models"):
        mixed.stack("layer_0")


def test_a_stack_does_not_follow_its_file(tmp_path, records):
    store = fill(tmp_path / "run", records)
    stacked = store.stack("layer_0")
    before = stacked.values.clone()
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    shard.write_bytes(bytes(shard.stat().st_size))
    assert torch.equal(stacked.values, before)
    stacked.values.zero_()


def test_sites_are_those_of_all_records(tmp_path):
    store = fill(tmp_path / "run", [random_record(0), random_record(1, sites=("layer_1", "logits"))], shard_bytes=1)
    assert store.sites == ["embeddings", "layer_0", "layer_1", "logits"]
    assert store[:1].sites == ["embeddings", "layer_0", "layer_1"]


def test_a_store_can_be_sent_to_another_process(tmp_path, records):
    store = fill(tmp_path / "run", records)
    assert len(pickle.loads(pickle.dumps(store))) == len(store)
    view = pickle.loads(pickle.dumps(store.where(correct=True)))
    assert [record.question_id for record in view] == [r.question_id for r in records if r.correct]


# What is at the path.


def test_what_defines_the_run_is_written_once(tmp_path):
    ActivationStore(tmp_path / "run", run={"model": "tiny", "seed": 1})
    again = ActivationStore(tmp_path / "run", run={"model": "another"})
    assert again.run == {"model": "tiny", "seed": 1}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["format"] == "store/1"


def test_a_folder_of_other_things_is_no_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"holds other things \(thesis.tex\)"):
        ActivationStore(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_that_is_not_there_is_not_begun_by_readers(tmp_path):
    with pytest.raises(StorageError, match="there is no store at .*typo: there is nothing"):
        ActivationStore(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


def test_an_empty_folder_becomes_a_store(tmp_path):
    ActivationStore(tmp_path)
    assert (tmp_path / "run.json").is_file()


def test_a_damaged_or_newer_run_file_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "run" / "run.json"
    ActivationStore(tmp_path / "run")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": "store/9"}))
    with pytest.raises(FormatError, match="store/9"):
        ActivationStore(tmp_path / "run")
    path.write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        ActivationStore(tmp_path / "run")


def test_a_lost_run_file_loses_no_records(tmp_path, records):
    fill(tmp_path / "run", records[:2])
    (tmp_path / "run" / "run.json").unlink()
    assert len(ActivationStore(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_bytes": 0},
        {"shard_bytes": 1.5},
        {"flush_every": 0},
        {"flush_every": timedelta(0)},
        {"flush_every": True},
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_made(tmp_path, settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        ActivationStore(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_an_unknown_backend_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UnknownNameError, match="installed: "):
        ActivationStore(tmp_path / "run", "zipn")
    assert not (tmp_path / "run").exists()


def test_a_store_in_a_read_only_folder_can_be_read(open_folder, records):
    fill(open_folder / "run", records[:3])
    script = """
import os, sys
from actframe import ActivationStore, StorageError
ActivationStore(sys.argv[1])[0].activations["layer_0"]  # imports all that a stranger may not be allowed to read
os.setuid(65534)
store = ActivationStore(sys.argv[1])
assert len(store) == 3, len(store)
assert store[0].activations["layer_0"].shape == (3, 16)
try:
    store.append(store[0])
except StorageError as error:
    print(error)
"""
    if os.getuid():
        pytest.skip("only root can become another user, for whom the folder is read-only")
    run = [sys.executable, "-c", script, open_folder / "run"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stdout, done.stderr


def test_progress_says_how_far_the_writer_is(tmp_path, records):
    with ActivationStore(tmp_path / "run", flush_every=None) as store:
        assert store.progress.queued_records == store.progress.bytes_written == 0
        for record in records:
            store.append(record)
        store.flush()
        progress = store.progress
        assert (progress.queued_records, progress.queued_bytes) == (0, 0)
        assert progress.committed_records == len(records)
        assert progress.bytes_written == store.bytes_on_disk
        assert progress.bytes_per_second > 0


def test_a_selection_of_one_position_is_stacked_whole(tmp_path, tiny_llama):
    model, _ = tiny_llama
    with ActivationStore(tmp_path / "run") as store:
        with ActivationRecorder(model, Selection(positions="last_prompt"), into=store), torch.no_grad():
            for length in (3, 5, 4):
                model(torch.arange(length)[None])
    assert store.stack("layer_2", positions="last_prompt").shape == (3, model.config.hidden_size)


@pytest.mark.parametrize("shard_bytes", [1, 1 << 20])
def test_a_site_that_some_records_lack_is_no_stack_wherever_shards_end(tmp_path, shard_bytes):
    some = [random_record(0, 3), random_record(1, 3, sites=("layer_0",)), random_record(2, 3)]
    store = fill(tmp_path / "run", some, shard_bytes=shard_bytes)
    assert store.stack("layer_0").offsets.tolist() == [0, 3, 6, 9]
    with pytest.raises(SiteError, match="layer_1"):
        store.stack("layer_1")
    with pytest.raises(SiteError, match="layer_1"):
        store[1:2].stack("layer_1", positions="last")
    assert len(store[::2].stack("layer_1", positions="last")) == 2


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_rows_of_every_dtype_are_stacked_in_any_order(tmp_path, dtype):
    sites = {"layer_0": torch.arange(48).reshape(6, 8)}
    some = [
        ActivationRecord({**random_record(number, 6), "activations": {site: (tensor + number).to(dtype)}})
        for number in range(6)
        for site, tensor in sites.items()
    ]
    some = [record.replace(positions=list(range(6)), prompt_length=3) for record in some]
    store = fill(tmp_path / "run", some, shard_bytes=500)
    assert len(shards(tmp_path / "run")) > 1
    for view, numbers in ((store, range(6)), (store[::-1], range(5, -1, -1))):
        rows = view.stack("layer_0", positions=[0, 2, 5])
        expected = [some[number].activations["layer_0"][[0, 2, 5]] for number in numbers]
        for found, wanted in zip(rows, expected, strict=True):
            assert found.dtype == dtype
            assert bytes(found.view(torch.uint8).numpy()) == bytes(wanted.contiguous().view(torch.uint8).numpy())


@pytest.mark.parametrize("backend", ["safetensors", "zstd"])
def test_a_record_that_the_backend_cannot_hold_is_refused_at_once_and_in_the_way_of_no_other(
    tmp_path, records, backend
):
    with ActivationStore(tmp_path / "run", backend) as store:
        store.append(records[0])
        for site, tensor in (
            ("layer_0", torch.zeros(3, 8, dtype=torch.complex128)),
            ("__metadata__", torch.zeros(3, 8)),
        ):
            with pytest.raises(StorageError, match=f"cannot store the record.*{site}"):
                store.append(records[1].replace(activations={site: tensor}))
        store.append(records[1])
    assert store.column("question_id") == ["sums/0", "sums/1"]
    assert all(not name.startswith(".") for name in os.listdir(tmp_path / "run" / "shards"))
