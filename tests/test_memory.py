"""Batches that memory does not suffice for are halved until they fit."""

import pytest
import torch

from actframe.runs.memory import Halving, is_out_of_memory

TOO_MUCH = 1 << 50
"""Bytes that no machine has."""


class Machine:
    """Computes batches, and asks for more memory than there is where one is larger than it takes."""

    def __init__(self, takes):
        self.takes, self.tried = takes, []

    def __call__(self, batch):
        self.tried.append(list(batch))
        if len(batch) > self.takes:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return [10 * item for item in batch]


def test_a_batch_that_fits_is_computed_whole():
    machine = Machine(takes=4)
    assert list(Halving().run([1, 2, 3], machine)) == [([1, 2, 3], [10, 20, 30])]


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_keeps_its_order():
    machine = Machine(takes=2)
    parts = list(Halving().run(list(range(7)), machine))
    assert [part for part, _ in parts] == [[0, 1], [2, 3], [4, 5], [6]]
    assert all(result == [10 * item for item in part] for part, result in parts)


def test_what_was_too_large_once_is_not_tried_again():
    machine, halving = Machine(takes=2), Halving()
    list(halving.run(list(range(4)), machine))
    assert halving.refused == 4
    machine.tried.clear()
    list(halving.run(list(range(8)), machine))
    assert machine.tried == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_sizes_are_what_the_caller_says_they_are():
    machine, halving = Machine(takes=2), Halving(size=sum)
    list(halving.run([5, 5, 5, 5], machine))
    machine.tried.clear()
    assert halving.refused == 20
    list(halving.run([1, 1], machine))
    list(halving.run([10, 10], machine))
    assert machine.tried == [[1, 1], [10], [10]]


def test_one_item_that_does_not_fit_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        list(Halving().run([1, 2], Machine(takes=0)))
    assert "not enough memory for even one sequence" in caught.value.__notes__[0]


def test_an_error_of_another_kind_goes_on_at_once():
    tried = []

    def compute(batch):
        tried.append(batch)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Halving().run([1, 2, 3, 4], compute))
    assert tried == [[1, 2, 3, 4]]


def test_what_a_failed_attempt_held_is_let_go_before_the_next():
    held, alive = [], []

    class Large:
        def __del__(self):
            held.remove(self.number)

        def __init__(self, number):
            self.number = number
            held.append(number)

    def compute(batch):
        alive.append(list(held))
        large = Large(len(batch))
        if len(batch) > 1:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return large.number

    list(Halving().run([1, 2, 3, 4], compute))
    assert alive == [[]] * 6


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.02 GiB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_allocator_is_understood(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("out of memory"))
