import numpy
import pytest
import torch

from actframe import FormatError, StorageError, narrowed, widened
from actframe.testing import DTYPES, assert_same, random_tensor

NARROW = [torch.bfloat16, *(dtype for dtype in DTYPES if "float8" in str(dtype))]


def every_value(dtype):
    if dtype.itemsize == 2:
        return torch.arange(2**16).to(torch.uint16).view(dtype)
    return torch.arange(2**8).to(torch.uint8).view(dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_every_value_of_a_narrow_dtype_becomes_the_float32_of_the_same_value_and_comes_back(dtype):
    tensor = every_value(dtype)
    wide = widened(tensor)
    assert wide.dtype == numpy.float32
    assert numpy.array_equal(wide, tensor.float().numpy(), equal_nan=True)
    assert len(numpy.unique(wide.view(numpy.uint32))) == len(tensor)
    assert_same(narrowed(wide, dtype), tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_tensors_of_every_dtype_and_shape_come_back(dtype, shape):
    tensor = random_tensor(dtype, *shape)
    wide = widened(tensor)
    assert wide.shape == shape
    found = narrowed(wide, dtype)
    assert_same(found, tensor)
    before = tensor.clone()
    found.zero_()
    assert_same(tensor, before)


def test_views_are_widened_as_what_they_show():
    tensor = random_tensor(torch.bfloat16, 6, 8)
    for view in (tensor.T, tensor[1:3, ::2], tensor[:1].expand(4, 8)):
        assert_same(narrowed(widened(view), torch.bfloat16), view.contiguous())


def test_values_that_are_of_another_dtype_are_refused():
    with pytest.raises(FormatError, match="values of torch.bfloat16 are stored as float32, and these are float64"):
        narrowed(numpy.zeros(3), torch.bfloat16)
    with pytest.raises(FormatError, match="is said to hold torch.float8_e4m3fn, and has values that are none of it"):
        narrowed(numpy.array([0.1], "f4"), torch.float8_e4m3fn)


def test_a_dtype_that_neither_numpy_nor_float32_has_is_refused():
    with pytest.raises(StorageError, match="float4_e2m1fn_x2"):
        widened(torch.empty(2, dtype=torch.float4_e2m1fn_x2))
