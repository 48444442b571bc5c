"""Storage backend `zstd`: safetensors' layout in a seekable zstd file, with floating tensors as byte planes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy
import zstandard
from torch import Tensor

from actframe.records.bundle import Bundle, facts_of
from actframe.storage import planes, safetensors_header, stream
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import Checked
from actframe.storage.direct import writing
from actframe.storage.positional import ByteArray
from actframe.storage.raw import raw_bytes
from actframe.storage.seekable import FRAME_BYTES, SeekableReader, SeekableWriter

__all__ = ["ZstdBackend"]

# Smaller tensors share frames, unsplit: frames of their own would cost more than planes save.
_LARGE_BYTES = 1024
_SHARED_BYTES = 16 << 10
_SAMPLE_BYTES = 2048
_WORTHWHILE = 0.95
_NO_MATCHES = 1 << 17


class ZstdBackend(StorageBackend):
    """`.safetensors.zst` files: lossless, about a third smaller than `.safetensors`, and a site is read by itself.

    `zstd -d` turns one into a `.safetensors` file that holds the same bundle.
    """

    name = "zstd"
    suffix = ".safetensors.zst"
    reads_lazily = True
    refused_dtypes = ("complex128",)

    def write(self, path: Path, bundle: Bundle) -> str:
        """Write the header's frame, then each tensor's planes in frames of their own."""
        header = stream.describe(bundle, [name for name in bundle.tensors if _is_split(bundle, name)])
        # One at a time: a bundle's tensors may be made when they are asked for, and be too many to hold at once.
        ordered = map(bundle.tensors.__getitem__, sorted(header.entries, key=lambda name: header.entries[name].start))
        compressors = _Compressors()
        with writing(path, header.data_bytes) as plain:
            file = Checked(plain)
            writer = SeekableWriter(file)
            text = memoryview(safetensors_header.encode(header))
            for start in range(0, len(text), FRAME_BYTES):
                writer.write(text[start : start + FRAME_BYTES], compressors.general)
            for piece, compressor in _frames(ordered, compressors):
                writer.write(piece.data, compressor)
            writer.finish()
        return file.checksum

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the seek table and the header; tensors are read and decompressed when they are looked up."""
        return stream.read_bundle(SeekableReader(path), names)


class _Compressors:
    """What frames are compressed with. One set for each file: compressors cannot be shared between threads."""

    def __init__(self) -> None:
        # Exponents repeat in no order: matches cost time and save nothing, and what compresses is the Huffman coding.
        # The smallest table and the longest minimum keep matches away.
        self.exponents = _compressor(strategy=zstandard.STRATEGY_FAST, hash_log=zstandard.HASHLOG_MIN, min_match=7)
        # Steps this long find nothing at all, and without matches this strategy stores its input as it is.
        self.stored = _compressor(
            strategy=zstandard.STRATEGY_FAST, hash_log=zstandard.HASHLOG_MIN, min_match=7, target_length=_NO_MATCHES
        )
        self.general = _compressor(compression_level=3)

    def best_for(self, piece: ByteArray) -> zstandard.ZstdCompressor:
        """What a piece of unknown content is compressed with: a sample tells whether that is worth the time."""
        sample = numpy.ascontiguousarray(piece[:: max(1, len(piece) // _SAMPLE_BYTES)])
        return self.exponents if len(self.exponents.compress(sample.data)) < _WORTHWHILE * len(sample) else self.stored


def _compressor(**parameters: int) -> zstandard.ZstdCompressor:
    # A window that spans the frame lets the frame do without a window of its own.
    window_log = FRAME_BYTES.bit_length() - 1
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=window_log, write_content_size=1, write_checksum=1, **parameters
        )
    )


def _frames(
    tensors: Iterable[Tensor], compressors: _Compressors
) -> Iterator[tuple[ByteArray, zstandard.ZstdCompressor]]:
    """The tensors' bytes as the content of successive frames, each with what to compress it with."""
    shared: list[ByteArray] = []
    for tensor in tensors:
        if _is_large(tensor):
            yield from _joined(shared, compressors)
            for index, pieces in enumerate(planes.split(tensor, FRAME_BYTES)):
                holds_exponents = index == 0 and tensor.is_floating_point()
                for piece in pieces:
                    yield piece, compressors.exponents if holds_exponents else compressors.best_for(piece)
        else:
            shared.append(raw_bytes(tensor))
            if sum(map(len, shared)) >= _SHARED_BYTES:
                yield from _joined(shared, compressors)
    yield from _joined(shared, compressors)


def _joined(shared: list[ByteArray], compressors: _Compressors) -> Iterator[tuple[ByteArray, zstandard.ZstdCompressor]]:
    content = numpy.concatenate(shared) if shared else numpy.empty(0, numpy.uint8)
    shared.clear()
    if len(content):
        yield content, compressors.general


def _is_large(tensor: Tensor) -> bool:
    return tensor.nbytes >= _LARGE_BYTES


def _is_split(bundle: Bundle, name: str) -> bool:
    dtype, shape = facts_of(bundle.tensors, name)
    return planes.plane_count(dtype) > 1 and math.prod(shape) * dtype.itemsize >= _LARGE_BYTES
