"""The ledger as a table."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actframe import ActframeError, ActivationStore, UnknownNameError
from actframe.testing import random_record

pandas = pytest.importorskip("pandas", reason='tables need the extra: pip install "actframe[pandas]"')

SAID = [
    {"correct": True, "n": 1, "score": 0.5, "note": "a"},
    {"correct": None, "score": 1, "big": 2**70},
    {"correct": False, "n": 3, "mixed": "x", "big": 1},
    {"correct": True, "n": None, "score": None, "mixed": 1},
]


@pytest.fixture
def store(tmp_path):
    with ActivationStore(tmp_path / "run") as store:
        for number, said in enumerate(SAID):
            record = random_record(number)
            values = {key: record[key] for key in record if key != "correct"}
            store.append({**values, "layers": [number], **said})
    return store


def test_a_table_has_a_row_for_each_record_and_a_column_for_each_key(store):
    table = store.table()
    assert table.index.tolist() == [0, 1, 2, 3]
    assert table.index.name == "record"
    assert set(table.columns) == {key for entry in store.entries() for key in entry}
    assert table["question_id"].tolist() == ["sums/0", "sums/1", "sums/2", "sums/3"]
    assert table["layers"].tolist() == [[0], [1], [2], [3]]
    assert "stored" not in table.columns


def test_columns_stay_what_they_are_where_records_say_nothing(store):
    table = store.table()
    dtypes = {key: str(table[key].dtype) for key in ("trial", "correct", "n", "score", "big", "mixed", "layers")}
    assert dtypes == {
        "trial": "int64",
        "correct": "boolean",
        "n": "Int64",
        "score": "float64",
        "big": "object",
        "mixed": "object",
        "layers": "object",
    }
    assert pandas.api.types.is_string_dtype(table["prompt"])
    assert table["correct"].mean() == pytest.approx(2 / 3)
    assert table["correct"].isna().tolist() == [False, True, False, False]
    assert table["n"].isna().tolist() == [False, True, False, True]
    assert table["score"].isna().tolist() == [False, False, True, True]
    assert table["big"].tolist()[1:3] == [2**70, 1]
    assert table[table["correct"]].index.tolist() == [0, 3]
    assert table.groupby("subject")["correct"].mean().to_dict() == {"even": 0.5, "odd": 1.0}


def test_a_table_of_a_view_keeps_the_numbers_of_the_store(store):
    table = store.where(correct=True)[::-1].table()
    assert table.index.tolist() == [3, 0]
    assert [store[number].question_id for number in table.index] == table["question_id"].tolist()
    assert str(table["correct"].dtype) == "bool"


def test_a_table_may_have_some_columns_alone(store):
    table = store.table(["n", "question_id", "layers"])
    assert list(table.columns) == ["n", "question_id", "layers"]
    pandas.testing.assert_frame_equal(table, store.table()[["n", "question_id", "layers"]])
    with pytest.raises(UnknownNameError, match=r"has the key 'questionid' \(did you mean 'question_id'\?\)"):
        store.table(["n", "questionid"])


def test_a_table_of_no_records_is_empty(store):
    assert len(store[:0].table()) == 0
    assert list(store[:0].table(["n"]).columns) == ["n"]


def test_without_pandas_the_error_names_the_extra(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ActframeError, match=r'needs pandas, .*: pip install "actframe\[pandas\]"'):
        store.table()


# Other programs read a ledger as it is.


def test_duckdb_reads_the_ledger(store):
    duckdb = pytest.importorskip("duckdb")
    ledger = f"'{store.location}/ledger/*.jsonl'"
    found = duckdb.sql(f"SELECT subject, avg(correct::INT), count(*) FROM {ledger} GROUP BY subject ORDER BY subject")
    assert found.fetchall() == [("even", 0.5, 2), ("odd", 1.0, 2)]


def test_pandas_reads_the_ledger(tmp_path):
    with ActivationStore(tmp_path / "run") as store:
        for number in range(4):
            store.append(random_record(number, score=float("nan")))
    (path,) = (tmp_path / "run" / "ledger").iterdir()
    table = pandas.read_json(path, lines=True)
    assert table["correct"].tolist() == [True, False, False, True]
    assert table["score"].isna().all()
    assert table["stored"][3]["index"] == 3


def test_jq_reads_the_ledger(store):
    if not shutil.which("jq"):
        pytest.skip("jq is not installed")
    paths = [str(path) for path in (Path(store.location) / "ledger").iterdir()]
    command = ["jq", "-r", "select(.correct == false) | .question_id", *paths]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "sums/2\n"
