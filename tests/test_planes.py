"""Byte planes: exponents apart from fractions."""

import numpy
import pytest
import torch

from actframe.storage import planes
from actframe.testing import assert_same, random_tensor

SPLIT = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


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
@pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
def test_planes_in_pieces_of_any_size_give_the_tensor_back(dtype, chunk):
    tensor = random_tensor(dtype, 300, 301)
    whole = [numpy.concatenate(list(pieces)) for pieces in planes.split(tensor, chunk)]
    assert [len(plane) for plane in whole] == [tensor.numel()] * dtype.itemsize
    assert_same(planes.join(whole, dtype, tensor.shape), tensor)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64], ids=str)
def test_other_dtypes_are_one_plane_of_their_bytes(dtype):
    tensor = random_tensor(dtype, 30)
    (pieces,) = planes.split(tensor, 1 << 20)
    assert next(pieces).tobytes() == bytes(tensor.view(torch.uint8).tolist())
