"""The temporary file of a shard in the making, and drafts of shards."""

import errno
import sys
from contextlib import closing

import pytest
import torch

from actframe.errors import StorageError
from actframe.records.columns import ShardColumns
from actframe.records.shard import Shard
from actframe.storage.shards import ShardDraft, arrive
from actframe.storage.spool import Spool
from actframe.testing import assert_same_record, random_record


def numbers(start, count):
    return torch.arange(start, start + count, dtype=torch.int32)


@pytest.fixture
def spool(tmp_path):
    with closing(Spool(tmp_path, memory_bytes=100)) as opened:
        yield opened


def add(spool, **tensors):
    spool.note(spool.place(tensors))


def test_columns_hold_the_pieces_in_their_order_wherever_they_were(spool):
    counts = [3, 10, 30, 1, 2, 40, 5, 5, 5, 5, 5]
    for place, count in enumerate(counts):
        some = {} if place % 3 == 1 else {"b": numbers(1000 * place, 2)}
        add(spool, a=numbers(1000 * place, count), **some)
    a = torch.cat([numbers(1000 * place, count) for place, count in enumerate(counts)])
    b = torch.cat([numbers(1000 * place, 2) for place in range(len(counts)) if place % 3 != 1])
    assert torch.equal(spool.column("a", torch.int32, (len(a),)), a)
    assert torch.equal(spool.column("b", torch.int32, (len(b),)), b)
    assert (spool.size_of("a"), spool.size_of("b"), spool.size_of("c")) == (a.nbytes, b.nbytes, 0)
    assert spool.size == a.nbytes + b.nbytes
    assert spool.records == len(counts)
    spool.clear()
    assert (spool.size, spool.records) == (0, 0)
    add(spool, a=numbers(7, 50))
    assert torch.equal(spool.column("a", torch.int32, (50,)), numbers(7, 50))


@pytest.mark.parametrize("count", [5, 50])
def test_what_is_placed_and_not_noted_is_not_there(spool, count):
    add(spool, a=numbers(0, count))
    spool.place({"a": numbers(100, count)})
    add(spool, a=numbers(200, count))
    found = spool.column("a", torch.int32, (2 * count,))
    assert torch.equal(found, torch.cat([numbers(0, count), numbers(200, count)]))


def test_what_was_placed_may_be_changed_afterwards(spool):
    tensors = [numbers(0, 5), numbers(10, 50)]
    for tensor in tensors:
        add(spool, a=tensor)
        tensor.zero_()
    assert torch.equal(spool.column("a", torch.int32, (55,)), torch.cat([numbers(0, 5), numbers(10, 50)]))


def test_a_column_of_another_size_is_an_error(spool):
    add(spool, a=numbers(0, 5))
    with pytest.raises(OSError, match="20 bytes of a, and 24 were expected"):
        spool.column("a", torch.int32, (6,))


@pytest.fixture
def draft(tmp_path):
    """A draft of two records, which has made its file before."""
    with closing(ShardDraft(tmp_path)) as opened:
        opened.add(arrive(random_record(0, 40_000)))
        start(opened)
        yield opened


def start(draft):
    """Begin anew with two records."""
    draft.clear()
    for number in range(2):
        draft.add(arrive(random_record(number)))


def in_shard(draft):
    shard = Shard(draft.bundle({}))
    lines = bytes(draft.lines().numpy()).splitlines()
    assert len(lines) == len(draft)
    return [shard.activations(number) for number in range(len(draft))]


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line of actframe that is executed."""

    def __init__(self, moment):
        self.moment, self.lines = moment, 0

    def __call__(self, frame, event, _):
        if "actframe" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.moment:
                raise KeyboardInterrupt
        return self


def interrupted(draft, arrival, moment):
    """Whether adding was interrupted at this moment; False when it was over before."""
    sys.settrace(Interrupt(moment))
    try:
        draft.add(arrival)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("positions", [4, 40_000])
def test_a_record_is_taken_whole_or_not_at_all_wherever_taking_it_is_interrupted(draft, positions):
    odd = random_record(90, positions, sites=("layer_0", "layer_7", "logits"))
    odd = arrive(odd.replace(site_positions={"logits": [1] * positions}))
    moment, taken = 0, True
    while taken:
        moment += 1
        start(draft)
        if not interrupted(draft, odd, moment):
            break
        known = [random_record(0), random_record(1)]
        if len(draft) == 3:
            known.append(None)
        draft.add(arrive(random_record(5)))
        known.append(random_record(5))
        found = in_shard(draft)
        assert len(found) == len(known)
        for each, record in zip(found, known, strict=True):
            if record is not None:
                assert_same_record(record.replace(activations=each), record)
    assert moment > 20


def test_a_full_disk_costs_the_record_that_did_not_fit(draft, monkeypatch):
    large = arrive(random_record(7, 40_000))
    with monkeypatch.context() as patch:
        patch.setattr("actframe.storage.spool._write", full)
        with pytest.raises(StorageError, match="temporary file in .*: No space left on device; it was not taken"):
            draft.add(large)
    assert len(in_shard(draft)) == 2
    draft.add(large)
    assert len(in_shard(draft)) == 3


def full(file, data):
    file.write(data.data[:10])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["truncate", "add"])
def test_a_second_interrupt_while_the_first_is_dealt_with_costs_nothing_more(draft, monkeypatch, call):
    add, truncate = ShardColumns.add, ShardColumns.truncate

    def interrupted_add(self, *arguments):
        add(self, *arguments)
        raise KeyboardInterrupt

    def interrupted_truncate(self, records):
        if call == "truncate":
            truncate(self, records)
        raise KeyboardInterrupt

    start(draft)
    with monkeypatch.context() as patch:
        patch.setattr(ShardColumns, "add", interrupted_add)
        patch.setattr(ShardColumns, "truncate", interrupted_truncate)
        with pytest.raises(KeyboardInterrupt):
            draft.add(arrive(random_record(90, sites=("layer_0", "layer_7", "logits"))))
    assert len(draft) == 2
    for number in range(2, 4):
        found = in_shard(draft)
        assert len(found) == number
        for each in range(number):
            assert_same_record(random_record(each).replace(activations=found[each]), random_record(each))
        assert draft.accepts(arrive(random_record(number)))
        draft.add(arrive(random_record(number)))
