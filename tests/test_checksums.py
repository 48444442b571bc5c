"""Checksums of files."""

import errno

import pytest
import xxhash

from actframe.errors import StorageError
from actframe.storage.checksums import file_checksum
from actframe.storage.direct import BLOCK_BYTES, LARGE_BYTES


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, LARGE_BYTES, LARGE_BYTES + 4096 + 17]
)
def test_the_checksum_is_that_of_the_whole_file(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert file_checksum(tmp_path / "file") == "xxh3_128:" + xxhash.xxh3_128_hexdigest(content[:size])


def test_the_checksum_of_a_file_stays_the_same_for_ever(tmp_path):
    (tmp_path / "file").write_bytes(b"actframe")
    assert file_checksum(tmp_path / "file") == "xxh3_128:b61a8963f44ecdfc6f628e62e5b4b621"


@pytest.mark.parametrize("bit", [0, 7, 8 * BLOCK_BYTES, 8 * BLOCK_BYTES + 4000])
def test_one_flipped_bit_changes_it(tmp_path, bit):
    path = tmp_path / "file"
    content = bytearray(BLOCK_BYTES + 1000)
    path.write_bytes(content)
    before = file_checksum(path)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert file_checksum(path) != before


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=f"cannot read {tmp_path / 'file'}: No such file") as caught:
        file_checksum(tmp_path / "file")
    assert caught.value.errno == errno.ENOENT
