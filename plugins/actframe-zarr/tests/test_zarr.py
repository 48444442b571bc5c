"""The plugin as users have it: found through its entry point, used through actframe, read by Zarr and xarray alone."""

import io
import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import fsspec
import numpy
import pytest
import torch
import xarray
import zarr
from actframe_zarr import arrays
from actframe_zarr.backend import ZarrBackend
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem
from zarr.storage import FsspecStore, LocalStore, ZipStore

from actframe import (
    ActivationStore,
    Bundle,
    FormatError,
    StorageError,
    UnsafeFileError,
    load_activations,
    save_activations,
)
from actframe.registry import registry
from actframe.testing import (
    DTYPES,
    StorageBackendTests,
    assert_same,
    assert_same_record,
    assert_survives,
    random_record,
    random_tensor,
)

README = Path(__file__).parent.parent / "README.md"


class TestZarrBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return ZarrBackend()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.zarr.zip"


@pytest.fixture
def shard(tmp_path):
    """The one shard of a store of six records, of 5 to 10 positions."""
    with ActivationStore(tmp_path / "run", backend="zarr") as store:
        for number in range(6):
            store.append(random_record(number, 5 + number))
    (found,) = (tmp_path / "run" / "shards").iterdir()
    return found


def opened(path):
    return xarray.open_dataset(ZipStore(path), engine="zarr", consolidated=False)


def bytes_read():
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


def test_the_entry_point_is_found_with_its_distribution():
    (entry_point,) = [point for point in metadata.entry_points(group="actframe") if point.name == "zarr"]
    assert entry_point.dist.name == "actframe-zarr"
    (plugin,) = [plugin for plugin in registry().plugins() if plugin.distribution == "actframe-zarr"]
    assert plugin.error is None
    assert plugin.extensions == [ZarrBackend]


def test_what_the_first_version_wrote_stays_readable():
    found = load_activations(Path(__file__).parent / "golden" / "version-1.zarr.zip")
    activations = found.pop("activations")
    assert found == {"prompt": "Hi 東京", "positions": [3, 4], "correct": True, "question_id": "a/1"}
    assert list(activations) == ["layer_0", "layer_0.attn_probs", "odd"]
    assert_same(activations["layer_0"], torch.arange(6.0).reshape(2, 3).bfloat16())
    assert_same(activations["layer_0.attn_probs"], torch.arange(8.0).reshape(2, 2, 2))
    assert_same(activations["odd"], torch.tensor(7, dtype=torch.int16))


def test_looking_the_plugin_up_by_its_entry_point_imports_neither_zarr_nor_torch():
    script = "import sys, actframe_zarr; print(sorted({'zarr', 'numpy', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(block, names)
    assert names["wrong"].shape == (6, 16)
    assert names["whole"].layer_0.shape == (50, 16)
    assert names["rows"].shape == (10, 16)
    assert names["narrow"].dtype == torch.bfloat16
    fsspec.filesystem("memory").put(str(names["shard"]), "/bucket/shard.zarr.zip")
    remote = names["remote_dataset"]("memory://bucket/shard.zarr.zip")
    xarray.testing.assert_identical(remote, names["dataset"])


class Counted(io.FileIO):
    """A file that knows how many bytes were read of it, as a bucket would."""

    taken = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.taken += count
        return count

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        return data


def test_of_sites_that_are_not_used_nothing_is_fetched(path):
    save_activations(random_record(0, 200, sites=[f"layer_{layer}" for layer in range(12)], d_model=256), path)
    with Counted(path) as file:
        files = AsyncFileSystemWrapper(fsspec.filesystem("zip", fo=file), asynchronous=True)
        store = FsspecStore(files, path="", read_only=True)
        dataset = xarray.open_dataset(store, engine="zarr", consolidated=False, zarr_format=3)
        assert dataset.layer_7.shape == (200, 256)
        file.taken = 0
        dataset.layer_7.load()
        assert 0 < file.taken < path.stat().st_size / 6


def test_a_store_in_zarr_gives_back_its_records(tmp_path, shard):
    store = ActivationStore(tmp_path / "run", create=False)
    assert store.verify().ok
    for number, record in enumerate(store):
        assert_same_record(record, random_record(number, 5 + number))


def test_xarray_sees_rows_with_what_their_records_say(shard):
    dataset = opened(shard)
    assert sorted(dataset.data_vars) == ["embeddings", "layer_0", "layer_1"]
    assert dataset.layer_0.dims == ("row", "d_model")
    expected = [random_record(number, 5 + number) for number in range(6)]
    rows = torch.cat([record.activations["layer_0"] for record in expected])
    assert dataset.layer_0.dtype == "float32"
    assert numpy.array_equal(dataset.layer_0.values, rows.float().numpy())
    assert dataset.position.values.tolist() == [position for record in expected for position in record["positions"]]
    for key in ("question_id", "correct", "subject", "trial", "prompt"):
        assert dataset[key].values.tolist() == [record[key] for record in expected for _ in record["positions"]]
    assert dataset.record.values.tolist() == [number for number in range(6) for _ in range(5 + number)]


def test_shards_of_a_store_are_put_together_with_their_labels(tmp_path):
    with ActivationStore(tmp_path / "run", backend="zarr") as store:
        for number in range(3):
            store.append(random_record(number, 4 + number))
            store.flush()
    shards = sorted((tmp_path / "run" / "shards").iterdir())
    assert len(shards) == 3
    whole = xarray.concat([opened(shard)[["layer_1"]] for shard in shards], "row")
    assert whole.layer_1.shape == (15, 16)
    assert whole.question_id.values.tolist() == ["sums/0"] * 4 + ["sums/1"] * 5 + ["sums/2"] * 6


def test_attention_patterns_and_missing_sites_come_back_and_stand_beside_the_rows(tmp_path):
    lengths = (3, 5, 4)
    records = [
        random_record(number, length, sites=["layer_0", "layer_1"][: 2 - number % 2])
        for number, length in enumerate(lengths)
    ]
    records = [
        record.replace(activations={**record.activations, "layer_0.attn_probs": torch.rand(2, length, length)})
        for record, length in zip(records, lengths, strict=True)
    ]
    with ActivationStore(tmp_path / "run", backend="zarr") as store:
        for record in records:
            store.append(record)
    for found, record in zip(ActivationStore(tmp_path / "run", create=False), records, strict=True):
        assert_same_record(found, record)
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    dataset = opened(shard)
    assert dataset["layer_0.attn_probs"].shape == (2 * (9 + 25 + 16),)
    assert (dataset.layer_0.shape, dataset.layer_1.shape) == ((12, 16), (7, 16))
    assert dataset["question_id.1"].values.tolist() == ["sums/0"] * 3 + ["sums/2"] * 4


def test_a_label_that_some_record_lacks_or_that_is_long_is_left_to_the_lines(tmp_path):
    with ActivationStore(tmp_path / "run", backend="zarr") as store:
        store.append(random_record(0, score=0.5, note="x" * 101))
        store.append(random_record(1, score=None, note="short"))
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    assert not {"score", "note"} & set(opened(shard).coords)
    with zarr.open_group(ZipStore(shard), mode="r").store as store:
        lines = zarr.open_array(store, path="actframe/records")[:].tobytes().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [0.5, None]


def test_sites_at_other_positions_have_an_axis_of_their_own(path):
    record = random_record(0, 3).replace(site_positions={"layer_1": [2]})
    activations = {
        **record.activations,
        "layer_1": record.activations["layer_1"][2:],
        "layer_1.mlp_act": torch.ones(3, 64),
    }
    save_activations(record.replace(activations=activations), path)
    dataset = opened(path)
    assert dataset.layer_0.dims == ("row", "d_model")
    assert dataset.layer_1.dims == ("row.1", "d_model")
    assert dataset["position.1"].values.tolist() == [2]
    assert dataset["subject.1"].values.tolist() == ["even"]
    assert dataset["layer_1.mlp_act"].dims == ("row", "layer_1.mlp_act.1")


def test_a_label_that_would_be_in_the_way_of_a_site_or_an_axis_is_left_out(path):
    record = random_record(0, 3, layer_0="text", row=1, d_model=2, **{"two words": 3, "with/slash": 4, "actframe": 5})
    save_activations(record, path)
    assert not {"row", "d_model", "two words", "with/slash", "actframe"} & set(opened(path).variables)
    assert_same_record(load_activations(path), record)


@pytest.mark.parametrize("positions", ["nonsense", [3, "x"], {"a": 1}])
def test_a_record_that_says_nonsense_of_its_positions_is_saved_all_the_same(path, positions):
    record = {"positions": positions, "activations": {"layer_0": torch.ones(2, 3)}}
    save_activations(record, path)
    assert load_activations(path)["positions"] == positions


def test_tensors_of_many_chunks_and_shards_survive(path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 256)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2048)
    shapes = [(), (0, 3), (1000,), (37, 8), (3, 200), (5, 7, 11), (2, 3, 500)]
    tensors = {f"{dtype}{shape}": random_tensor(dtype, *shape) for dtype in DTYPES for shape in shapes}
    assert_survives(ZarrBackend(), path, Bundle(tensors))
    lazy = ZarrBackend().read(path).tensors
    for name, tensor in tensors.items():
        if tensor.dim():
            for start, stop in ((0, 0), (1, 2), (2, len(tensor)), (len(tensor) // 2, len(tensor) // 2 + 20)):
                assert_same(lazy.rows(name, start, stop), tensor[start:stop])


def test_some_rows_are_read_without_the_others(path):
    tensor = random_tensor(torch.float32, 32_768, 256)
    ZarrBackend().write(path, Bundle({"layer_0": tensor, "layer_1": tensor}))
    lazy = ZarrBackend().read(path).tensors
    assert_same(lazy.rows("layer_0", 0, 1), tensor[:1])
    before = bytes_read()
    assert_same(lazy.rows("layer_0", 20_000, 20_100), tensor[20_000:20_100])
    assert bytes_read() - before < path.stat().st_size / 20


def test_reading_one_site_of_a_store_reads_none_of_the_others(tmp_path):
    sites = [f"layer_{layer}" for layer in range(12)]
    with ActivationStore(tmp_path / "run", backend="zarr") as store:
        for number in range(4):
            store.append(random_record(number, 200, sites=sites, d_model=512))
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    store = ActivationStore(tmp_path / "run", create=False)
    store.stack("layer_3", positions="last")
    before = bytes_read()
    rows = store.stack("layer_7", positions="all")
    assert bytes_read() - before < shard.stat().st_size / 6
    expected = torch.cat(
        [random_record(number, 200, sites=sites, d_model=512).activations["layer_7"] for number in range(4)]
    )
    assert_same(rows.values, expected)


def test_the_same_bundle_gives_the_same_bytes(tmp_path):
    for name in ("a.zarr.zip", "b.zarr.zip"):
        save_activations(random_record(0, 40), tmp_path / name)
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()


def test_what_compresses_to_almost_nothing_is_read_again(path):
    zeros = torch.zeros(30_000, 1024)
    ZarrBackend().write(path, Bundle({"layer_0": zeros}))
    assert path.stat().st_size < zeros.nbytes / 900
    assert_same(ZarrBackend().read(path).tensors["layer_0"], zeros)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "__a", "zarr.json", "actframe", "actframe.", "a\0b", "\ud83d"]
)
def test_a_name_that_zarr_would_take_for_another_is_refused(path, name):
    with pytest.raises(StorageError, match="cannot be called"):
        ZarrBackend().write(path, Bundle({name: torch.ones(1)}))


@pytest.mark.parametrize("name", ["c", "c.c", "module:model.layers.0.mlp@input", "record", "position"])
def test_a_name_that_means_something_elsewhere_is_a_name(path, name):
    tensors = {name: torch.ones(3, 2), "layer_0": torch.ones(2, 2)}
    save_activations({"positions": [4, 5], "activations": tensors}, path)
    assert_same(load_activations(path)["activations"][name], tensors[name])


def rewritten(path, change):
    """The file with its entries changed: `change(entries)`, a dictionary of bytes by name."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def described(entries, name, **changes):
    entries[name] = json.dumps({**json.loads(entries[name]), **changes}).encode()


@pytest.fixture
def written(path):
    ZarrBackend().write(path, Bundle({"layer_0": random_tensor(torch.bfloat16, 8, 16)}, {"prompt": "hello"}))
    return path


def read(path):
    return dict(ZarrBackend().read(path).tensors)


def test_a_chunk_that_is_missing_is_no_chunk_of_zeros(written):
    rewritten(written, lambda entries: entries.pop("layer_0/c/0/0"))
    with pytest.raises(FormatError, match="lacks 'layer_0/c/0/0'"):
        read(written)


def test_every_flipped_byte_of_the_activations_is_noticed(written):
    content = written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        entry = archive.getinfo("layer_0/c/0/0")
    start = entry.header_offset + 30 + len(entry.filename)
    for place in range(start, start + entry.file_size, 7):
        written.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(FormatError, match="damaged"):
            read(written)


def test_an_array_that_declares_more_than_there_is_is_refused(written):
    rewritten(written, lambda entries: described(entries, "layer_0/zarr.json", shape=[2**40, 16]))
    with pytest.raises(UnsafeFileError, match=f"declares {2**46} bytes, and takes"):
        read(written)


def test_a_chunk_that_declares_more_than_there_is_is_refused(written):
    grid = {"name": "regular", "configuration": {"chunk_shape": [2**40, 16]}}
    rewritten(written, lambda entries: described(entries, "layer_0/zarr.json", chunk_grid=grid))
    with pytest.raises(UnsafeFileError, match="bytes, and takes"):
        read(written)


def test_a_codec_that_this_backend_does_not_use_is_refused(written):
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip", "configuration": {"level": 1}}]
    rewritten(written, lambda entries: described(entries, "layer_0/zarr.json", codecs=codecs))
    with pytest.raises(UnsafeFileError, match="encoded by gzip"):
        read(written)


@pytest.mark.parametrize("dtype", ["float64", "nonsense", None, ["bfloat16"]])
def test_a_dtype_that_lies_is_refused(written, dtype):
    rewritten(written, lambda entries: described(entries, "layer_0/zarr.json", attributes={"torch_dtype": dtype}))
    with pytest.raises(FormatError, match="is no dtype|values of torch.float64 are stored as float64"):
        read(written)


@pytest.mark.parametrize(
    "about",
    [None, {}, {"metadata": "{", "tensors": []}, {"metadata": "[]", "tensors": []}, {"metadata": "{}", "tensors": [1]}],
)
def test_metadata_that_lies_is_refused(written, about):
    rewritten(written, lambda entries: described(entries, "zarr.json", attributes={"actframe": about}))
    with pytest.raises(FormatError):
        read(written)


def test_a_compressed_zip_is_refused(written):
    with zipfile.ZipFile(written) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UnsafeFileError, match="compressed"):
        read(written)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(written):
    with zipfile.ZipFile(written, "a") as archive:
        archive.writestr("layer_0/zarr.json", "{}")
    with pytest.raises(FormatError, match="several entries of one name"):
        read(written)


def test_a_file_replaced_after_it_was_opened_is_not_mixed_with_its_successor(written):
    found = ZarrBackend().read(written)
    ZarrBackend().write(written, Bundle({"layer_0": torch.ones(8, 16)}))
    with pytest.raises(StorageError, match="changed or replaced after it was opened"):
        found.tensors["layer_0"]


def test_unpacked_into_a_folder_it_is_a_group_of_zarr_as_well(tmp_path, shard):
    with zipfile.ZipFile(shard) as archive:
        archive.extractall(tmp_path / "folder.zarr")
    folder = xarray.open_dataset(LocalStore(tmp_path / "folder.zarr"), engine="zarr", consolidated=False)
    xarray.testing.assert_identical(folder, opened(shard))
