"""Reading the ledgers of a store."""

import json
import math
import random
import secrets

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actframe.errors import FormatError, SelectionError, StorageError, UnknownNameError
from actframe.storage import ledger_columns, ledger_files
from actframe.storage.folders import LocalFolder, store_folder
from actframe.storage.ledger import MISSING, Ledger, LedgerProblems, ShardFacts
from actframe.storage.ledger_lines import encode_line, stored_line


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return store_folder(tmp_path / "store" if request.param == "local" else f"memory://{secrets.token_hex(8)}")


def shard_name(writer, number):
    return f"{writer}-{number:06d}.safetensors"


def stored(shard, index, records=3):
    return {"shard": shard, "index": index, "records": records, "bytes": 100, "checksum": "xxh3_128:0f"}


def line(shard, index, records=3, **metadata):
    return stored_line(encode_line(metadata), stored(shard, index, records))


def lines(writer, number, records=3, **metadata):
    shard = shard_name(writer, number)
    said = ({"question_id": f"{writer}{number}", "trial": index, **metadata} for index in range(records))
    return b"".join(line(shard, index, records, **one) for index, one in enumerate(said))


def add(folder, name, content):
    """Add to the end of a ledger file, which any folder can hold."""
    path = f"ledger/{name}.jsonl"
    before = folder.read(path) if f"{name}.jsonl" in folder.sizes("ledger") else b""
    folder.write(path, before + content)


def commit(folder, writer, number, records=3, **metadata):
    """What a writer does: a shard, and then its lines."""
    folder.write(f"shards/{shard_name(writer, number)}", b"shard")
    add(folder, writer, lines(writer, number, records, **metadata))


def opened(folder):
    ledger = Ledger(folder)
    ledger.refresh()
    return ledger


def keys_of(ledger):
    return [f"{entry['question_id']}.{entry['trial']}" for entry in ledger.entries()]


def test_a_folder_without_a_ledger_has_no_records(folder):
    ledger = opened(folder)
    assert len(ledger) == 0
    assert ledger.shards == ledger.keys() == list(ledger.entries()) == list(ledger.column("prompt")) == []
    assert ledger.match({"prompt": "x"}).tolist() == ledger.match_by(lambda entry: True).tolist() == []
    assert not ledger.problems
    assert str(ledger.problems) == "no problems"


def test_records_are_in_the_order_of_files_then_of_lines(folder):
    commit(folder, "b", 1)
    commit(folder, "a", 1, records=2)
    commit(folder, "a", 2, records=1)
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a2.0", "b1.0", "b1.1", "b1.2"]
    assert ledger.shards == [shard_name("a", 1), shard_name("a", 2), shard_name("b", 1)]
    assert ledger.shard_numbers.tolist() == [0, 0, 1, 2, 2, 2]
    assert ledger.indexes.tolist() == [0, 1, 0, 0, 1, 2]
    assert ledger.shard_numbers.dtype == ledger.indexes.dtype == numpy.int32
    assert ledger.facts(shard_name("b", 1)) == ShardFacts(records=3, bytes=100, checksum="xxh3_128:0f")
    with pytest.raises(KeyError):
        ledger.facts("c")
    assert repr(ledger) == f"<Ledger {folder.location!r}, 6 records>"


def test_what_other_writers_add_comes_after_and_numbers_keep_their_meaning(folder):
    commit(folder, "a", 1)
    commit(folder, "b", 1)
    ledger = opened(folder)
    before = keys_of(ledger)
    column = ledger.column("trial")
    commit(folder, "a", 2)
    commit(folder, "A", 1)
    assert len(ledger) == 6
    ledger.refresh()
    assert keys_of(ledger) == [*before, "A1.0", "A1.1", "A1.2", "a2.0", "a2.1", "a2.2"]
    assert list(ledger.column("trial")) == [0, 1, 2] * 4
    assert ledger.column("trial") is column
    assert ledger.generation == 0
    assert keys_of(opened(folder)) == ["A1.0", "A1.1", "A1.2", *keys_of(ledger)[:3], *keys_of(ledger)[9:], *before[3:]]


def test_a_shard_may_get_its_lines_in_several_appends(folder):
    folder.write(f"shards/{shard_name('a', 1)}", b"shard")
    text = lines("a", 1, records=5).splitlines(keepends=True)
    ledger = opened(folder)
    for upto in range(5):
        add(folder, "a", text[upto])
        ledger.refresh()
        assert ledger.indexes.tolist() == list(range(upto + 1))
    assert not ledger.problems


class Counting(LocalFolder):
    """A local folder that counts what is read of its ledger."""

    read_bytes = 0

    def read(self, name, start=0, stop=None):
        content = super().read(name, start, stop)
        self.read_bytes += len(content)
        return content

    def local(self, name):
        self.read_bytes += self.sizes("ledger")[name.removeprefix("ledger/")]
        return super().local(name)


def test_a_refresh_reads_what_is_new(tmp_path):
    folder = Counting(tmp_path)
    commit(folder, "a", 1, prompt="x" * 100_000)
    ledger = opened(folder)
    folder.read_bytes = 0
    ledger.refresh()
    assert folder.read_bytes == 0
    with (tmp_path / "ledger/a.jsonl").open("ab") as file:
        file.write(line(shard_name("a", 1), 0, question_id="again"))
    ledger.refresh()
    assert folder.read_bytes < 1000
    assert ledger.problems.duplicates == 1


def test_a_log_is_read_while_its_writer_has_it_open(tmp_path):
    folder = LocalFolder(tmp_path)
    folder.write(f"shards/{shard_name('a', 1)}", b"shard")
    ledger = opened(folder)
    with folder.open_log("ledger/a.jsonl") as log:
        for upto, text in enumerate(lines("a", 1, records=4).splitlines(keepends=True)):
            log.append(text)
            ledger.refresh()
            assert len(ledger) == upto + 1


def test_the_parts_of_a_remote_log_are_one_ledger():
    folder = store_folder(f"memory://{secrets.token_hex(8)}")
    for number in (1, 2, 3):
        folder.write(f"shards/{shard_name('a', number)}", b"shard")
    ledger = opened(folder)
    with folder.open_log("ledger/a.jsonl") as log:
        log.append(lines("a", 1, prompt="x" * 3_000_000))
        log.append(lines("a", 2))
        ledger.refresh()
        log.append(lines("a", 3))
    ledger.refresh()
    assert list(folder.sizes("ledger")) == ["a-0001.jsonl", "a-0002.jsonl"]
    expected = [f"a{number}.{trial}" for number in (1, 2, 3) for trial in range(3)]
    assert keys_of(ledger) == keys_of(opened(folder)) == expected
    assert ledger.column("trial") == [0, 1, 2] * 3


# What is damaged.


def test_a_torn_last_line_counts_once_it_is_finished(folder):
    commit(folder, "a", 1)
    whole = sum(folder.sizes("ledger").values())
    folder.write(f"shards/{shard_name('a', 2)}", b"shard")
    text = lines("a", 2)
    add(folder, "a", text[:-40])
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a1.2", "a2.0", "a2.1"]
    (torn,) = ledger.problems.torn
    assert torn == ("a.jsonl", whole + text.rindex(b"\n", 0, -40) + 1)
    assert str(ledger.problems) == "1 torn line"
    add(folder, "a", text[-40:-1])
    ledger.refresh()
    assert len(ledger) == 5, "a line without its newline may have more to come"
    add(folder, "a", text[-1:])
    ledger.refresh()
    assert keys_of(ledger)[5:] == ["a2.2"]
    assert not ledger.problems
    assert ledger.generation == 0


def test_a_torn_line_that_is_cut_off_leaves_the_rest_as_it_is(folder):
    commit(folder, "a", 1)
    sound = folder.read("ledger/a.jsonl")
    add(folder, "a", b'{"prompt": "What is')
    ledger = opened(folder)
    assert ledger.problems.torn == [("a.jsonl", len(sound))]
    folder.write("ledger/a.jsonl", sound)
    ledger.refresh()
    assert not ledger.problems
    assert ledger.generation == 0


SHARD = shard_name("a", 1)
DAMAGED = [
    (b'{"prompt":"cut', "it is not JSON"),
    (b'{"a":1}' + line(SHARD, 0).strip(), "it is not JSON: Extra data"),
    (b'{"prompt":"x"}', "it does not say where its record is: .*stored"),
    (b'{"stored":3}', "it does not say where its record is: Expected `object`, got `int`"),
    (b'{"stored":{"shard":"x"}}', "it does not say where its record is: .*index"),
    (line(SHARD, 0, prompt="x").replace(b'"index":0', b'"index":-1').strip(), "where its record is: .*>= 0"),
    (line(SHARD, 3).strip(), "it is of record 3 of a shard of 3"),
    (line(SHARD, 0, records=4).strip(), rf"it says that {SHARD} has .*records=4.*, where an earlier line says .*=3"),
    (line("../a.safetensors", 0).strip(), "'../a.safetensors' cannot be the name of a"),
    (line("b/a.safetensors", 0).strip(), "'b/a.safetensors' cannot be the name of a shard"),
    (line(".hidden", 0).strip(), "'.hidden' cannot be the name of a shard"),
    (line(SHARD, 0, prompt="x").replace(b'"x"', b'"\xff"').strip(), "it is not UTF-8"),
    (b"[1]", "it is not a JSON object"),
    (b"null", "it is not a JSON object"),
    (b"\x00" * 50, "it is not JSON"),
    (b"[" * 5000 + b"]" * 5000, "it is not JSON: .*recursion"),
    (b"\xef\xbb\xbf" + line(SHARD, 0).strip(), "it is not JSON"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGED)
def test_a_damaged_line_in_the_middle_is_left_out_and_named(folder, damage, why):
    text = lines("a", 1).splitlines(keepends=True)
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", text[0] + text[1] + damage + b"\n" + text[2])
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a1.2"]
    ((file, number, said),) = ledger.problems.damaged
    assert (file, number) == ("a.jsonl", 3)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(said)
    assert str(ledger.problems) == "1 damaged line"
    add(folder, "a", damage + b"\n")
    ledger.refresh()
    assert [number for _, number, _ in ledger.problems.damaged] == [3, 5]


def test_two_values_on_one_line_are_no_two_lines_even_where_their_number_is_right(folder):
    text = lines("a", 1).splitlines(keepends=True)
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", text[0].strip() + text[1] + b"\n" + text[2])
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.2"]
    assert [number for _, number, _ in ledger.problems.damaged] == [1]


def test_empty_lines_and_other_newlines_do_no_harm(folder):
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", b"\n" + lines("a", 1).replace(b"\n", b"\r\n  \n") + b"\n\n")
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a1.2"]
    assert ledger.column("trial") == [0, 1, 2]
    assert not ledger.problems


def test_a_line_that_only_python_reads_is_read(folder):
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", lines("a", 1, score=1.5).replace(b"1.5", b"NaN"))
    ledger = opened(folder)
    assert math.isnan(ledger.entry(1)["score"])
    assert len(ledger.column("score")) == 3
    assert not ledger.problems


def test_what_is_damaged_in_a_way_that_only_reading_it_whole_shows_says_where_to_look(folder):
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", lines("a", 1, score=1.5).replace(b"1.5", b"-"))
    ledger = opened(folder)
    if not ledger.problems.damaged:
        with pytest.raises(FormatError, match="a ledger of .* cannot be read: it is not JSON.*actframe verify"):
            ledger.entry(0)


def test_lines_longer_than_what_is_read_at_once_are_read(folder):
    folder.write(f"shards/{SHARD}", b"shard")
    text = lines("a", 1).splitlines(keepends=True)
    long = line(SHARD, 1, question_id="a1", trial=1, prompt="x" * (3 * ledger_files._BLOCK_BYTES))
    add(folder, "a", text[0] + long + text[2])
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a1.2"]
    assert len(ledger.entry(1)["prompt"]) == 3 * ledger_files._BLOCK_BYTES
    assert not ledger.problems


def test_lines_whose_shard_is_missing_are_left_out_and_count_when_it_comes(folder):
    commit(folder, "a", 1)
    add(folder, "a", lines("a", 2))
    commit(folder, "a", 3)
    ledger = opened(folder)
    assert keys_of(ledger) == ["a1.0", "a1.1", "a1.2", "a3.0", "a3.1", "a3.2"]
    assert ledger.shards == [shard_name("a", 1), shard_name("a", 3)]
    assert ledger.problems.missing == {shard_name("a", 2): 3}
    assert str(ledger.problems) == "3 records of 1 missing shard"
    folder.write(f"shards/{shard_name('a', 2)}", b"shard")
    ledger.refresh()
    assert keys_of(ledger)[6:] == ["a2.0", "a2.1", "a2.2"]
    assert ledger.shard_numbers.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert not ledger.problems
    assert ledger.generation == 0


def test_when_a_shard_is_gone_its_records_are_too(folder):
    commit(folder, "a", 1)
    commit(folder, "a", 2)
    ledger = opened(folder)
    ledger.column("trial")
    folder.remove(f"shards/{shard_name('a', 1)}")
    ledger.refresh()
    assert keys_of(ledger) == ["a2.0", "a2.1", "a2.2"]
    assert ledger.problems.missing == {shard_name("a", 1): 3}
    assert ledger.generation == 1
    assert ledger.column("trial") == [0, 1, 2]


def test_only_the_first_line_of_a_record_counts(folder):
    commit(folder, "a", 1)
    add(folder, "a", lines("a", 1)[: len(lines("a", 1)) * 2 // 3])
    ledger = opened(folder)
    assert (keys_of(ledger), ledger.problems.duplicates) == (["a1.0", "a1.1", "a1.2"], 2)
    add(folder, "b", lines("a", 1))
    ledger.refresh()
    assert (keys_of(ledger), ledger.problems.duplicates) == (["a1.0", "a1.1", "a1.2"], 5)
    assert str(ledger.problems) == "5 repeated lines"
    again = opened(folder)
    assert (keys_of(again), again.problems.duplicates) == (keys_of(ledger), 5)


def test_files_that_are_no_ledgers_are_left_alone(folder):
    commit(folder, "a", 1)
    folder.write("ledger/notes.txt", b"mine")
    folder.write("ledger/.a.jsonl.tmp", b"half")
    assert len(opened(folder)) == 3


@pytest.mark.parametrize("what", ["vanished", "shorter", "replaced"])
def test_when_a_file_is_not_what_it_was_everything_is_read_anew(folder, what):
    commit(folder, "a", 1)
    commit(folder, "a", 2)
    commit(folder, "b", 1)
    ledger = opened(folder)
    ledger.column("trial")
    if what == "vanished":
        folder.remove("ledger/a.jsonl")
    else:
        folder.write("ledger/a.jsonl", lines("a", 2) if what == "shorter" else lines("a", 2) + lines("a", 1) + b"\n\n")
    ledger.refresh()
    expected = {"vanished": [], "shorter": ["a2"], "replaced": ["a2", "a1"]}[what]
    assert keys_of(ledger) == [f"{name}.{trial}" for name in [*expected, "b1"] for trial in range(3)]
    assert ledger.generation == 1
    assert ledger.column("question_id") == [name for name in [*expected, "b1"] for _ in range(3)]
    assert ledger.column("trial") == [0, 1, 2] * (len(expected) + 1)
    ledger.refresh()
    assert ledger.generation == 1


def test_a_file_that_is_cut_while_it_is_looked_at_is_an_error_that_says_so(tmp_path):
    folder = LocalFolder(tmp_path)
    commit(folder, "a", 1)
    ledger = opened(folder)
    (tmp_path / "ledger/a.jsonl").write_bytes(b"")
    with pytest.raises(FormatError, match=r"ledger of .* cannot be read: the file a.jsonl is shorter.*open the store"):
        ledger.entry(2)


class Restless(LocalFolder):
    def sizes(self, below):
        return {name: size + 1 for name, size in super().sizes(below).items()}


def test_a_ledger_that_never_stays_the_same_is_given_up(tmp_path):
    commit(LocalFolder(tmp_path), "a", 1)
    with pytest.raises(StorageError, match="replaced while they are read; wait"):
        opened(Restless(tmp_path))


class Unreadable(LocalFolder):
    """A folder in which one file cannot be read."""

    broken = ""

    def local(self, name):
        if name == self.broken:
            raise StorageError(f"cannot read {name}: Input/output error")
        return super().local(name)


def test_after_an_error_everything_is_as_it_was(tmp_path):
    folder = Unreadable(tmp_path)
    commit(folder, "a", 1)
    ledger = opened(folder)
    commit(folder, "a", 2)
    commit(folder, "b", 1)
    folder.broken = "ledger/b.jsonl"
    with pytest.raises(StorageError, match="cannot read ledger/b.jsonl: Input/output error"):
        ledger.refresh()
    assert (keys_of(ledger), ledger.generation) == (["a1.0", "a1.1", "a1.2"], 0)
    folder.broken = ""
    ledger.refresh()
    assert keys_of(ledger) == [f"{name}.{trial}" for name in ("a1", "a2", "b1") for trial in range(3)]


pieces = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 3), st.integers(0, 3)).map(
            lambda at: line(shard_name("w", at[0]), at[1], question_id=at[0])
        ),
        st.sampled_from([damage + b"\n" for damage, _ in DAMAGED] + [b"\n", b" \r\n", b"\n\n"]),
        st.binary(max_size=20),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(pieces, st.data())
def test_however_a_file_grows_its_sound_lines_are_what_a_slow_reader_finds(tmp_path_factory, pieces, data):
    folder = LocalFolder(tmp_path_factory.mktemp("store"))
    for number in (1, 2):
        folder.write(f"shards/{shard_name('w', number)}", b"shard")
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    ledger = Ledger(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_files, "_BLOCK_BYTES", data.draw(st.integers(1, 600)))
        for upto in [*cuts, len(whole)]:
            folder.write("ledger/w.jsonl", whole[:upto])
            ledger.refresh()
    expected = slowly(whole)
    found = [(ledger.shards[shard], index) for shard, index in zip(ledger.shard_numbers, ledger.indexes, strict=True)]
    assert found == list(expected)
    assert list(ledger.entries()) == list(expected.values())
    assert ledger.column("question_id") == [entry.get("question_id", MISSING) for entry in expected.values()]
    assert ledger.generation == 0
    assert bool(ledger.problems.torn) == (whole[-1:] not in (b"", b"\n"))


def slowly(text):
    found = {}
    for one in text.split(b"\n")[:-1]:
        try:
            entry = json.loads(one.decode())
            at = entry.pop("stored")
            if at["shard"] not in (shard_name("w", 1), shard_name("w", 2)) or not 0 <= at["index"] < 3:
                continue
            found.setdefault((at["shard"], at["index"]), entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


# What records say.


@pytest.fixture
def ledger(folder):
    """Forty records that differ in what they say."""
    folder.write("shards/s.safetensors", b"shard")
    chance = random.Random(0)
    for number in range(40):
        said = {"question_id": f"q{number // 2}", "trial": number % 2, "correct": number % 3 == 0, "n": number}
        said |= {"subject": chance.choice(["physics", "law"])} if number % 4 else {}
        said |= {"score": None if number % 5 else number / 2, "sites": ["layer_0", number % 2], "nested": {"a": [1]}}
        add(folder, "a" if number < 25 else "b", line("s.safetensors", number, 40, **said))
    return opened(folder)


def test_an_entry_is_what_the_record_says_and_nothing_else(ledger):
    assert ledger.entry(4) == {
        "question_id": "q2",
        "trial": 0,
        "correct": False,
        "n": 4,
        "score": None,
        "sites": ["layer_0", 0],
        "nested": {"a": [1]},
    }
    assert ledger.entry(numpy.int64(39))["n"] == 39


@pytest.mark.parametrize("number", [-1, 40])
def test_a_number_that_no_record_has_is_an_index_error(ledger, number):
    with pytest.raises(IndexError, match=f"has the records 0 to 39, and no {number}"):
        ledger.entry(number)


def test_entries_come_in_the_order_of_their_numbers(ledger, monkeypatch):
    numbers = random.Random(1).choices(range(40), k=100)
    assert [entry["n"] for entry in ledger.entries(numbers)] == numbers
    assert [entry["n"] for entry in ledger.entries(numpy.array(numbers))] == numbers
    assert [entry["n"] for entry in ledger.entries(iter(numbers))] == numbers
    assert [entry["n"] for entry in ledger.entries()] == list(range(40))
    monkeypatch.setattr("actframe.storage.ledger._BATCH", 7)
    monkeypatch.setattr(ledger_files, "_GAP_BYTES", 0)
    assert [entry["n"] for entry in ledger.entries(numbers)] == numbers


def test_a_column_has_a_value_for_each_record_or_missing(ledger):
    assert ledger.column("n") == list(range(40))
    assert [number for number, value in enumerate(ledger.column("subject")) if value is MISSING] == [*range(0, 40, 4)]
    assert ledger.column("score")[:6] == [0.0, None, None, None, None, 2.5]
    assert set(ledger.column("nonsense")) == {MISSING}


def test_a_column_is_remembered_with_equal_strings_as_one(ledger):
    column = ledger.column("question_id")
    assert ledger.column("question_id") is column
    assert column[6] is column[7]


def test_a_column_of_lists_is_read_each_time(ledger, monkeypatch):
    monkeypatch.setattr(ledger_columns, "_PIECE", 7)
    column = ledger.column("sites")
    assert len(column) == 40
    assert list(column) == [["layer_0", number % 2] for number in range(40)]
    assert column[-1] == column[3] == ["layer_0", 1]
    assert column[5:9:2] == [["layer_0", 1]] * 2
    with pytest.raises(IndexError):
        column[40]


def test_columns_beyond_the_limit_are_forgotten_and_read_again(ledger, monkeypatch):
    monkeypatch.setattr(ledger_columns, "_REMEMBERED_BYTES", 2500)
    for _ in range(2):
        for key in ("n", "trial", "score", "correct"):
            assert list(ledger.column(key)) == [entry[key] for entry in ledger.entries()]
    assert list(ledger._columns._remembered) == ["score", "correct"]
    monkeypatch.setattr(ledger_columns, "_REMEMBERED_BYTES", 500)
    assert list(ledger.column("question_id")) == [f"q{number // 2}" for number in range(40)]
    assert ledger.match({"question_id": "q3", "n": 7}).tolist() == [7]
    assert ledger.match_by(lambda entry: entry["question_id"] == "q3" and entry["n"] == 7).tolist() == [7]


def test_keys_are_those_that_any_record_has(ledger):
    assert set(ledger.keys()) == {"question_id", "trial", "correct", "n", "subject", "score", "sites", "nested"}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, lambda entry: True),
        ({"correct": False}, lambda entry: entry["correct"] is False),
        ({"correct": True, "subject": "law"}, lambda entry: entry["correct"] and entry.get("subject") == "law"),
        ({"n": 7}, lambda entry: entry["n"] == 7),
        ({"n": 7.0}, lambda entry: entry["n"] == 7),
        ({"n": numpy.int64(7)}, lambda entry: entry["n"] == 7),
        ({"n": torch.tensor(7)}, lambda entry: entry["n"] == 7),
        ({"n": "7"}, lambda entry: False),
        ({"score": None}, lambda entry: entry["score"] is None),
        ({"subject": None}, lambda entry: False),
        ({"subject": MISSING}, lambda entry: "subject" not in entry),
        ({"sites": ["layer_0", 1]}, lambda entry: entry["n"] % 2 == 1),
        ({"sites": ("layer_0", 1)}, lambda entry: entry["n"] % 2 == 1),
        ({"nested": {"a": [1]}}, lambda entry: True),
        ({"nested": {"a": (2,)}}, lambda entry: False),
    ],
)
def test_records_match_what_they_say(ledger, conditions, expected):
    entries = list(ledger.entries())
    found = [number for number, entry in enumerate(entries) if expected(entry)]
    assert ledger.match(conditions).tolist() == found
    assert ledger.match(conditions).dtype == numpy.int64
    some = random.Random(2).sample(range(40), k=30)
    assert ledger.match(conditions, some).tolist() == [number for number in some if number in found]
    assert ledger.match(conditions, numpy.array(some[:1])).tolist() == [n for n in some[:1] if n in found]


def test_truth_is_one_as_in_python(ledger):
    assert ledger.match({"correct": 1}).tolist() == ledger.match({"correct": True}).tolist() != []
    assert ledger.match({"trial": False}).tolist() == ledger.match({"trial": 0}).tolist() != []


def test_a_key_that_no_record_has_is_an_error_with_the_nearest(ledger):
    message = r"no record of .* has the key 'subjct' \(did you mean 'subject'\?\); they have question_id, trial, "
    for numbers in (None, [1, 2], []):
        with pytest.raises(UnknownNameError, match=message):
            ledger.match({"correct": True, "subjct": "law"}, numbers)


def test_a_key_that_only_others_have_matches_none(ledger):
    assert ledger.match({"subject": "law"}, [0, 4, 8]).tolist() == []
    assert ledger.match({"subject": "law"}, []).tolist() == []


@pytest.mark.parametrize("value", [{"law", "physics"}, torch.ones(2), numpy.ones(2), b"law", lambda subject: True])
def test_a_value_that_no_record_can_say_is_refused(ledger, value):
    with pytest.raises(SelectionError, match=r"no record says that subject is .*function.*lambda entry: entry\['subj"):
        ledger.match({"subject": value})


def test_a_function_is_given_what_each_record_says(ledger):
    entries = list(ledger.entries())
    found = ledger.match_by(lambda entry: entry["n"] > 30 and entry.get("subject") == "law")
    assert found.tolist() == [n for n, entry in enumerate(entries) if n > 30 and entry.get("subject") == "law"]
    assert found.dtype == numpy.int64
    assert ledger.match_by(lambda entry: entry["n"] % 2, [5, 4, 3]).tolist() == [5, 3]
    assert ledger.match_by(lambda entry: dict(entry) == entries[entry["n"]]).tolist() == list(range(40))
    assert ledger.match_by(lambda entry: len(entry) == 7).tolist() == list(range(0, 40, 4))
    assert ledger.match_by(lambda entry: "subject" in entry).tolist() == [n for n in range(40) if n % 4]
    assert ledger.match_by(lambda entry: "'n': 3," in repr(entry)).tolist() == [3]


def test_a_function_that_looks_for_what_a_record_lacks_gets_a_key_error(ledger):
    with pytest.raises(KeyError, match="subject"):
        ledger.match_by(lambda entry: entry["subject"] == "law")


def test_a_function_is_asked_once_for_each_record(ledger, monkeypatch):
    monkeypatch.setattr("actframe.storage.ledger._PIECE", 5)
    asked = []
    ledger.match_by(lambda entry: asked.append(entry["n"]))
    assert asked == list(range(40))


def test_a_function_may_look_at_other_keys_of_later_records(ledger):
    found = ledger.match_by(lambda entry: entry["n"] < 35 or entry["sites"] == ["layer_0", 1])
    assert found.tolist() == [*range(35), 35, 37, 39]


def test_few_records_of_many_are_read_without_the_others(tmp_path):
    folder = Counting(tmp_path)
    folder.write(f"shards/{SHARD}", b"shard")
    add(folder, "a", b"".join(line(SHARD, n, 5000, n=n, prompt="x" * 2000) for n in range(5000)))
    ledger = opened(folder)
    reads = []
    real = ledger_files._read_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_files, "_read_at", lambda file, *at: reads.append(at) or real(file, *at))
        assert ledger.match({"n": 3000}, [0, 3000, 4999]).tolist() == [3000]
        assert ledger.match_by(lambda entry: entry["n"] == 3000, [0, 3000, 4999]).tolist() == [3000]
    assert sum(stop - start for start, stop in reads) < 20_000
    assert ledger.match({"n": 3000}).tolist() == [3000]


def test_problems_are_falsy_where_there_are_none():
    assert not LedgerProblems()
    assert LedgerProblems(duplicates=1)
    problems = LedgerProblems([("a", 1)], [("a", 1, "x"), ("a", 2, "x")], {"s": 1000, "t": 1}, 1)
    assert str(problems) == "1 torn line, 2 damaged lines, 1,001 records of 2 missing shards, 1 repeated line"
