"""Rows of files and folders: the same from every format, text as it stands, and what is refused with its place."""

import csv
import gzip
import io
import json
from itertools import islice

import pyarrow
import pytest
from pyarrow import parquet

from actframe.benchmarks.rows import located_rows, read_rows
from actframe.errors import ActframeError, BenchmarkError

ROWS = [
    {"text": "None", "more": "NA", "last": "nan"},
    {"text": "", "more": 'a "quoted", word', "last": "two\nlines"},
    {"text": "été\u2028 ", "more": "null", "last": "1.0"},
]


def write(path, rows):
    """The rows as a file of the format that the suffix says."""
    suffix = path.suffixes[0]
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        new = pyarrow.ipc.new_stream if "stream" in path.stem else pyarrow.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        data = as_text(suffix, rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_text(suffix, rows):
    if suffix == ".jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    if suffix == ".json":
        return json.dumps(rows)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, rows[0], delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


FORMATS = [
    "rows.parquet",
    "file.arrow",
    "stream.arrow",
    "rows.jsonl",
    "rows.json",
    "rows.csv",
    "rows.tsv",
    "rows.jsonl.gz",
    "rows.csv.gz",
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_and_leaves_text_as_it_stands(name, tmp_path):
    assert list(read_rows(write(tmp_path / name, ROWS))) == ROWS


@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_picked_in_the_order_asked_for(name, tmp_path):
    rows = list(read_rows(write(tmp_path / name, ROWS), ["last", "text"]))
    assert [list(row.items()) for row in rows] == [[("last", r["last"]), ("text", r["text"])] for r in ROWS]


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_that_is_missing_is_named_with_those_there_are(name, tmp_path):
    path = write(tmp_path / name, ROWS)
    with pytest.raises(BenchmarkError, match=rf"{name}.* lacks the column 'label'; it has 'text', 'more', 'last'"):
        list(read_rows(path, ["text", "label"]))


def test_a_value_that_is_not_there_is_none_only_where_the_format_says_so(tmp_path):
    rows = [{"text": None}, {"text": "x"}]
    for name in ("rows.parquet", "rows.jsonl", "rows.json"):
        assert list(read_rows(write(tmp_path / name, rows))) == rows


def test_lists_and_objects_come_through(tmp_path):
    rows = [{"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "n": [1, 2]}]
    for name in ("rows.parquet", "file.arrow", "rows.jsonl", "rows.json"):
        assert list(read_rows(write(tmp_path / name, rows))) == rows


def test_an_object_that_holds_one_list_and_lines_named_json_are_rows_too(tmp_path):
    (tmp_path / "held.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    (tmp_path / "lines.json").write_text(as_text(".jsonl", ROWS))
    assert list(read_rows(tmp_path / "held.json")) == list(read_rows(tmp_path / "lines.json")) == ROWS


def test_a_csv_file_without_header_has_the_names_it_is_given(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('"Which, of these?",A,None,C,D,A\n')
    names = ["question", "A", "B", "C", "D", "answer"]
    (row,) = located_rows(path, unnamed=names)
    assert row.values == dict(zip(names, ["Which, of these?", "A", "None", "C", "D", "A"], strict=True))
    path.write_text("answer,question,A,B,C,D\nA,Which?,1,2,3,4\n")
    (row,) = located_rows(path, unnamed=names)
    assert row.values["question"] == "Which?"
    assert row.place == f"{path}, line 2"


def test_a_folder_is_all_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "b" / "x.jsonl", ROWS[2:])
    write(tmp_path / "a-1.jsonl", ROWS[1:2])
    write(tmp_path / "a-0.jsonl", ROWS[:1])
    write(tmp_path / ".cache" / "y.jsonl", ROWS)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    assert list(read_rows(tmp_path)) == ROWS


def test_what_datasets_saves_to_disk_is_read(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert list(read_rows(tmp_path / "saved")) == ROWS


@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow", "rows.jsonl", "rows.csv"])
def test_rows_are_read_as_they_are_asked_for(name, tmp_path):
    path = write(tmp_path / name, ROWS * 2000)
    rows = read_rows(path)
    assert list(islice(rows, 2)) == ROWS[:2]
    rows.close()
    assert len(list(read_rows(path))) == 6000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n\n{', r"x\.jsonl, line 3: not valid JSON"),
        ("x.jsonl", b'{"a": 1}\n[2]\n', r"x\.jsonl, line 2: a row is a JSON object, not \[2\]"),
        ("x.jsonl", b"\xe9", r"x\.jsonl cannot be read: .*utf-8"),
        ("x.json", b"[1]", r"x\.json, entry 1: a row is a JSON object, not 1"),
        ("x.json", b"{", r"x\.json is not valid JSON"),
        ("x.json", b'{"a": 1}', r"x\.json should hold a list of rows, .* it holds an object with the lists none"),
        ("x.json", b'{"a": [], "b": []}', r"it holds an object with the lists 'a', 'b'"),
        ("x.json", b"3", r"x\.json should hold a list of rows, .* it holds 3"),
        ("x.csv", b"a,b\n1,2,3\n", r"x\.csv, line 2: 3 fields, where there should be 2: 'a', 'b'"),
        ("x.csv", b'a,b\n1,"2\n3,4\n', r"x\.csv, line 3: not valid CSV: unexpected end of data"),
        ("x.csv", b"a,a\n1,2\n", r"x\.csv: two columns have one name: 'a', 'a'"),
        ("x.parquet", b"PAR1 no more", r"x\.parquet is not a Parquet file, or damaged"),
        ("x.arrow", b"ARROW1", r"x\.arrow is not an Arrow file, or damaged"),
        ("x.arrow", b"anything else at all", r"x\.arrow is not an Arrow file, or damaged"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz cannot be read: "),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-20], r"x\.jsonl\.gz cannot be read: "),
        ("x.txt", b"a", r"x\.txt' is no file of rows; those end in \.parquet, \.arrow, \.jsonl"),
        ("x.parquet.gz", b"a", r"x\.parquet\.gz' is no file of rows"),
    ],
)
def test_what_is_no_file_of_rows_is_refused_with_its_place(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        list(read_rows(tmp_path / name))


def test_a_path_that_is_not_there_says_what_is(tmp_path):
    (tmp_path / "question.jsonl").write_text("{}")
    with pytest.raises(BenchmarkError, match=r"no file or folder '.*questions\.jsonl'; there: question\.jsonl"):
        list(read_rows(tmp_path / "questions.jsonl"))
    with pytest.raises(BenchmarkError, match=r"there is no folder '.*nowhere' either"):
        list(read_rows(tmp_path / "nowhere" / "questions.jsonl"))


def test_a_folder_without_rows_or_with_two_formats_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(BenchmarkError, match=r"has no file of rows \(.*\); there: notes\.txt"):
        list(read_rows(tmp_path))
    write(tmp_path / "a.csv", ROWS)
    write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(BenchmarkError, match=r"several formats \(\.csv, \.jsonl\).*name the file"):
        list(read_rows(tmp_path))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path / "x.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ActframeError, match=r'needs pyarrow.*pip install "actframe\[parquet\]"'):
        list(read_rows(path))
