"""What makes a folder a store, and how another store takes its place."""

import json

import pytest

from actframe import ActivationStore, StorageError
from actframe.errors import FormatError
from actframe.storage.folders import LocalFolder, store_folder
from actframe.storage.health import verify_store
from actframe.storage.identity import begin_anew, check_new, is_store, read_identity
from actframe.storage.repair import repair_store
from actframe.testing import random_record


def fill(path, count=3):
    with ActivationStore(path, shard_bytes=1, run={"limit": 3}) as store:
        for number in range(count):
            store.append(random_record(number, 3))


def files_in(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.fixture(params=["disk", "memory"])
def location(request, tmp_path):
    return tmp_path / "run" if request.param == "disk" else f"memory://{tmp_path.name}/run"


def test_a_store_that_begins_anew_has_nothing_of_the_old_one(location):
    fill(location)
    folder = store_folder(location)
    folder.write("results.json", b"{}")
    begin_anew(folder, "zstd", {"limit": 5})
    assert (folder.sizes("shards"), folder.sizes("ledger"), list(folder.sizes(""))) == ({}, {}, ["run.json"])
    identity = read_identity(folder)
    assert (identity.backend, identity.run) == ("zstd", {"limit": 5})
    fill(location, 2)
    assert len(ActivationStore(location)) == 2


def test_files_that_are_not_the_stores_stay(tmp_path):
    fill(tmp_path)
    others = ["notes.txt", "shards/mine.safetensors", "ledger/summary.jsonl", "quarantine/README", "plots/a.png"]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (shard, *_) = (tmp_path / "shards").glob("2*")
    shard.rename(tmp_path / "quarantine" / shard.name)
    begin_anew(store_folder(tmp_path), "safetensors", None)
    assert files_in(tmp_path) == sorted(["run.json", *others])


def test_a_beginning_that_was_interrupted_leaves_the_old_store(tmp_path, monkeypatch):
    fill(tmp_path)
    folder = store_folder(tmp_path)
    remove, removed = folder.remove, []

    def remove_two(name):
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(name)
        remove(name)

    monkeypatch.setattr(folder, "remove", remove_two)
    with pytest.raises(KeyboardInterrupt):
        begin_anew(folder, "zstd", {"limit": 5})
    assert all(name.startswith("shards/") for name in removed)
    assert json.loads((tmp_path / "run.json").read_text())["run"] == {"limit": 3}
    with pytest.warns(RuntimeWarning, match="2 shards are missing"):
        assert len(ActivationStore(tmp_path)) == 1


def test_what_is_a_store_is_told_from_what_is_not(tmp_path):
    folder = store_folder(tmp_path / "run")
    assert not is_store(folder)
    check_new(folder)
    (tmp_path / "run").mkdir()
    check_new(folder)
    (tmp_path / "run" / "answers.jsonl").touch()
    assert not is_store(folder)
    with pytest.raises(StorageError, match=r"run is not a store, and holds other things \(answers\.jsonl\)"):
        check_new(folder)
    for number in range(3):
        (tmp_path / "run" / f"{number}{'x' * 80}.pkl").touch()
    with pytest.raises(StorageError, match=r"\(0x{38}…, 1x{38}…, 2x{38}…, \.\.\.\); choose a new folder"):
        check_new(folder)
    fill(tmp_path / "store")
    (tmp_path / "store" / "notes.txt").touch()
    check_new(store_folder(tmp_path / "store"))
    (tmp_path / "store" / "run.json").unlink()
    assert is_store(store_folder(tmp_path / "store"))


@pytest.mark.parametrize(
    "origin",
    [
        {"merged": [{"from": "a"}]},
        {"merged": [{"from": "a", "run": 0, "writers": [3]}]},
        {"merged": [{"from": "a", "run": [], "writers": []}]},
        {"merged": [{"from": "a", "run": 0, "writers": []}, {"from": "b", "run": 1, "writers": []}]},
        {"merged": [3]},
        {"merged": 3},
        3,
    ],
)
def test_an_origin_that_makes_no_sense_is_damage_that_repair_knows(tmp_path, origin):
    with ActivationStore(tmp_path / "run", run={"seed": 1}) as store:
        store.append(random_record(0))
    identity = tmp_path / "run" / "run.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "origin": origin}))
    with pytest.raises(FormatError, match="run.json of .* is damaged"):
        ActivationStore(tmp_path / "run")
    assert [problem.kind for problem in verify_store(LocalFolder(tmp_path / "run")).problems] == ["identity"]
    assert "made anew" in repair_store(tmp_path / "run").identity
    assert ActivationStore(tmp_path / "run").run == {"seed": 1}
