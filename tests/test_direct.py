"""Large files, past the system's memory."""

import errno
import random
from io import FileIO

import pytest

from actframe.storage.direct import BLOCK_BYTES, LARGE_BYTES, DirectWriter, blocks, writing

SIZES = [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 4096 + 17]


def content_of(size):
    return random.Random(size).randbytes(size)


def pieces_of(content):
    """The content in pieces of odd lengths, from none to more than a block."""
    lengths, start = random.Random(0), 0
    while start < len(content):
        stop = start + lengths.choice((0, 1, 13, 4096, 100_001, BLOCK_BYTES + 5))
        yield memoryview(content)[start:stop]
        start = stop


@pytest.mark.parametrize("declared", [0, LARGE_BYTES])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_in_pieces_is_the_file(tmp_path, size, declared):
    content = content_of(size)
    with writing(tmp_path / "file", declared) as file:
        for piece in pieces_of(content):
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == content


def test_a_file_that_was_there_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 * BLOCK_BYTES))
    with writing(tmp_path / "file", LARGE_BYTES) as file:
        file.write(b"short")
    assert (tmp_path / "file").read_bytes() == b"short"


class Stubborn(FileIO):
    """A file system that takes the flag and then refuses, or writes and reads less than it was given, as they may."""

    def __init__(self, *arguments, refuses=False, at_most=None):
        super().__init__(*arguments)
        self.refuses, self.at_most = refuses, at_most

    def write(self, content):
        if self.refuses:
            self.refuses = False
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().write(content[: self.at_most])

    def readinto(self, buffer):
        if self.refuses:
            self.refuses = False
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().readinto(buffer[: self.at_most])


@pytest.mark.parametrize("file_system", [{"refuses": True}, {"at_most": 8192}, {"at_most": 8193}])
def test_file_systems_that_cannot_do_it_get_the_plain_way(tmp_path, file_system):
    content = content_of(2 * BLOCK_BYTES + 777)
    with Stubborn(tmp_path / "file", "w", **file_system) as file:
        writer = DirectWriter(file)
        for piece in pieces_of(content):
            writer.write(piece)
        writer.finish()
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("file_system", [{"refuses": True}, {"at_most": 8192}, {"at_most": 8193}])
def test_large_files_are_read_whatever_the_file_system_can(tmp_path, monkeypatch, file_system):
    content = content_of(LARGE_BYTES + 4096 + 3)
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr("actframe.storage.direct.FileIO", lambda path: Stubborn(path, **file_system))
    assert b"".join(map(bytes, blocks(tmp_path / "file"))) == content


def test_other_errors_are_raised(tmp_path):
    file = FileIO(tmp_path / "file", "w")
    writer = DirectWriter(file)
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        writer.write(bytes(BLOCK_BYTES))
