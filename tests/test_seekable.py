"""Seekable zstd files made by hand: what is read, and what is refused."""

import io
import struct
import zlib

import pytest
import zstandard

from actframe.errors import FormatError, UnsafeFileError
from actframe.storage import seekable
from actframe.storage.seekable import SeekableReader, SeekableWriter

FOOTER = struct.Struct("<IBI")


def frame_of(content, **options):
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(content)


def seekable_file(frames, *, crcs=None, entries=None, flags=0x80, count=None, tail=b""):
    """A seekable file of hand-made parts: `frames` are pairs of a frame and the size it is said to expand to."""
    data = b"".join(frame for frame, _ in frames)
    if crcs is None:
        # Frames of hand-made parts that are 13 bytes longer than their content store it as it is.
        stored = [len(frame) == size + 13 for frame, size in frames]
        values = [0 if is_stored else zlib.crc32(frame) for is_stored, (frame, _) in zip(stored, frames, strict=True)]
        crcs = struct.pack(f"<{len(values)}I", *values)
    crc_frame = struct.pack("<II", 0x184D2A5D, len(crcs)) + crcs
    if entries is None:
        entries = [(len(frame), size, int.from_bytes(frame[-4:], "little")) for frame, size in frames]
        entries += [(len(crc_frame), 0, 0x51D8E999)]
    table = b"".join(struct.pack("<III", *entry) for entry in entries)
    table += FOOTER.pack(len(entries) if count is None else count, flags, 0x8F92EAB1)
    return data + crc_frame + struct.pack("<II", 0x184D2A5E, len(table)) + table + tail


def test_a_file_of_hand_made_parts_is_read(tmp_path):
    path = tmp_path / "made.zst"
    path.write_bytes(seekable_file([(frame_of(b"hello, "), 7), (frame_of(b"world"), 5)]))
    reader = SeekableReader(path)
    assert reader.size == 12
    assert reader.read(3, 9).tobytes() == b"lo, wo"
    assert [part.tobytes() for part in reader.read_parts(0, 12, 3)] == [b"hell", b"o, w", b"orld"]
    assert reader.read(12, 12).tobytes() == b""
    with pytest.raises(FormatError, match="bytes 3 to 13 of its content"):
        reader.read(3, 13)


HELLO = frame_of(b"hello")
MIB = 1 << 20
LYING = {
    "more frames than the file holds": (seekable_file([(HELLO, 5)], count=1 << 30), "declares 1073741824 frames"),
    "no frames": (seekable_file([], entries=[]), "do not add up|not that of the CRCs"),
    "reserved flags": (seekable_file([(HELLO, 5)], flags=0xC0), "flags 0xc0"),
    "no checksums": (seekable_file([(HELLO, 5)], flags=0), "flags 0x0"),
    "bytes after the table": (seekable_file([(HELLO, 5)], tail=b"x"), "does not end in a seek table"),
    "frames larger than the file": (seekable_file([(HELLO, 5)], entries=[(1 << 31, 5, 0), (8, 0, 0)]), "do not add up"),
    "a frame that expands to nothing": (seekable_file([(HELLO, 0)]), "empty, or expands beyond"),
    "a frame beyond the limit": (seekable_file([(HELLO, MIB + 1)]), "empty, or expands beyond 1048576"),
    "more content than is believed": (seekable_file([(HELLO, MIB)] * 70), "no more than 1000 times as much"),
    "another size than the frame's": (seekable_file([(HELLO, 6)]), "declares 5 bytes, the seek table 6"),
    "a frame without its size": (
        seekable_file([(frame_of(b"hello", write_content_size=False), 5)]),
        "declares -1 bytes, the seek table 5",
    ),
    "a frame with a window": (
        seekable_file(
            [
                (
                    zstandard.ZstdCompressor(
                        compression_params=zstandard.ZstdCompressionParameters.from_level(
                            1, window_log=10, write_checksum=1, write_content_size=1
                        )
                    ).compress(bytes(5000)),
                    5000,
                )
            ]
        ),
        "declares 5000 bytes",
    ),
    "a frame of garbage": (seekable_file([(b"garbage, garbage", 5)]), "frame 0"),
    "a CRC too few": (seekable_file([(HELLO, 5)], crcs=b""), "frame of CRCs is damaged"),
    "bytes after the CRCs": (seekable_file([(HELLO, 5)], crcs=bytes(4) + b"x"), "frame of CRCs is damaged"),
    "a wrong CRC": (seekable_file([(frame_of(b"a" * 99), 99)], crcs=b"abcd"), "do not match their CRC"),
    "two frames where one is listed": (seekable_file([(frame_of(b"a" * 99) + frame_of(b"a" * 99), 99)]), "frame 0"),
}


@pytest.mark.parametrize("lie", LYING)
def test_a_file_that_lies_about_its_frames_is_refused(tmp_path, monkeypatch, lie):
    content, message = LYING[lie]
    path = tmp_path / "lie.zst"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        SeekableReader(path).read(0, 5)


def test_a_frame_that_holds_more_than_it_says_takes_no_memory(tmp_path):
    # The frame says 5 bytes; its one block repeats a byte 100,000 times.
    block = (1 | 1 << 1 | 100_000 << 3).to_bytes(3, "little") + b"x"
    frame = struct.pack("<IBB", zstandard.MAGIC_NUMBER, 0x24, 5) + block + b"\0\0\0\0"
    path = tmp_path / "bomb.zst"
    path.write_bytes(seekable_file([(frame, 5)]))
    with pytest.raises(FormatError, match="frame 0 is damaged"):
        SeekableReader(path).read(0, 5)


def test_a_table_longer_than_one_read_is_read_whole(tmp_path):
    path = tmp_path / "long.zst"
    with open(path, "wb") as file:
        writer = SeekableWriter(file)
        for index in range(1000):
            writer.write(memoryview(index.to_bytes(4, "little")), zstandard.ZstdCompressor(write_checksum=True))
        writer.finish()
    reader = SeekableReader(path)
    assert reader.read(4 * 998, 4 * 1000).tobytes() == (998).to_bytes(4, "little") + (999).to_bytes(4, "little")


def test_the_file_is_left_open_for_the_caller_to_close():
    file = io.BytesIO()
    writer = SeekableWriter(file)
    writer.finish()
    assert not file.closed
    assert file.getvalue()[-4:] == (0x8F92EAB1).to_bytes(4, "little")


def test_what_is_unsafe_is_told_from_what_is_damaged(tmp_path):
    path = tmp_path / "bomb.zst"
    path.write_bytes(seekable_file([(HELLO, seekable.FRAME_BYTES)] * 70))
    with pytest.raises(UnsafeFileError):
        SeekableReader(path)
