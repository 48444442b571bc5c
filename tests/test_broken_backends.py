"""The suite of storage backends finds each way in which a backend can break its contract, and says which it is."""

import hashlib
import threading
import time
from typing import ClassVar

import pytest
import torch
from mutants import Mutant, assert_found, assert_found_by_nothing_else, checks_of

from actframe import ActframeError, Bundle, FormatError, LazyTensors, StorageError
from actframe.storage.safetensors_ import SafetensorsBackend
from actframe.testing import StorageBackendTests
from actframe.testing.bundles import RARE_DTYPES

STORE = "test_a_store_of_many_shards_gives_its_records_back"
NAMED = "test_the_error_for_a_damaged_file_names_it"


class Sound(SafetensorsBackend):
    """Keeps its contract, as it is a built-in one; the others break one promise each."""

    name = "sound"
    suffix = ".sound"

    def changed(self, path, bundle, change):
        """Write a bundle with other tensors."""
        tensors = {name: change(tensor) for name, tensor in bundle.tensors.items()}
        super().write(path, Bundle(tensors, bundle.metadata))

    def looked_up(self, path, names, change):
        """Read a bundle whose tensors come back changed."""
        found = super().read(path, names)
        tensors = LazyTensors(found.tensors, lambda name: change(found.tensors[name]))
        return Bundle(tensors, found.metadata)


class RefusesTooMuch(Sound):
    refused_dtypes = ("complex128", "complex64")


class WritesBytes(Sound):
    def write(self, path, bundle):
        self.changed(path, bundle, lambda each: each.view(torch.uint8) if each.dtype in RARE_DTYPES else each)


class NoScalars(Sound):
    def write(self, path, bundle):
        self.changed(path, bundle, lambda each: each.reshape(1) if each.ndim == 0 else each)


class FlushesSubnormals(Sound):
    def write(self, path, bundle):
        self.changed(path, bundle, lambda each: each.nan_to_num() if each.shape == (6,) else each)


class SortsMany(Sound):
    def read(self, path, names=None):
        found = super().read(path, names)
        many = len(found.tensors) > 30
        return Bundle(LazyTensors(sorted(found.tensors), found.tensors.get), found.metadata) if many else found


class ReplacesSurrogates(Sound):
    def read(self, path, names=None):
        found = super().read(path, names)
        if "lone surrogate" in found.metadata:
            found.metadata["lone surrogate"] = "?"
        return found


class NothingFromNothing(Sound):
    def write(self, path, bundle):
        if not bundle.tensors:
            raise ValueError("need at least one array")
        super().write(path, bundle)


class DropsTheNameless(Sound):
    def write(self, path, bundle):
        super().write(path, Bundle({name: each for name, each in bundle.tensors.items() if name}, bundle.metadata))


class NewFilesOnly(Sound):
    def write(self, path, bundle):
        path.open("xb").close()
        super().write(path, bundle)


class TidiesUp(Sound):
    def write(self, path, bundle):
        for tensor in bundle.tensors.values():
            if tensor.shape == (40, 64) and not tensor.is_contiguous():
                tensor.set_(tensor.contiguous())
        super().write(path, bundle)


class ForgetsStrides(Sound):
    def write(self, path, bundle):
        self.changed(
            path, bundle, lambda each: torch.zeros(each.shape) if each.numel() and 0 in each.stride() else each
        )


class ViewsEverything(Sound):
    def write(self, path, bundle):
        for tensor in bundle.tensors.values():
            if not tensor.numel() and not all(tensor.stride()):
                raise RuntimeError("cannot view a tensor with these strides")
        super().write(path, bundle)


class TakesOffGradients(Sound):
    def write(self, path, bundle):
        for tensor in bundle.tensors.values():
            if tensor.requires_grad:
                tensor.requires_grad_(False)
        super().write(path, bundle)


class ReadsAll(Sound):
    def read(self, path, names=None):
        return super().read(path)


class RowsTooFar(Sound):
    def read(self, path, names=None):
        found = super().read(path, names)
        rows = LazyTensors.of(found.tensors).rows

        def shifted(name, start, stop):
            return rows(name, start, stop).flip(0) if stop - start == 6 else rows(name, start, stop)

        return Bundle(LazyTensors(found.tensors, found.tensors.get, rows=shifted), found.metadata)


class NoDot(Sound):
    suffix = "sound"


class SharesMemory(Sound):
    def read(self, path, names=None):
        return self.looked_up(
            path, names, lambda each: torch.cat([each, each])[:30] if each.shape == (30, 64) else each
        )


class Eager(Sound):
    def read(self, path, names=None):
        found = super().read(path, names)
        tensors = dict(found.tensors)
        return Bundle(LazyTensors(tensors, tensors.__getitem__), found.metadata)


class OneSumForAll(Sound):
    def write(self, path, bundle):
        super().write(path, Bundle(bundle.tensors, {**bundle.metadata, "sum": self.sum(bundle.tensors)}))

    def read(self, path, names=None):
        found = super().read(path, names)
        expected = found.metadata.pop("sum")
        if len(found.metadata) == 0 and self.sum(super().read(path).tensors) != expected:
            raise FormatError("its sum is wrong")
        return found

    @staticmethod
    def sum(tensors):
        large = [each.numpy().tobytes() for each in tensors.values() if each.dtype == torch.uint8]
        return hashlib.sha256(b"".join(large)).hexdigest()


class OneThread(Sound):
    def read(self, path, names=None):
        opened = threading.get_ident()

        def load(each):
            if threading.get_ident() != opened:
                raise RuntimeError("objects made in a thread can only be used in that thread")
            return each

        return self.looked_up(path, names, load)


class OneReader(Sound):
    reading = False

    def read(self, path, names=None):
        if self.reading:
            raise RuntimeError("already reading")
        self.reading = True
        try:
            time.sleep(0.002)
            return super().read(path, names)
        finally:
            self.reading = False


class OtherSums(Sound):
    def write(self, path, bundle):
        super().write(path, bundle)
        return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


class StaysOpen(Sound):
    files: ClassVar[list] = []

    def read(self, path, names=None):
        self.files.append(path.open("rb"))
        return super().read(path, names)


class EmptyWhereTorn(Sound):
    def read(self, path, names=None):
        try:
            return super().read(path, names)
        except FormatError:
            if 150 < path.stat().st_size < 170:
                return Bundle({})
            raise


class OtherErrors(Sound):
    def read(self, path, names=None):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise KeyError("header")
        return super().read(path, names)


class WithoutPath(Sound):
    def read(self, path, names=None):
        try:
            return super().read(path, names)
        except FormatError:
            raise ActframeError("bad file") from None


class ReservedNames(Sound):
    def write(self, path, bundle):
        if any(name.startswith("actframe.") for name in bundle.tensors):
            raise StorageError("names that begin with 'actframe.' are reserved")
        super().write(path, bundle)


MUTANTS = [
    Mutant(RefusesTooMuch, "test_every_dtype_survives_bit_for_bit_or_is_refused", "'complex64', and write() took it"),
    Mutant(WritesBytes, "test_a_dtype_that_nobody_expects_survives_or_is_refused", "came back as torch.uint8"),
    Mutant(NoScalars, "test_every_shape_survives", "written with the shape () and came back with (1,)"),
    Mutant(FlushesSubnormals, "test_nan_payloads_negative_zero_and_subnormals_keep_their_bits", "came back changed"),
    Mutant(SortsMany, "test_tensors_of_many_dtypes_and_sizes_survive_together_in_their_order", "and came back as"),
    Mutant(ReplacesSurrogates, "test_nested_and_unicode_metadata_survive", "metadata changed"),
    Mutant(NothingFromNothing, "test_a_bundle_without_tensors_survives", "need at least one array"),
    Mutant(DropsTheNameless, "test_every_name_survives_or_is_refused", "the name '' was taken and is not there"),
    Mutant(NewFilesOnly, "test_an_empty_file_at_the_path_is_written_over", "FileExists", frozenset({NAMED})),
    Mutant(TidiesUp, "test_what_is_written_is_left_as_it_was", "write() moved 'layer_0', which belongs to its caller"),
    Mutant(ForgetsStrides, "test_a_view_is_written_as_what_it_shows", "of the expanded view"),
    Mutant(ViewsEverything, "test_an_empty_tensor_of_numpy_survives", "cannot view a tensor with these strides"),
    Mutant(TakesOffGradients, "test_a_tensor_with_a_gradient_is_written_and_left_alone", "took the gradient"),
    Mutant(ReadsAll, "test_only_the_names_asked_for_are_read", "it gave ['layer_0', 'layer_1', 'layer_2', 'layer_3']"),
    Mutant(
        RowsTooFar,
        "test_dtype_shape_and_rows_of_a_tensor_are_those_of_the_tensor",
        "of rows('layer_0', 12, 18)",
        frozenset({STORE}),
    ),
    Mutant(NoDot, "test_it_is_found_by_its_name_and_suffix_and_made_without_arguments", "suffix is 'sound'"),
    Mutant(SharesMemory, "test_what_is_read_owns_its_memory", "holds on to 7680; clone it"),
    Mutant(Eager, "test_one_tensor_is_read_without_the_rest", "before any tensor was asked for"),
    Mutant(OneSumForAll, "test_damage_to_one_tensor_does_not_touch_another", "refuses one tensor where the bytes of"),
    Mutant(OneThread, "test_threads_may_read_one_bundle", "can only be used in that thread"),
    Mutant(OneReader, "test_threads_may_open_one_file", "already reading"),
    Mutant(OtherSums, "test_a_checksum_that_is_told_is_that_of_the_file", "return None where it is not known"),
    Mutant(StaysOpen, "test_no_file_stays_open", "5 files are still open after five bundles were read"),
    Mutant(EmptyWhereTorn, "test_a_file_cut_short_is_refused_wherever_it_ends", "as if nothing were wrong with it"),
    Mutant(OtherErrors, "test_a_file_of_something_else_is_refused", "raised KeyError ('header'); raise a FormatError"),
    Mutant(
        WithoutPath,
        NAMED,
        "bad file",
        frozenset(
            {
                "test_a_file_cut_short_is_refused_wherever_it_ends",
                "test_a_file_of_something_else_is_refused",
            }
        ),
    ),
    Mutant(ReservedNames, STORE, "names that begin with 'actframe.' are reserved"),
]


def test_there_is_a_broken_backend_for_every_check():
    assert {mutant.check for mutant in MUTANTS} == checks_of(StorageBackendTests)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_backend_is_found_by_the_check_for_it(mutant):
    assert_found(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_backend_is_found_by_nothing_else(mutant):
    assert_found_by_nothing_else(mutant)
