"""What a run records: names looked up early, batches joined by their prompts, files that never replace each other."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from actframe import ActivationRecord, Selection, load_activations
from actframe.errors import CaptureError, SelectionError, SiteError, StorageError, UnknownNameError
from actframe.runs import recording
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings, RecordedBatch, prepare_folder, save_record


def record(ids, prompt="a prompt"):
    return ActivationRecord({"prompt": prompt, "input_ids": ids, "activations": {"layer_0": torch.ones(2, 3)}})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "hoks"}, UnknownNameError, r"no capture strategy named 'hoks' \(did you mean 'hooks'\?\)"),
        ({"storage": "zip"}, UnknownNameError, "no storage backend named 'zip'.*; installed: .*safetensors"),
    ],
)
def test_names_are_looked_up_when_the_settings_are_made(options, error, message):
    with pytest.raises(error, match=message):
        CaptureSettings(**options)


def test_the_selection_is_checked_when_the_recorder_is_made(tiny_llama):
    with pytest.raises(SiteError, match="no layer 9: the number of layers is 4"):
        CaptureSettings(9).recorder(LoadedModel("tiny", *tiny_llama), into=[])
    with pytest.raises(SelectionError, match=r"a site is a name, a pattern or a layer number.* not 1\.5"):
        CaptureSettings([1.5]).recorder(LoadedModel("tiny", *tiny_llama), into=[])


def test_settings_are_values_that_say_themselves_in_json():
    settings = CaptureSettings(Selection([0, "embeddings"], positions="last", dtype="float16"), storage="zstd")
    assert settings.suffix == ".safetensors.zst"
    assert settings.as_json() == {
        "select": {"sites": [0, "embeddings"], "positions": "last", "reduce": None, "dtype": "float16"},
        "strategy": "hooks",
        "storage": "zstd",
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.storage = "pickle"


def test_a_batch_gives_its_records_once_in_order():
    batch = RecordedBatch()
    first, second = record([1, 2]), record([3])
    batch.append(first)
    batch.append(second)
    assert batch.take([[1, 2], [3]]) == [first, second]
    assert batch.take([]) == []


@pytest.mark.parametrize("prompts", [[[3], [1, 2]], [[1, 2]], [[1, 2], [3], [4]]])
def test_records_of_other_prompts_are_never_joined(prompts):
    batch = RecordedBatch()
    batch.append(record([1, 2]))
    batch.append(record([3]))
    with pytest.raises(CaptureError, match=f"{len(prompts)} prompts gave 2 records"):
        batch.take(prompts)


def test_the_same_prompt_at_the_same_moment_gets_a_file_of_its_own(tmp_path):
    paths = [save_record(record([number]), tmp_path, ".safetensors") for number in range(20)]
    assert len(set(paths)) == 20
    assert [load_activations(path)["input_ids"] for path in paths] == [[number] for number in range(20)]
    assert all(path.name.startswith("benchmark_activations_2") for path in paths)
    assert all(path.name.endswith("_a_prompt.safetensors") for path in paths)


def test_a_clock_that_stands_still_replaces_no_file(tmp_path, monkeypatch):
    class Stopped(recording.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 9, 15, 14, 30, 22, 123456)

    monkeypatch.setattr(recording, "datetime", Stopped)
    names = [save_record(record([number]), tmp_path, ".safetensors").name for number in range(2)]
    assert names == [f"benchmark_activations_20240915_143022_12345{n}_a_prompt.safetensors" for n in (6, 7)]


def test_a_folder_is_made_with_its_parents(tmp_path):
    prepare_folder(tmp_path / "a" / "b")
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match=r"cannot write to the folder .*closed: Permission denied"):
            prepare_folder(tmp_path / "closed")
    finally:
        if is_root:
            os.seteuid(0)


def test_a_read_only_file_system_is_refused():
    with pytest.raises(StorageError, match="cannot write to the folder /proc/actframe"):
        prepare_folder(Path("/proc/actframe"))
