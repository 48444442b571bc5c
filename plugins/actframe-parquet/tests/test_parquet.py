"""The plugin as users have it: found through its entry point, used through actframe, queried by DuckDB and others."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import duckdb
import numpy
import polars
import pyarrow
import pytest
import torch
from actframe_parquet import tables
from actframe_parquet.backend import ParquetBackend
from actframe_parquet.sealed import seal
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

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


class TestParquetBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return ParquetBackend()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.parquet"


def stored(folder, records):
    """The one shard of a store of these records, which are checked to come back."""
    with ActivationStore(folder, backend="parquet") as store:
        for record in records:
            store.append(record)
    for found, record in zip(ActivationStore(folder, create=False), records, strict=True):
        assert_same_record(found, record)
    (shard,) = (folder / "shards").iterdir()
    return shard


def bytes_read():
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


def test_the_entry_point_is_found_with_its_distribution():
    (entry_point,) = [point for point in metadata.entry_points(group="actframe") if point.name == "parquet"]
    assert entry_point.dist.name == "actframe-parquet"
    (plugin,) = [plugin for plugin in registry().plugins() if plugin.distribution == "actframe-parquet"]
    assert plugin.error is None
    assert plugin.extensions == [ParquetBackend]


def test_what_the_first_version_wrote_stays_readable():
    found = load_activations(Path(__file__).parent / "golden" / "version-1.parquet")
    activations = found.pop("activations")
    assert found == {"prompt": "Hi 東京", "positions": [3, 4], "correct": True, "question_id": "a/1"}
    assert list(activations) == ["layer_0", "layer_0.attn_probs", "odd"]
    assert_same(activations["layer_0"], torch.arange(6.0).reshape(2, 3).bfloat16())
    assert_same(activations["layer_0.attn_probs"], torch.arange(8.0).reshape(2, 2, 2))
    assert_same(activations["odd"], torch.tensor(7, dtype=torch.int16))


def test_looking_the_plugin_up_by_its_entry_point_imports_neither_arrow_nor_torch():
    script = "import sys, actframe_parquet; print(sorted({'pyarrow', 'numpy', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(block, names)
    records = [random_record(number, 5 + number) for number in range(10)]
    last = {
        right: torch.stack([r.activations["layer_1"][-3] for r in records if r["correct"] is right])
        for right in (False, True)
    }
    found = names["means"].fetchall()
    assert [(right, dimension) for right, dimension, _ in found] == [
        (r, d) for r in (False, True) for d in range(1, 17)
    ]
    for right, dimension, mean in found:
        assert mean == pytest.approx(last[right][:, dimension - 1].double().mean().item())
    assert [json.loads(text) for _, text in names["ids"].fetchall()] == [record["input_ids"] for record in records]
    assert names["rows"].fetchall() == [("even", 5 + 7 + 9 + 11 + 13), ("odd", 6 + 8 + 10 + 12 + 14)]
    assert names["wrong"]["layer_1"].to_numpy().shape == (sum(5 + n for n in range(10) if n % 3), 16)
    assert names["dataset"].with_format("torch")[:8]["layer_1"].shape == (8, 16)


def test_the_zeros_that_widening_adds_take_no_space(path):
    values = torch.randn(2000, 512).bfloat16()
    ParquetBackend().write(path, Bundle({"layer_0": values}))
    assert path.stat().st_size < values.nbytes * 0.9


def test_one_query_gives_activations_with_their_labels(tmp_path):
    records = [random_record(number, 5 + number) for number in range(6)]
    shard = stored(tmp_path / "run", records)
    found = duckdb.sql(
        f"SELECT question_id, position, layer_1 FROM '{shard}' "
        "WHERE subject = 'odd' AND NOT correct ORDER BY record, position"
    ).fetchall()
    wanted = [record for record in records if record["subject"] == "odd" and not record["correct"]]
    assert [(key, position) for key, position, _ in found] == [
        (record["question_id"], position) for record in wanted for position in record["positions"]
    ]
    rows = torch.cat([record.activations["layer_1"] for record in wanted])
    assert torch.equal(torch.tensor([values for _, _, values in found]), rows.float())
    columns = {name: kind for name, kind, *_ in duckdb.sql(f"DESCRIBE FROM '{shard}'").fetchall()}
    assert (columns["layer_1"], columns["correct"], columns["prompt"]) == ("FLOAT[]", "BOOLEAN", "VARCHAR")


def test_shards_that_say_different_things_are_one_table(tmp_path):
    with ActivationStore(tmp_path / "run", backend="parquet") as store:
        store.append(random_record(0, 2, note=None))
        store.flush()
        store.append(random_record(1, 3, note="odd", sites=["layer_0"]))
    assert len(list((tmp_path / "run" / "shards").iterdir())) == 2
    table = f"read_parquet('{tmp_path}/run/shards/*.parquet', union_by_name=true)"
    found = duckdb.sql(
        f"SELECT question_id, note, count(layer_0), count(layer_1) FROM {table} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert found == [("sums/0", None, 2, 2), ("sums/1", "odd", 3, 0)]


def test_polars_sees_arrays_of_one_size(tmp_path):
    record = random_record(0, 4)
    table = polars.read_parquet(stored(tmp_path / "run", [record]))
    assert table.schema["layer_0"] == polars.Array(polars.Float32, 16)
    assert numpy.array_equal(table["layer_0"].to_numpy(), record.activations["layer_0"].float().numpy())


def test_records_that_lack_sites_or_positions_have_null_there(tmp_path):
    whole = random_record(0, 3)
    tensors = {"layer_0": whole.activations["layer_0"], "layer_1": whole.activations["layer_1"][1:2]}
    odd = random_record(1, 3, sites=["layer_0", "layer_1"]).replace(
        activations=tensors, site_positions={"layer_1": [1]}
    )
    nothing = random_record(2, 3, sites=[])
    shard = stored(tmp_path / "run", [whole, odd, nothing])
    query = f"SELECT record, position, layer_0 IS NULL, layer_1 IS NULL, embeddings IS NULL FROM '{shard}'"
    assert duckdb.sql(f"{query} ORDER BY record, position").fetchall() == [
        (0, 0, False, False, False),
        (0, 1, False, False, False),
        (0, 2, False, False, False),
        (1, 0, False, True, True),
        (1, 1, False, False, True),
        (1, 2, False, True, True),
        (2, None, True, True, True),
    ]


def test_reduced_rows_have_no_position_and_stand_before_those_that_have(tmp_path):
    tensors = {"layer_0": torch.ones(3, 4), "layer_1": torch.ones(1, 4)}
    shard = stored(tmp_path / "run", [random_record(number, 3).replace(activations=tensors) for number in range(2)])
    found = duckdb.sql(f"SELECT record, position, layer_0 IS NULL, layer_1 IS NULL FROM '{shard}'").fetchall()
    each = [(None, True, False), (0, False, True), (1, False, True), (2, False, True)]
    assert found == [(record, *row) for record in range(2) for row in each]


def test_attention_patterns_are_lists_on_the_first_row_of_their_record(tmp_path):
    patterns = [torch.rand(2, length, length) for length in (3, 5)]
    records = [
        random_record(number, len(pattern[0])).replace(
            activations={"layer_0": torch.ones(len(pattern[0]), 4), "layer_0.attn_probs": pattern}
        )
        for number, pattern in enumerate(patterns)
    ]
    records.append(random_record(2, 3).replace(activations={"layer_0": torch.ones(3, 4)}))
    shard = stored(tmp_path / "run", records)
    found = duckdb.sql(
        f"""SELECT record, position, "layer_0.attn_probs" FROM '{shard}' WHERE "layer_0.attn_probs" IS NOT NULL"""
    ).fetchall()
    assert [(record, position) for record, position, _ in found] == [(0, 0), (1, 0)]
    for (_, _, values), pattern in zip(found, patterns, strict=True):
        assert torch.equal(torch.tensor(values), pattern.flatten())


def test_a_single_record_is_a_table_with_what_it_says(path):
    record = random_record(0, 3)
    save_activations(record, path)
    assert duckdb.sql(f"SELECT DISTINCT question_id, correct FROM '{path}'").fetchall() == [("sums/0", True)]
    assert_same_record(load_activations(path), record)


@pytest.mark.parametrize("positions", ["nonsense", [3, "x"], {"a": 1}, [1, 0], [2**31 - 1, 5]])
def test_a_record_that_says_nonsense_of_its_positions_is_saved_all_the_same(path, positions):
    tensors = {"layer_0": random_tensor(torch.bfloat16, 2, 3), "layer_1": random_tensor(torch.bfloat16, 1, 3)}
    save_activations({"positions": positions, "prompt": "half \ud83d", "activations": tensors}, path)
    found = load_activations(path)
    assert (found["positions"], found["prompt"]) == (positions, "half \ud83d")
    for site, tensor in tensors.items():
        assert_same(found["activations"][site], tensor)


def test_a_key_that_is_called_as_a_site_is_left_out(path):
    record = random_record(0, 3, layer_0="text", record="mine", position="here")
    save_activations(record, path)
    assert_same_record(load_activations(path), record)
    assert duckdb.sql(f"SELECT record, position, len(layer_0) FROM '{path}'").fetchall() == [
        (0, 0, 16),
        (0, 1, 16),
        (0, 2, 16),
    ]


def test_tensors_in_many_row_groups_survive(path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_BYTES", 32_768)
    shapes = [(), (0, 3), (3, 0), (100,), (37, 8), (3, 20), (5, 7, 11)]
    tensors = {f"{dtype}{shape}": random_tensor(dtype, *shape) for dtype in DTYPES for shape in shapes}
    assert_survives(ParquetBackend(), path, Bundle(tensors))
    assert parquet.read_metadata(path).num_row_groups > 2
    lazy = ParquetBackend().read(path).tensors
    for name, tensor in tensors.items():
        if tensor.dim():
            for start, stop in ((0, 0), (1, 2), (2, len(tensor)), (len(tensor) // 2, len(tensor) // 2 + 20)):
                assert_same(lazy.rows(name, start, stop), tensor[start:stop])


def test_a_store_in_many_row_groups_gives_back_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_BYTES", 1000)
    records = [random_record(number, 3 + number, sites=["layer_0", "layer_1"][: 1 + number % 2]) for number in range(9)]
    shard = stored(tmp_path / "run", records)
    assert parquet.read_metadata(shard).num_row_groups > 5


def test_some_rows_are_read_without_the_other_row_groups(path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_BYTES", 1 << 20)
    tensor = random_tensor(torch.float32, 16_384, 256)
    ParquetBackend().write(path, Bundle({"layer_0": tensor, "layer_1": tensor}))
    lazy = ParquetBackend().read(path).tensors
    assert_same(lazy.rows("layer_0", 0, 1), tensor[:1])
    before = bytes_read()
    assert_same(lazy.rows("layer_0", 10_000, 10_100), tensor[10_000:10_100])
    assert bytes_read() - before < path.stat().st_size / 20


def test_a_site_is_read_without_those_whose_names_begin_with_its(path):
    tensors = {
        name: random_tensor(torch.float32, 1000, 64, seed=len(name))
        for name in ("layer_0", "layer_0.attn_out", "layer_0.list")
    }
    ParquetBackend().write(path, Bundle(tensors))
    lazy = ParquetBackend().read(path).tensors
    assert_same(lazy["layer_0"], tensors["layer_0"])
    before = bytes_read()
    assert_same(lazy["layer_0"], tensors["layer_0"])
    assert bytes_read() - before < path.stat().st_size / 2


def test_what_compresses_to_almost_nothing_is_read_again(path):
    zeros = torch.zeros(20_000, 1024)
    ParquetBackend().write(path, Bundle({"layer_0": zeros}))
    assert path.stat().st_size < zeros.nbytes / 900
    assert_same(ParquetBackend().read(path).tensors["layer_0"], zeros)


def test_a_name_that_is_no_text_is_refused(path):
    with pytest.raises(StorageError, match="cannot be called"):
        ParquetBackend().write(path, Bundle({"\ud83d": torch.ones(1)}))


def read(path):
    return dict(ParquetBackend().read(path).tensors)


def test_a_table_of_somebody_else_is_refused(path):
    parquet.write_table(pyarrow.table({"layer_0": [1.0, 2.0]}), path)
    with pytest.raises(FormatError, match="an export, or a table of somebody else's"):
        read(path)


def test_every_damage_is_noticed_before_arrow_sees_it(path):
    written = {"layer_0": random_tensor(torch.bfloat16, 64, 16), "layer_1": torch.ones(3)}
    ParquetBackend().write(path, Bundle(written, {"prompt": "hello"}))
    content = path.read_bytes()
    for place in [*range(4, len(content), 37), *range(len(content) - 400, len(content))]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(FormatError):
            read(path)
    # Of the four bytes at the beginning Arrow asks nothing, nor do we.
    assert content[:4] == b"PAR1"


def rewritten(path, change):
    """The file with its description changed."""
    table = parquet.read_table(path)
    about = json.loads(table.schema.metadata[b"actframe.bundle"])
    about = change(about) or about
    parquet.write_table(table.replace_schema_metadata({"actframe.bundle": json.dumps(about)}), path)
    seal(path)


@pytest.mark.parametrize(
    "said",
    [
        {"dtype": "float32"},
        {"shape": [2**50, 4]},
        {"shape": [3, -4]},
        {"shape": "x"},
        {"shape": [3, 5]},
        {"dtype": "nonsense"},
        {"dtype": "float16"},
        {"kind": "pickles"},
        {"starts": "x"},
        {"starts": [3, 0]},
        {"dtype": "complex64"},
    ],
)
def test_a_description_that_lies_is_refused(path, said):
    ParquetBackend().write(path, Bundle({"layer_0": torch.ones(3, 4).bfloat16(), "layer_1": torch.ones(3, 4)}))
    site = "layer_1" if said == {"dtype": "float16"} else "layer_0"
    rewritten(path, lambda about: about["tensors"][site].update(said))
    if said == {"dtype": "float32"}:
        assert_same(read(path)["layer_0"], torch.ones(3, 4))
        return
    with pytest.raises(FormatError):
        read(path)


@pytest.mark.parametrize("about", [[], {"metadata": {}}, {"metadata": {}, "tensors": {"layer_9": None}}])
def test_metadata_that_lies_is_refused(path, about):
    ParquetBackend().write(path, Bundle({"layer_0": torch.ones(3, 4)}))
    rewritten(path, lambda _: about or [1])
    with pytest.raises(FormatError):
        read(path)


def test_a_column_that_declares_more_than_the_file_bears_out_is_refused(path):
    ParquetBackend().write(path, Bundle({"layer_0": torch.zeros(60_000, 1024)}))
    rewritten(path, lambda about: None)
    with pytest.raises(UnsafeFileError, match=r"declares \d+ bytes, and the file has \d+"):
        read(path)


def test_a_file_replaced_after_it_was_opened_is_not_mixed_with_its_successor(path):
    ParquetBackend().write(path, Bundle({"layer_0": torch.zeros(8, 4)}))
    found = ParquetBackend().read(path)
    ParquetBackend().write(path, Bundle({"layer_0": torch.ones(8, 4), "layer_1": torch.ones(8)}))
    with pytest.raises(StorageError, match="changed or replaced after it was opened"):
        found.tensors["layer_0"]
