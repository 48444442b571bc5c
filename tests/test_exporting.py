"""Exports: what other programs read is what was recorded, and an export is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import duckdb
import numpy
import pandas
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from actframe import ActframeError, ActivationStore, SelectionError, SiteError, StorageError, UnknownNameError
from actframe.storage import arrow_tables, cut_views, hf_folders
from actframe.storage.exporting import FORMATS, export_store
from actframe.storage.kinds import JSON, as_json_text, kinds_of
from actframe.testing import random_record

SITES = ["embeddings", "layer_0", "layer_1"]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fill(path, records, **settings):
    settings = {"shard_bytes": 2000, "run": {"seed": 1}, **settings}
    with ActivationStore(path, **settings) as store:
        for record in records:
            store.append(record)
    return ActivationStore(path, create=False)


def target(folder, to):
    return folder / {"parquet": "export.parquet", "npz": "export.npz", "hf": "export"}[to]


def assert_same_bits(found, expected):
    """An array that was read back has the bits of a tensor, or of what holds its values."""
    found = torch.from_numpy(numpy.array(found))
    if expected.dtype in (torch.bfloat16, torch.float8_e4m3fn):
        expected = expected.float()
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(found.view(BITS[found.element_size()]), expected.view(BITS[found.element_size()]))


class Read:
    """An export as its users read it: what each record says, and by site the array of each, or None."""

    def __init__(self, path, to):
        self.path = path
        getattr(self, f"_read_{to}")()

    def _read_parquet(self):
        self._take(parquet.read_table(self.path))

    def _read_hf(self):
        found = datasets.load_from_disk(self.path)
        self._take(found.with_format("arrow")[:])

    def _take(self, table):
        facts = json.loads((table.schema.metadata or {}).get(b"actframe", b"null"))
        if facts is None:
            facts = json.loads(datasets.load_from_disk(self.path).info.description)
        shapes = {site for site in facts["sites"] if f"{site}.shape" in table.column_names}
        columns = {f"{site}.shape" for site in shapes} | set(facts["sites"])
        self.said = table.drop_columns(list(columns)).to_pylist()
        self.arrays = {}
        for site, fact in facts["sites"].items():
            dtype = numpy.dtype(fact["stored_as"])
            arrays = []
            for n, value in enumerate(table.column(site).to_pylist()):
                if value is None:
                    arrays.append(None)
                elif site in shapes:
                    arrays.append(numpy.array(value, dtype).reshape(table.column(f"{site}.shape")[n].as_py()))
                elif pyarrow.types.is_fixed_size_list(table.schema.field(site).type):
                    arrays.append(numpy.array([value], dtype).reshape(1, *fact["shape"]))
                else:
                    arrays.append(numpy.array(value, dtype).reshape(-1, *fact["shape"]))
            self.arrays[site] = arrays

    def _read_npz(self):
        with numpy.load(self.path, allow_pickle=False) as file:
            self.said = [json.loads(line) for line in file["actframe.records"].tobytes().splitlines()]
            facts = json.loads(str(file["actframe.export"]))
            self.arrays = {}
            for site in facts["sites"]:
                values = file[site]
                count = len(self.said)
                offsets = file[f"{site}.offsets"] if f"{site}.offsets" in file else numpy.arange(count + 1)
                present = file[f"{site}.present"] if f"{site}.present" in file else [True] * count
                arrays = [values[offsets[n] : offsets[n + 1]] if present[n] else None for n in range(count)]
                if f"{site}.shapes" in file:
                    shapes = [shape[shape >= 0] for shape in file[f"{site}.shapes"]]
                    arrays = [None if a is None else a.reshape(s) for a, s in zip(arrays, shapes, strict=True)]
                else:
                    at = file[f"{site}.positions"]
                    self.positions = [at[offsets[n] : offsets[n + 1]].tolist() for n in range(count)]
                self.arrays[site] = arrays


def assert_exports(read, records, sites=None):
    """The export has these records, and their tensors bit for bit."""
    assert len(read.said) == len(records)
    sites = sites or list(dict.fromkeys(site for record in records for site in record["activations"]))
    assert list(read.arrays) == sites
    for number, record in enumerate(records):
        for key in ("prompt", "question_id", "correct", "input_ids", "positions"):
            assert read.said[number].get(key) == record.get(key)
        for site in sites:
            expected = record["activations"].get(site)
            if expected is None:
                assert read.arrays[site][number] is None
            else:
                assert_same_bits(read.arrays[site][number], expected)


@pytest.fixture
def records():
    return [random_record(number, 3 + number % 4) for number in range(12)]


@pytest.fixture
def store(tmp_path, records):
    return fill(tmp_path / "run", records)


@pytest.mark.parametrize("to", FORMATS)
def test_everything_is_exported_bit_for_bit(store, tmp_path, records, to):
    path = target(tmp_path, to)
    done = export_store(store, path, to)
    assert_exports(Read(path, to), records)
    files = list(path.iterdir()) if path.is_dir() else [path]
    assert (done.location, done.to, done.records, done.sites) == (str(path), to, 12, SITES)
    assert (done.files, done.bytes) == (len(files), sum(file.stat().st_size for file in files))
    assert json.loads(json.dumps(done.as_json()))["bytes"] == done.bytes
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, "run"])


def every_value(dtype):
    """A tensor `(8, 64)` with values of every kind that a dtype has, but for NaN, whose payload is nobody's."""
    if dtype == torch.bool:
        return torch.arange(8 * 64).reshape(8, 64) % 3 == 0
    if not dtype.is_floating_point:
        return torch.iinfo(dtype).min + torch.arange(8 * 64).reshape(8, 64).to(dtype)
    tensor = torch.randint(-128, 128, (8, 64 * dtype.itemsize), dtype=torch.int8).view(dtype)
    tensor.view(BITS[dtype.itemsize])[tensor.float().isnan()] = 0
    tensor[0, :4] = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 2]).to(dtype)
    return tensor


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool],
    ids=str,
)
@pytest.mark.parametrize("positions", ["all", "last"])
def test_every_dtype_keeps_its_values(tmp_path, to, dtype, positions):
    tensor = every_value(dtype)
    fill(tmp_path / "run", [random_record(n, 8).replace(activations={"layer_0": tensor}) for n in range(3)])
    export_store(tmp_path / "run", target(tmp_path, to), to, positions=positions)
    for found in Read(target(tmp_path, to), to).arrays["layer_0"]:
        assert_same_bits(found, tensor if positions == "all" else tensor[-1:])


def cut(record, places, sites):
    activations = {site: record.activations[site][places] for site in sites}
    return record.replace(positions=[record.positions[place] for place in places], activations=activations)


PLACES = {
    "last": lambda record: [len(record.positions) - 1],
    "last_prompt": lambda record: [record.prompt_length - 1],
    "response": lambda record: list(range(record.prompt_length, len(record.positions))),
    "0": lambda record: [0],
}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("positions", PLACES)
def test_sites_and_positions_of_a_view_are_exported(store, tmp_path, records, to, positions):
    view = store.where(subject="odd")
    asked = 0 if positions == "0" else positions
    done = export_store(view, target(tmp_path, to), to, sites=["embeddings", 1], positions=asked)
    assert (done.records, done.sites) == (6, ["embeddings", "layer_1"])
    expected = [cut(record, PLACES[positions](record), done.sites) for record in records[1::2]]
    read = Read(target(tmp_path, to), to)
    assert_exports(read, expected)
    if to == "npz":
        assert read.positions == [record.positions for record in expected]


@pytest.mark.parametrize("to", FORMATS)
def test_records_keep_the_order_of_the_view(store, tmp_path, records, to):
    export_store(store[::-1], target(tmp_path, to), to, sites="layer_0")
    assert_exports(Read(target(tmp_path, to), to), records[::-1], ["layer_0"])


def odd_records():
    """Records of which hardly two are alike."""
    patterns = {f"layer_{n}.attn_probs": torch.rand(4, 4, 4) for n in range(2)}
    longer = {"layer_0.attn_probs": torch.rand(4, 6, 6), "layer_0": torch.rand(6, 16).bfloat16()}
    late = {"logits": torch.rand(1, 8), "layer_0": torch.rand(5, 12).bfloat16(), "layer_1": torch.rand(5, 2, 3)}
    return [
        random_record(0, 4, sites=["layer_0"]),
        random_record(1, 4).replace(activations=patterns),
        random_record(2, 6).replace(activations=longer),
        random_record(3, 5).replace(activations=late, site_positions={"logits": [2]}),
        random_record(4, 5).replace(activations={}),
        random_record(5, 0, sites=["layer_0"]),
        {"prompt": "nothing else", "activations": {"layer_0": torch.rand(2, 16).bfloat16(), "x": torch.tensor(3.0)}},
    ]


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
@pytest.mark.parametrize("to", FORMATS)
def test_records_of_every_shape_are_exported(tmp_path, to, shard_bytes):
    """Attention patterns, several widths, late sites, records without some sites, or without any."""
    records = odd_records()
    store = fill(tmp_path / "run", records, shard_bytes=shard_bytes)
    export_store(store, target(tmp_path, to), to)
    assert_exports(Read(target(tmp_path, to), to), records, store.sites)


@pytest.mark.parametrize("to", FORMATS)
def test_patterns_are_cut_at_their_queries(tmp_path, to):
    records = odd_records()[1:3]
    store = fill(tmp_path / "run", records)
    export_store(store, target(tmp_path, to), to, positions="last", sites="*.attn_probs")
    found = Read(target(tmp_path, to), to).arrays["layer_0.attn_probs"]
    for array, record in zip(found, records, strict=True):
        assert_same_bits(array, record.activations["layer_0.attn_probs"][:, -1:])


@pytest.mark.parametrize("to", FORMATS)
def test_one_row_of_records_of_which_some_lack_the_site(tmp_path, to):
    records = [random_record(n, 4, sites=SITES if n % 3 else ["layer_1"]) for n in range(9)]
    fill(tmp_path / "run", records, shard_bytes=500)
    export_store(tmp_path / "run", target(tmp_path, to), to, sites="layer_0", positions=2)
    found = Read(target(tmp_path, to), to).arrays["layer_0"]
    assert [array is None for array in found] == [n % 3 == 0 for n in range(9)]
    assert_same_bits(found[1], records[1].activations["layer_0"][2:3])


@pytest.mark.parametrize("backend", ["zstd", "pickle"])
@pytest.mark.parametrize("to", FORMATS)
def test_stores_of_every_format_and_elsewhere_are_exported(tmp_path, records, backend, to):
    store = fill(f"memory://exporting-{backend}-{to}/run", records, backend=backend)
    export_store(store, target(tmp_path, to), to, sites="layer_*")
    assert_exports(Read(target(tmp_path, to), to), records, ["layer_0", "layer_1"])


def test_a_path_is_enough(store, tmp_path, records):
    export_store(store.location, str(tmp_path / "export.parquet"), "parquet")
    assert_exports(Read(tmp_path / "export.parquet", "parquet"), records)


@pytest.mark.parametrize("to", FORMATS)
def test_values_that_do_not_fit_a_dtype_are_warned_about_once(tmp_path, to):
    records = [random_record(number).replace(activations={"layer_0": torch.full((5, 2), 1e6)}) for number in range(6)]
    fill(tmp_path / "run", records, shard_bytes=1)
    with pytest.warns(RuntimeWarning, match=r"60 values of layer_0 do not fit torch.float16") as caught:
        export_store(tmp_path / "run", target(tmp_path, to), to, dtype="float16")
    assert [warning.filename for warning in caught] == [__file__]
    read = Read(target(tmp_path, to), to)
    assert all(numpy.isinf(array).all() and array.dtype == "float16" for array in read.arrays["layer_0"])


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_appended_meanwhile_is_not_exported(tmp_path, records, to):
    with ActivationStore(tmp_path / "run", shard_bytes=2000) as store:
        for record in records:
            store.append(record)
        store.flush()

        def append(done, total):
            store.append(random_record(99))
            store.flush()

        export_store(store, target(tmp_path, to), to, progress=append)
        assert len(store) > 12
    assert_exports(Read(target(tmp_path, to), to), records)


# What is said.


def test_columns_have_the_types_of_what_they_hold(tmp_path):
    said = {
        "score": [0.5, 1, None],
        "count": [1, None, 3],
        "mixed": [1, "two", [3]],
        "options": [["a", "b"], [], None],
        "scores": [{"mean": 0.5, "n": 3}, {"mean": 1, "n": 4}, None],
        "by_name": [{"a": 1}, {"b": 2}, {}],
        "large": [2**62, 1, 2],
        "huge": [2**70, 1, 2],
        "inexact": [2**60, 0.5, 1],
        "nothing": [None, None, None],
        "nested": [[[1, 2], []], [[]], [[3]]],
        "site_positions": [{"x": [1]}, {"x": [2]}, {"x": [3]}],
    }
    records = [
        {"prompt": "é\n", **{key: values[n] for key, values in said.items()}, "activations": {"x": torch.rand(1, 2)}}
        for n in range(3)
    ]
    fill(tmp_path / "run", records)
    export_store(tmp_path / "run", tmp_path / "a.parquet", "parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    types = {name: str(table.schema.field(name).type) for name in said}
    assert types == {
        "score": "double",
        "count": "int64",
        "mixed": "string",
        "options": "list<element: string>",
        "scores": "struct<mean: double, n: int64>",
        "by_name": "string",
        "large": "int64",
        "huge": "string",
        "inexact": "string",
        "nothing": "string",
        "nested": "list<element: list<element: int64>>",
        "site_positions": "string",
    }
    for key, values in said.items():
        found = table.column(key).to_pylist()
        if types[key] == "string":
            found = [None if text is None else json.loads(text) for text in found]
        assert found == values
    export_store(tmp_path / "run", tmp_path / "hf", "hf")
    back = datasets.load_from_disk(tmp_path / "hf")
    assert back["scores"][:] == said["scores"]
    assert back["prompt"][:] == ["é\n"] * 3


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_column_of_whatever_records_say_gives_it_back(values):
    kind = kinds_of({"key": value} for value in values)["key"]
    texts = list(map(as_json_text, values)) if kind is JSON else values
    column = pyarrow.array(texts, arrow_tables.arrow_type(kind))
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"key": column}), sink)
    found = parquet.read_table(sink.getvalue()).column("key").to_pylist()
    if kind is JSON:
        found = [None if text is None else json.loads(text) for text in found]
    assert found == values


def test_npz_has_an_array_of_what_every_record_says(store, tmp_path):
    export_store(store, tmp_path / "a.npz", "npz", positions="last")
    with numpy.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["question_id"].tolist() == store.column("question_id")
        assert file["correct"].dtype == bool
        assert file["prompt_length"].tolist() == store.column("prompt_length")
        assert file["layer_0"].shape == (12, 16)
        assert file["layer_0.positions"].tolist() == [positions[-1] for positions in store.column("positions")]
        assert "layer_0.offsets" not in file
        assert "input_ids" not in file
        assert all(not array.dtype.hasobject for array in (file[name] for name in file))


def test_npz_leaves_to_the_lines_what_makes_no_array(tmp_path):
    values = {"zero": "a\0", "long": "x" * 101, "gap": None}
    fill(
        tmp_path / "run",
        [
            {"prompt": "one", **(values if n else dict.fromkeys(values, "b")), "activations": {"x": torch.rand(1, 2)}}
            for n in range(2)
        ],
    )
    export_store(tmp_path / "run", tmp_path / "a.npz", "npz")
    with numpy.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["prompt"].tolist() == ["one", "one"]
        assert not values.keys() & set(file)
        assert json.loads(file["actframe.records"].tobytes().splitlines()[1]) == {"prompt": "one", **values}


@pytest.mark.parametrize("to", FORMATS)
def test_a_key_with_the_name_of_a_site_is_refused(tmp_path, to):
    fill(tmp_path / "run", [random_record(0, layer_0="clash")])
    with pytest.raises(SelectionError, match="say something under layer_0"):
        export_store(tmp_path / "run", target(tmp_path, to), to)
    export_store(tmp_path / "run", target(tmp_path, to), to, sites="layer_1")


def test_parquet_says_what_its_values_are(store, tmp_path):
    export_store(store, tmp_path / "a.parquet", "parquet", sites="layer_1", positions="last")
    schema = parquet.read_schema(tmp_path / "a.parquet")
    about = json.loads(schema.metadata[b"actframe"])
    assert about["from"] == store.location
    assert about["cut"] == {"sites": "layer_1", "positions": "last", "dtype": None}
    facts = {"dtype": "bfloat16", "stored_as": "float32", "shape": [16]}
    assert about["sites"] == {"layer_1": facts}
    assert json.loads(schema.field("layer_1").metadata[b"actframe"]) == facts
    assert str(schema.field("layer_1").type) == "fixed_size_list<element: float>[16]"


def test_duckdb_and_pandas_read_parquet(store, tmp_path, records):
    export_store(store, tmp_path / "a.parquet", "parquet", positions="last")
    path = str(tmp_path / "a.parquet")
    found = duckdb.sql(
        f"SELECT subject, avg(correct::INTEGER), sum(layer_1[3]), any_value(len(layer_1)) "
        f"FROM read_parquet('{path}') GROUP BY subject ORDER BY subject"
    ).fetchall()
    for (subject, accuracy, total, width), chosen in zip(found, (records[::2], records[1::2]), strict=True):
        assert (subject, width) == (chosen[0].subject, 16)
        assert accuracy == sum(record.correct for record in chosen) / 6
        assert total == pytest.approx(sum(float(record.activations["layer_1"][-1, 2]) for record in chosen))
    frame = pandas.read_parquet(path)
    assert frame["question_id"].tolist() == store.column("question_id")
    assert_same_bits(numpy.stack(frame["layer_0"]), store.stack("layer_0", "last"))
    export_store(store, tmp_path / "half.parquet", "parquet", dtype="float16")
    half = duckdb.sql(f"SELECT layer_1[2][3] FROM read_parquet('{tmp_path / 'half.parquet'}')").fetchall()
    assert half == [(float(record.activations["layer_1"][1, 2].half()),) for record in records]


def test_datasets_gives_arrays(store, tmp_path):
    export_store(store, tmp_path / "all", "hf")
    export_store(store, tmp_path / "last", "hf", positions="last")
    found = datasets.load_from_disk(tmp_path / "last")
    assert found.features["layer_0"] == datasets.List(datasets.Value("float32"), length=16)
    assert torch.equal(found.with_format("torch")[:]["layer_0"], store.stack("layer_0", "last").float())
    found = datasets.load_from_disk(tmp_path / "all")
    assert found.features["layer_0"] == datasets.List(datasets.List(datasets.Value("float32"), length=16))
    assert torch.equal(found.with_format("torch")[3]["layer_0"], store[3].activations["layer_0"].float())
    assert len(found.filter(lambda said: said["subject"] == "odd", keep_in_memory=True)) == 6


# In parts.


@pytest.mark.parametrize("to", FORMATS)
def test_it_is_the_same_in_many_parts(store, tmp_path, records, monkeypatch, to):
    monkeypatch.setattr(cut_views, "PIECE_BYTES", 600)
    monkeypatch.setattr(arrow_tables, "TABLE_BYTES", 4000)
    monkeypatch.setattr(hf_folders, "FILE_BYTES", 5000)
    seen = []
    done = export_store(store, target(tmp_path, to), to, progress=lambda *told: seen.append(told))
    assert_exports(Read(target(tmp_path, to), to), records)
    assert len(seen) > 5
    assert seen == sorted(seen)
    size = sum(file.stat().st_size for file in (tmp_path / "run" / "shards").iterdir())
    assert seen[-1] == (size, size)
    if to == "hf":
        assert done.files > 4
        names = sorted(file.name for file in (tmp_path / "export").glob("*.arrow"))
        assert names == [f"data-{n:05d}-of-{len(names):05d}.arrow" for n in range(len(names))]
    if to == "parquet":
        assert parquet.ParquetFile(tmp_path / "export.parquet").num_row_groups > 2


GROWTH = """
import sys, threading, time
from pathlib import Path
from actframe import ActivationStore
from actframe.storage import arrow_tables, cut_views
from actframe.storage.exporting import export_store
cut_views.PIECE_BYTES, arrow_tables.TABLE_BYTES = 2 << 20, 4 << 20

def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) << 10

folder, to = Path(sys.argv[1]), sys.argv[2]
suffix = {"parquet": ".parquet", "npz": ".npz", "hf": ""}[to]
export_store(ActivationStore(folder / "run")[:40], folder / f"first{suffix}", to)
before, most = resident(), [0]
def watch(done, total):
    most[0] = max(most[0], resident())
export_store(ActivationStore(folder / "run"), folder / f"second{suffix}", to, progress=watch)
print((max(most[0], resident()) - before) >> 20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux says it")
@pytest.mark.parametrize("to", FORMATS)
def test_memory_stays_flat(tmp_path, to):
    record = {"prompt": "one", "activations": {f"layer_{n}": torch.randn(64, 512) for n in range(4)}}
    with ActivationStore(tmp_path / "run", shard_bytes=16 << 20) as store:
        for _ in range(400):
            store.append(record)
    assert store.bytes_on_disk > 200 << 20
    command = [sys.executable, "-c", GROWTH, str(tmp_path), to]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64, f"an export of 200 MiB took {done.stdout} MiB"


# What goes wrong.

FULL = """
import resource, signal, sys
from actframe.storage.exporting import export_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
export_store(*sys.argv[1:])
"""


@pytest.mark.parametrize("to", FORMATS)
def test_a_disk_that_takes_no_more_is_said(store, tmp_path, to):
    command = [sys.executable, "-c", FULL, store.location, str(target(tmp_path, to)), to]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == f"actframe.errors.StorageError: cannot export to {target(tmp_path, to)}: File too large"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


class Stop(KeyboardInterrupt):
    pass


def stop(done, total):
    raise Stop


@pytest.mark.parametrize("to", FORMATS)
def test_an_interrupted_export_leaves_nothing(store, tmp_path, records, monkeypatch, to):
    monkeypatch.setattr(cut_views, "PIECE_BYTES", 600)
    with pytest.raises(Stop):
        export_store(store, target(tmp_path, to), to, progress=stop)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    export_store(store, target(tmp_path, to), to)
    with pytest.raises(Stop):
        export_store(store[:2], target(tmp_path, to), to, progress=stop, overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["run", target(tmp_path, to).name])
    assert_exports(Read(target(tmp_path, to), to), records)


@pytest.mark.parametrize("to", FORMATS)
def test_a_killed_export_has_no_name(store, tmp_path, to):
    code = (
        "import os, signal, sys; from actframe.storage.exporting import export_store; "
        "export_store(sys.argv[1], sys.argv[2], sys.argv[3], progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    command = [sys.executable, "-c", code, store.location, str(target(tmp_path, to)), to]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert all(each.name == "run" or each.name.startswith(".actframe-") for each in tmp_path.iterdir())
    export_store(store, target(tmp_path, to), to)
    assert len(Read(target(tmp_path, to), to).said) == 12


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_there_is_replaced_only_if_asked(store, tmp_path, records, to):
    path = target(tmp_path, to)
    export_store(store, path, to)
    with pytest.raises(StorageError, match="it is there already"):
        export_store(store[:3], path, to)
    assert_exports(Read(path, to), records)
    export_store(store[:3], path, to, overwrite=True)
    assert_exports(Read(path, to), records[:3])
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["run", path.name])


def test_other_things_are_never_replaced(store, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match="was not written by such an export"):
        export_store(store, tmp_path / "thesis", "hf", overwrite=True)
    with pytest.raises(StorageError, match="was not written by such an export"):
        export_store(store, tmp_path / "run", "hf", overwrite=True)
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(StorageError, match="was not written by such an export"):
        export_store(store, tmp_path / "a.npz", "npz", overwrite=True)
    assert (tmp_path / "thesis" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("name", "to", "complaint"),
    [
        ("a.csv", "parquet", r"ends with '.parquet', and this one with '.csv'"),
        ("a", "npz", r"ends with '.npz', and this one with ''"),
        ("a.parquet", "hf", "is a folder"),
        ("none/a.npz", "npz", "none does not exist; create it first"),
        ("s3://bucket/a.npz", "npz", "this machine's disk"),
    ],
)
def test_targets_that_cannot_be_are_refused(store, tmp_path, monkeypatch, name, to, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=complaint):
        export_store(store, name, to)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_what_cannot_be_exported_is_refused(store, tmp_path, records):
    path = tmp_path / "a.parquet"
    with pytest.raises(UnknownNameError, match="no export format named 'parket'.*did you mean 'parquet'.*npz, hf"):
        export_store(store, path, "parket")
    with pytest.raises(SiteError, match=r"holds no site 'layer_7'.*it holds embeddings, layer_0 .. layer_1"):
        export_store(store, path, "parquet", sites="layer_7")
    with pytest.raises(SelectionError, match="no records to export"):
        export_store(store.where(subject="odd").where(subject="even"), path, "parquet")
    with pytest.raises(SelectionError, match="no activations to export"):
        export_store(fill(tmp_path / "none", [random_record(0, sites=[])]), path, "parquet")
    with pytest.raises(SelectionError, match="no positions 'middle'"):
        export_store(store, path, "parquet", positions="middle")
    with pytest.raises(SelectionError, match=r"\d of \d+ records have no row of embeddings for position 5"):
        export_store(store, path, "parquet", positions=5)
    fill(tmp_path / "run", [random_record(20, dtype=torch.float32)])
    mixed = ActivationStore(tmp_path / "run")
    with pytest.raises(SelectionError, match="are torch.bfloat16 in .*, and torch.float32 in .*choose a dtype for all"):
        export_store(mixed, path, "parquet")
    with pytest.raises(StorageError, match="no store at"):
        export_store(tmp_path / "nowhere", path, "parquet")
    assert not path.exists()
    export_store(mixed, path, "parquet", dtype="bfloat16")
    assert len(Read(path, "parquet").said) == 13


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("backend", ["safetensors", "zstd"])
def test_a_damaged_shard_is_named(tmp_path, records, to, backend):
    store = fill(tmp_path / "run", records, backend=backend)
    victim = sorted((tmp_path / "run" / "shards").iterdir())[1]
    if backend == "zstd":
        data = bytearray(victim.read_bytes())
        data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
        victim.write_bytes(data)
    else:
        os.truncate(victim, victim.stat().st_size // 2)
    with pytest.raises(StorageError, match=f"cannot read .*shard {victim.name}.*`actframe verify`"):
        export_store(store, target(tmp_path, to), to)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("to", "package", "extra"),
    [("parquet", "pyarrow", "parquet"), ("hf", "datasets", "hf")],
)
def test_a_missing_package_is_named(store, tmp_path, monkeypatch, to, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ActframeError, match=f'{package}, which is not installed: pip install "actframe\\[{extra}\\]"'):
        export_store(store, target(tmp_path, to), to)


def test_npz_members_may_be_larger_than_four_gigabytes(store, tmp_path):
    """The local headers leave room for sizes of 64 bits; where arrays are that large cannot be tested in a second."""
    export_store(store, tmp_path / "a.npz", "npz", sites="layer_0")
    data = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            header = data[info.header_offset :]
            assert int.from_bytes(header[4:6], "little") >= 45
            assert info.compress_type == zipfile.ZIP_STORED
