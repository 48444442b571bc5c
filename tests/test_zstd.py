"""Storage backend `zstd`: planes, seekable files, and what is refused."""

import io
import os
import shutil
import struct
import subprocess
import zlib

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from actframe.errors import ActframeError, FormatError, StorageError, UnsafeFileError
from actframe.records.bundle import Bundle
from actframe.storage import planes, seekable
from actframe.storage.positional import PositionalFile
from actframe.storage.safetensors_ import SafetensorsBackend
from actframe.storage.seekable import SeekableReader, SeekableWriter
from actframe.storage.zstd_ import ZstdBackend
from actframe.testing.storage import DTYPES, StorageBackendTests, assert_same, assert_survives, random_tensor

SPLIT = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
FOOTER = struct.Struct("<IBI")


class TestZstdBackend(StorageBackendTests):
    backend = ZstdBackend
    refused_dtypes = frozenset([torch.complex128])


def gaussian(*shape, seed=0):
    """Numbers distributed as activations are: a scale for each channel."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randn(shape[-1], generator=generator).exp()
    return (torch.randn(shape, generator=generator) * scales).bfloat16()


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=4),
    dtypes=st.lists(st.sampled_from([dtype for dtype in DTYPES if dtype != torch.complex128]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_any_shapes_and_dtypes_survive_together(tmp_path_factory, shapes, dtypes, seed):
    tensors = {
        f"{index}": random_tensor(dtype, *shape, seed=seed)
        for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    path = tmp_path_factory.mktemp("property") / "bundle.safetensors.zst"
    assert_survives(ZstdBackend(), path, Bundle(tensors, {"seed": seed}))


@pytest.mark.parametrize("dtype", SPLIT, ids=str)
def test_the_first_plane_holds_the_exponents_and_the_last_ends_in_the_sign(dtype):
    values = torch.tensor([1.0, -1.0, 2.0, -0.0], dtype=dtype)
    parts = [next(pieces) for pieces in planes.split(values, 1 << 20)]
    assert len(parts) == dtype.itemsize
    assert parts[0][0] == parts[0][1] != parts[0][2]
    assert [part & 1 for part in parts[-1]] == [0, 1, 0, 1]
    assert not any(part[3] for part in parts[:-1])
    assert_same(planes.join(parts, dtype, values.shape), values)


def test_planes_of_bfloat16_are_the_bits_of_the_document():
    value = torch.tensor([0b1_01111110_1010011 - (1 << 16)], dtype=torch.int16).view(torch.bfloat16)
    assert [int(next(pieces)[0]) for pieces in planes.split(value, 1 << 20)] == [0b01111110, 0b1010011_1]


@pytest.mark.parametrize("dtype", SPLIT, ids=str)
def test_tensors_larger_than_a_frame_survive(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("actframe.storage.zstd_.FRAME_BYTES", 1024)
    tensors = {"layer_0": random_tensor(dtype, 333, 11), "layer_1": random_tensor(dtype, 4096)}
    assert_survives(ZstdBackend(), tmp_path / "bundle.safetensors.zst", Bundle(tensors))


def test_activations_of_a_real_model_shrink_as_promised(tmp_path, smollm2):
    prompt = "Photosynthesis is how plants turn light, water and carbon dioxide into sugar and oxygen. " * 8
    inputs = smollm2.tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        states = smollm2.model(**inputs, output_hidden_states=True).hidden_states
    tensors = {f"layer_{index}": state[0].clone() for index, state in enumerate(states[:-1])}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    path = tmp_path / "real.safetensors.zst"
    assert_survives(ZstdBackend(), path, Bundle(tensors))
    assert len(save(tensors)) / path.stat().st_size >= 1.44


def test_float32_that_was_bfloat16_shrinks_by_more_than_half(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensor = gaussian(256, 256).float()
    assert_survives(ZstdBackend(), path, Bundle({"layer_0": tensor}))
    assert path.stat().st_size < tensor.nbytes / 2.5


def test_small_tensors_cost_little_more_than_their_bytes(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensors = {f"layer_{index}": gaussian(1, 48, seed=index) for index in range(200)}
    assert_survives(ZstdBackend(), path, Bundle(tensors))
    plain = tmp_path / "bundle.safetensors"
    SafetensorsBackend().write(plain, Bundle(tensors))
    assert path.stat().st_size < plain.stat().st_size / 1.3


def test_reading_one_of_31_sites_reads_less_than_a_twentieth_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "bundle.safetensors.zst"
    metadata = {"prompt": "x" * 300, "response": "y" * 600, "input_ids": list(range(96))}
    tensors = {f"layer_{index}": gaussian(96, 576, seed=index) for index in range(31)}
    ZstdBackend().write(path, Bundle(tensors, metadata))
    counts = []
    read_into = PositionalFile.read_into
    monkeypatch.setattr(
        PositionalFile,
        "read_into",
        lambda self, start, buffer: counts.append(len(buffer)) or read_into(self, start, buffer),
    )
    assert_same(ZstdBackend().read(path).tensors["layer_17"], tensors["layer_17"])
    assert sum(counts) <= path.stat().st_size / 20


def bundle_of_everything():
    return Bundle(
        {"layer_0": gaussian(32, 64), "layer_1": gaussian(32, 64).float(), "mask": torch.ones(9, dtype=torch.bool)},
        {"prompt": "What is the capital of France?"},
    )


def assert_same_bundle(found, expected):
    assert found.metadata == expected.metadata
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_same(found.tensors[name], tensor)


def test_streaming_zstd_across_frames_gives_a_safetensors_file_of_the_same_bundle(tmp_path):
    path, plain = tmp_path / "bundle.safetensors.zst", tmp_path / "bundle.safetensors"
    ZstdBackend().write(path, bundle_of_everything())
    with open(path, "rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        plain.write_bytes(stream.read())
    assert_same_bundle(SafetensorsBackend().read(plain), bundle_of_everything())
    library = load_file(plain)
    assert (library["layer_0"].dtype, library["layer_0"].shape) == (torch.uint8, (2, 32, 64))


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd program")
def test_the_zstd_program_gives_a_safetensors_file_of_the_same_bundle(tmp_path):
    path, plain = tmp_path / "bundle.safetensors.zst", tmp_path / "bundle.safetensors"
    ZstdBackend().write(path, bundle_of_everything())
    subprocess.run(["zstd", "-q", "--test", path], check=True)
    subprocess.run(["zstd", "-q", "-d", path], check=True)
    assert_same_bundle(SafetensorsBackend().read(plain), bundle_of_everything())


def test_every_flipped_bit_is_an_error(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    ZstdBackend().write(path, Bundle({"a": gaussian(8, 64), "b": torch.arange(5)}, {"prompt": "hello, hello, hello"}))
    whole = path.read_bytes()
    unnoticed = []
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            byte = whole[bit // 8]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            try:
                dict(ZstdBackend().read(path).tensors)
                unnoticed.append(bit)
            except ActframeError:
                os.pwrite(file.fileno(), bytes([byte]), bit // 8)
    assert unnoticed == []
    assert len(ZstdBackend().read(path).tensors["a"]) == 8


def test_damage_to_one_site_leaves_the_others_readable(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensors = {f"layer_{index}": gaussian(64, 64, seed=index) for index in range(3)}
    ZstdBackend().write(path, Bundle(tensors))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = ZstdBackend().read(path).tensors
    assert_same(found["layer_0"], tensors["layer_0"])
    assert_same(found["layer_2"], tensors["layer_2"])
    with pytest.raises(FormatError, match="frame 4 is damaged"):
        found["layer_1"]


def test_constant_tensors_expand_no_further_than_a_reader_believes(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    tensor = torch.zeros(48 << 20, dtype=torch.bfloat16)
    ZstdBackend().write(path, Bundle({"layer_0": tensor}))
    assert tensor.nbytes / 1000 <= path.stat().st_size < tensor.nbytes / 900
    assert_same(ZstdBackend().read(path).tensors["layer_0"], tensor)


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


def frame_of(content, **options):
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(content)


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


def test_a_plain_zstd_file_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "plain.safetensors.zst"
    path.write_bytes(frame_of(save({"layer_0": torch.zeros(100)})))
    with pytest.raises(FormatError, match="does not end in a seek table.*`zstd -d`"):
        ZstdBackend().read(path)


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


def test_a_dtype_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "bundle.safetensors.zst"
    with pytest.raises(StorageError, match="'layer_0' is complex128"):
        ZstdBackend().write(path, Bundle({"layer_0": torch.ones(1, dtype=torch.complex128)}))
    assert not path.exists()


def test_what_is_unsafe_is_told_from_what_is_damaged(tmp_path):
    path = tmp_path / "bomb.zst"
    path.write_bytes(seekable_file([(HELLO, seekable.FRAME_BYTES)] * 70))
    with pytest.raises(UnsafeFileError):
        SeekableReader(path)
