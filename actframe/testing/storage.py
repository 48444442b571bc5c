"""StorageBackendTests: what every storage backend must do, for the tests of yours.

from actframe.testing import StorageBackendTests

class TestNpzBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return NpzBackend()
"""

from __future__ import annotations

import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from actframe.errors import ActframeError, FormatError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import file_checksum
from actframe.storage.files import load_activations, save_activations
from actframe.storage.store import ActivationStore
from actframe.testing.bundles import METADATA, assert_same, random_tensor
from actframe.testing.installed import assert_usable, installed
from actframe.testing.records import assert_same_record, random_record
from actframe.testing.round_trips import RoundTrips

__all__ = ["StorageBackendTests"]

_LARGE = (512, 1024)
_LONG_RUN = 16_384

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="what a process opens and reads is counted in /proc")


class StorageBackendTests(RoundTrips):
    """Subclass this in a test file, with a fixture `backend` that returns yours; pytest runs the rest.

    What a format cannot do is declared by the backend: `refused_dtypes`, and `reads_lazily` where it can.
    """

    @pytest.fixture
    def backend(self) -> StorageBackend:
        """The backend under test."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `backend` that returns the backend under test"
        )

    @pytest.fixture
    def path(self, tmp_path: Path, backend: StorageBackend) -> Path:
        """Where a test writes its file."""
        return tmp_path / f"bundle{backend.suffix}"

    def test_it_is_found_by_its_name_and_suffix_and_made_without_arguments(self, backend: StorageBackend) -> None:
        kind = type(backend)
        assert_usable(kind)
        ends = f"{kind.__name__}.suffix is {kind.suffix!r}: it is how file names end, with the dot"
        assert re.fullmatch(r"\.[^/\s]+", kind.suffix), ends
        assert isinstance(kind(), kind), "actframe makes a backend without arguments"

    def test_what_is_read_owns_its_memory(self, backend: StorageBackend, path: Path) -> None:
        written = {"layer_0": random_tensor(torch.bfloat16, 30, 64), "layer_1": random_tensor(torch.bfloat16, 30, 64)}
        backend.write(path, Bundle(written))
        found = dict(backend.read(path).tensors)
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.write(bytes(size))
        for name, tensor in found.items():
            assert tensor.device.type == "cpu", f"{name!r} was read to {tensor.device}"
            assert tensor.is_contiguous(), f"{name!r} is not contiguous"
            held = tensor.untyped_storage().nbytes()
            assert held == tensor.nbytes, f"{name!r} has {tensor.nbytes} bytes and holds on to {held}; clone it"
            assert_same(tensor, written[name], f"{name!r}, after its file was overwritten,")
            tensor.zero_()

    @needs_proc
    def test_one_tensor_is_read_without_the_rest(self, backend: StorageBackend, path: Path) -> None:
        _skip_unless_lazy(backend)
        written = {f"layer_{i}": random_tensor(torch.bfloat16, *_LARGE, seed=i) for i in range(6)}
        backend.write(path, Bundle(written, METADATA))
        _ = backend.read(path).tensors["layer_5"]  # what is imported at the first reading does not count
        size, before = path.stat().st_size, _bytes_read()
        found = backend.read(path).tensors
        opened = _bytes_read() - before
        assert isinstance(found, LazyTensors), f"it declares reads_lazily, and read() gave {type(found).__name__}"
        assert opened < size / 4, (
            f"opening a file of {size} bytes read {opened} of them, before any tensor was asked for"
        )
        assert_same(found["layer_2"], written["layer_2"], "'layer_2'")
        took = _bytes_read() - before - opened
        assert took < size / 3, f"looking up one of six tensors in a file of {size} bytes read {took} of them"

    def test_damage_to_one_tensor_does_not_touch_another(self, backend: StorageBackend, path: Path) -> None:
        _skip_unless_lazy(backend)
        wanted, lost, other = (random_tensor(torch.uint8, *_LARGE, seed=seed) for seed in range(3))
        twin = path.with_name(f"twin{backend.suffix}")
        backend.write(path, Bundle({"layer_0": wanted, "layer_1": lost}))
        backend.write(twin, Bundle({"layer_0": wanted, "layer_1": other}))
        run = _longest_difference(path.read_bytes(), twin.read_bytes())
        if run is None:
            pytest.skip("nothing in two files tells where one tensor lies")
        with open(path, "r+b") as file:
            file.seek(run.start)
            file.write(bytes(len(run)))
        try:
            found = backend.read(path, ["layer_0"]).tensors["layer_0"]
        except ActframeError as error:
            pytest.fail(f"it declares reads_lazily, and refuses one tensor where the bytes of another changed: {error}")
        assert_same(found, wanted, "'layer_0', beside a tensor that is damaged,")

    def test_threads_may_read_one_bundle(self, backend: StorageBackend, path: Path) -> None:
        written = {f"layer_{i}": random_tensor(torch.bfloat16, 64, 64, seed=i) for i in range(8)}
        backend.write(path, Bundle(written))
        found = backend.read(path).tensors
        names = list(written) * 20
        with ThreadPoolExecutor(4) as pool:
            for name, tensor in zip(names, pool.map(lambda name: found[name], names), strict=True):
                assert_same(tensor, written[name], f"{name!r}, read by four threads at once,")

    def test_threads_may_open_one_file(self, backend: StorageBackend, path: Path) -> None:
        written = {f"layer_{i}": random_tensor(torch.bfloat16, 64, 64, seed=i) for i in range(8)}
        backend.write(path, Bundle(written, {"prompt": "hello"}))

        def read(name: str) -> Bundle:
            bundle = backend.read(path, [name])
            return Bundle(dict(bundle.tensors), bundle.metadata)

        names = list(written) * 10
        with ThreadPoolExecutor(4) as pool:
            for name, found in zip(names, pool.map(read, names), strict=True):
                assert found.metadata == {"prompt": "hello"}, "metadata changed while four threads read one file"
                assert_same(found.tensors[name], written[name], f"{name!r}, from a file that four threads opened,")

    @pytest.mark.parametrize("rows", [1, 40_000])
    def test_a_checksum_that_is_told_is_that_of_the_file(self, backend: StorageBackend, path: Path, rows: int) -> None:
        told = backend.write(path, Bundle({"layer_0": random_tensor(torch.bfloat16, rows, 500)}, METADATA))
        assert told is None or told == file_checksum(path), (
            f"write() returned {told!r}, which is not the checksum of the file; return None where it is not known"
        )

    @needs_proc
    def test_no_file_stays_open(self, backend: StorageBackend, path: Path) -> None:
        backend.write(path, Bundle({"layer_0": random_tensor(torch.float32, 4)}))
        before = len(list(Path("/proc/self/fd").iterdir()))
        kept = [backend.read(path) for _ in range(5)]
        assert all(len(dict(bundle.tensors)) == 1 for bundle in kept)
        opened = len(list(Path("/proc/self/fd").iterdir())) - before
        assert opened == 0, f"{opened} files are still open after five bundles were read"

    def test_a_file_cut_short_is_refused_wherever_it_ends(self, backend: StorageBackend, path: Path) -> None:
        backend.write(path, Bundle({"layer_0": random_tensor(torch.bfloat16, 40, 32)}, METADATA))
        whole = path.read_bytes()
        lengths = {*range(1, min(200, len(whole))), *random.Random(0).sample(range(1, len(whole)), 100), len(whole) - 1}
        for length in sorted(lengths):
            path.write_bytes(whole[:length])
            _assert_refused(backend, path, f"a file of {len(whole)} bytes that ends after {length}")

    def test_a_file_of_something_else_is_refused(self, backend: StorageBackend, path: Path) -> None:
        noise = random.Random(0).randbytes(5000)
        for content in (b"\n", b"{}", b"PK\x03\x04" + bytes(40), b"hello, world\n" * 20, noise):
            path.write_bytes(content)
            _assert_refused(backend, path, f"a file of {content[:12]!r}...")

    def test_the_error_for_a_damaged_file_names_it(self, backend: StorageBackend, path: Path) -> None:
        with installed(type(backend)):
            save_activations(random_record(0), path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            with pytest.raises(FormatError) as raised:
                load_activations(path)
        assert str(path) in str(raised.value), f"the error does not say which file: {raised.value}"

    def test_a_store_of_many_shards_gives_its_records_back(self, backend: StorageBackend, tmp_path: Path) -> None:
        records = [random_record(number, 3 + number % 4) for number in range(24)]
        with installed(type(backend)):
            with ActivationStore(tmp_path / "store", backend.name, shard_bytes=4_000) as store:
                for record in records:
                    store.append(record)
            shards = list((tmp_path / "store" / "shards").iterdir())
            assert len(shards) > 2, f"24 records and a limit of 4,000 bytes for each shard made {len(shards)} shards"
            opened = ActivationStore(tmp_path / "store", create=False)
            assert len(opened) == len(records), f"{len(records)} records were appended and {len(opened)} are there"
            for found, record in zip(opened, records, strict=True):
                assert_same_record(found, record)
            stacked = opened.where(subject="even").stack("layer_1", "last")
            assert stacked.shape[0] == 12
            report = opened.verify()
        assert report.ok, str(report)


def _skip_unless_lazy(backend: StorageBackend) -> None:
    if not backend.reads_lazily:
        pytest.skip("the backend does not declare reads_lazily")


def _assert_refused(backend: StorageBackend, path: Path, what: str) -> None:
    """Reading everything raises an error that is told on purpose, here or when a tensor is looked up."""
    try:
        dict(backend.read(path).tensors)
    except FormatError:
        return
    except Exception as error:
        pytest.fail(f"{what} raised {type(error).__name__} ({error}); raise a FormatError, which says what is wrong")
    pytest.fail(f"{what} was read as if nothing were wrong with it; raise a FormatError")


def _bytes_read() -> int:
    """How many bytes this process has read so far, from wherever the system had them."""
    text = Path("/proc/self/io").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("rchar")).split()[1])


def _longest_difference(one: bytes, other: bytes) -> range | None:
    """The longest stretch in which two files of one length differ; None where there is none that is long enough."""
    if len(one) != len(other):
        return None
    pair = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in (one, other)]
    places = torch.nonzero(pair[0] != pair[1]).flatten()
    if not len(places):
        return None
    # Bytes that happen to be equal do not end a stretch.
    stretches = torch.tensor_split(places, torch.nonzero(places.diff() > 16).flatten() + 1)
    longest = max(stretches, key=len)
    return range(int(longest[0]), int(longest[-1]) + 1) if len(longest) > _LONG_RUN else None
