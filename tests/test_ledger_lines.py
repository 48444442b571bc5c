"""The lines of a ledger."""

import json
import math
import pickle

import pytest

from actframe.errors import FormatError, StorageError
from actframe.storage.ledger_lines import MISSING, Projection, decode_line, encode_line, stored_line

STORED = {"shard": "w-000001.safetensors", "index": 3, "records": 7, "bytes": 99, "checksum": "xxh3_128:0f"}

METADATA = {
    "prompt": 'What is the capital of France? 東京 🙂 \\ " \n \r \u2028 \x00',
    "response": None,
    "input_ids": [1, 2, 2**40, -1, 2**63, 2**70, -(2**70)],
    "score": 0.1,
    "tiny": 5e-324,
    "correct": True,
    "nested": {"a": [{"b": []}, {}], "": 1e300},
    'a "key" \\ of \n any kind': 1,
}


def test_a_line_gives_back_what_was_encoded():
    line = encode_line(METADATA)
    assert line.count(b"\n") == 1
    assert decode_line(line) == METADATA == json.loads(line)
    assert list(decode_line(line)) == list(METADATA)


def test_a_stored_line_says_the_same_and_where_the_tensors_are():
    line = stored_line(encode_line(METADATA), dict(reversed(STORED.items())))
    assert line.count(b"\n") == line.endswith(b"}}\n") == 1
    assert decode_line(line) == {**METADATA, "stored": STORED} == json.loads(line)
    assert list(decode_line(line)["stored"]) == list(STORED)
    assert stored_line(encode_line(METADATA).rstrip(b"\n"), STORED) == line


def test_a_record_that_says_nothing_has_a_line_too():
    assert decode_line(stored_line(encode_line({}), STORED)) == {"stored": STORED}


def test_numbers_that_are_not_finite_become_null():
    values = {"loss": math.nan, "perplexity": math.inf, "deep": [{"x": -math.inf}]}
    assert decode_line(encode_line(values)) == {"loss": None, "perplexity": None, "deep": [{"x": None}]}


def test_halves_of_surrogate_pairs_become_replacement_characters_and_whole_pairs_the_character():
    values = {"a\ud83d": ["x\udc00y", {"b": "\ud83d\ude42"}], "n": 1}
    assert decode_line(encode_line(values)) == {"a\ufffd": ["x\ufffdy", {"b": "🙂"}], "n": 1}


def test_the_key_of_the_ledger_itself_is_refused():
    with pytest.raises(StorageError, match="cannot have the key 'stored'.*rename it"):
        encode_line({"stored": 1})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a":1', "not JSON"),
        (b'{"a":1}{"a":2}', "not JSON: Extra data"),
        (b'{"a":"\xff"}', "not UTF-8: invalid start byte at byte 6"),
        (b"[1]", "not a JSON object"),
        (b"", "not JSON"),
        (b"\x00\x00", "not JSON"),
        (b"[" * 100_000, "not JSON: .*recursion"),
    ],
)
def test_a_damaged_line_says_in_what_way(line, why):
    with pytest.raises(FormatError, match=why):
        decode_line(line)


def test_lines_that_only_python_reads_are_read():
    assert math.isnan(decode_line(b'{"a":NaN}')["a"])
    assert decode_line(b'{"a":"\\ud83d"}') == {"a": "\ud83d"}


def test_a_projection_gives_columns_and_tells_missing_from_null():
    text = b"".join(map(encode_line, [{"a": 1, "b": "x"}, {"b": None}, {"a": [1], "c": 2}]))
    assert Projection(["b", "a"]).columns(text, 3) == [["x", None, MISSING], [1, MISSING, [1]]]
    assert Projection([]).columns(text, 3) == []
    assert Projection(["a"]).columns(b"", 0) == [[]]


@pytest.mark.parametrize("key", ['a "key" \\ of \n any kind', "", "é", "class", "value_0", "\ud83d"])
def test_a_projection_reads_keys_of_any_kind(key):
    (written,) = decode_line(encode_line({key: 1}))
    expected = MISSING if key == "\ud83d" else 1
    assert Projection([key]).columns(encode_line({"x": 0}) + encode_line({key: 1}), 2) == [[MISSING, expected]]
    assert Projection([written]).columns(encode_line({key: 1}), 1) == [[1]]


def test_a_projection_reads_lines_that_only_python_reads():
    assert Projection(["a"]).columns(b'{"a":1}\n{"b":NaN,"a":2}\n', 2) == [[1, 2]]


def test_missing_is_false_has_a_name_and_stays_itself():
    assert not MISSING
    assert repr(MISSING) == "MISSING"
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING
