"""One site of a store as a dataset for a DataLoader."""

import pickle
import subprocess
import sys
import textwrap

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from actframe import ActivationStore, SelectionError, SettingsError, SiteError, UnknownNameError
from actframe.storage import datasets
from actframe.testing import random_record

COUNT = 40

# Where there are fewer cores than workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def records():
    return [random_record(number, 3 + number % 4, note=None if number == 7 else "x") for number in range(COUNT)]


@pytest.fixture(scope="module", params=["safetensors", "zstd"])
def store(request, records, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "run"
    with ActivationStore(path, backend=request.param, shard_bytes=2000) as store:
        for record in records:
            store.append(record)
    assert len(store.ledger.shards) > 5
    return store


def questions(items):
    return [question for _, question in items]


def with_worker(items):
    return get_worker_info().id, items


def test_without_workers_items_come_in_the_order_of_the_store(store, records):
    dataset = store.torch_dataset("layer_1", target="correct")
    assert len(dataset) == COUNT
    items = list(dataset)
    assert [correct for _, correct in items] == [record.correct for record in records]
    for (row, _), record in zip(items, records, strict=True):
        assert torch.equal(row, record.activations["layer_1"][record.prompt_length - 1])
    assert repr(dataset) == f"<SiteDataset of layer_1 of 40 records in {len(store.ledger.shards)} shards>"


def test_items_are_what_stack_gives(store):
    for positions in ("last_prompt", "last", 0):
        assert torch.equal(torch.stack(list(store.torch_dataset(1, positions))), store.stack(1, positions))


def test_without_a_target_items_are_tensors_of_their_own_memory(store):
    for row in store.torch_dataset("layer_0"):
        assert row.shape == (16,)
        assert row.untyped_storage().nbytes() == row.nbytes


def test_several_positions_give_as_many_rows_as_each_record_has(store, records):
    for positions in ("all", "prompt", "response", slice(1, 3), [0, 2]):
        expected = store.stack("layer_0", positions)
        found = list(store.torch_dataset("layer_0", positions))
        assert len(found) == len(expected)
        for number, rows in enumerate(found):
            assert torch.equal(rows, expected[number])


def test_a_view_gives_its_own_records_shard_by_shard(store):
    view = store.where(correct=True)
    items = list(view.torch_dataset("layer_1", target="question_id"))
    assert questions(items) == view.column("question_id")
    assert sorted(questions(store[::-1].torch_dataset(1, target="trial"))) == [0] * COUNT
    assert list(store[:0].torch_dataset("layer_1")) == []


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_record_comes_once_over_all_workers_and_every_shard_from_one(store, workers, shuffle):
    dataset = store.torch_dataset("layer_1", target="question_id", shuffle=shuffle)
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=with_worker)
    assert len(loader) == 14
    batches = list(loader)
    items = [item for _, batch in batches for item in batch]
    assert sorted(questions(items)) == sorted(f"sums/{number}" for number in range(COUNT))
    expected = dict(zip(store.column("question_id"), store.stack("layer_1", "last_prompt"), strict=True))
    assert all(torch.equal(row, expected[question]) for row, question in items)
    owners = {}
    for worker, batch in batches:
        for question in questions(batch):
            number = int(question.removeprefix("sums/"))
            owners.setdefault(int(store.ledger.shard_numbers[number]), set()).add(worker)
    assert all(len(workers) == 1 for workers in owners.values())
    assert len(set().union(*owners.values())) == min(workers, len(owners))


def test_workers_have_alike_much_to_do(store):
    dataset = store.torch_dataset("layer_1")
    counts = [sum(len(dataset._parts[number]) for number in dataset._share(worker, 3)) for worker in range(3)]
    assert sum(counts) == COUNT
    assert max(counts) - min(counts) <= max(len(part) for part in dataset._parts)


def test_batches_are_collated_with_their_targets(store):
    loader = DataLoader(store.torch_dataset("layer_1", target="correct"), batch_size=8)
    rows, correct = next(iter(loader))
    assert rows.shape == (8, 16)
    assert rows.dtype == torch.bfloat16
    assert correct.tolist() == [True, False, False, True, False, False, True, False]


def orders(dataset, epochs, **settings):
    loader = DataLoader(dataset, batch_size=None, **settings)
    return [questions(loader) for _ in range(epochs)]


def test_shuffled_the_order_is_drawn_from_the_seed_and_the_epoch(store):
    def dataset(seed=0):
        return store.torch_dataset("layer_1", target="question_id", shuffle=True, seed=seed)

    plain = questions(store.torch_dataset("layer_1", target="question_id"))
    first, second, third = orders(dataset(), 3)
    assert len({tuple(order) for order in (plain, first, second, third)}) == 4
    assert sorted(first) == sorted(second) == sorted(plain)
    assert orders(dataset(), 3) == [first, second, third]
    assert orders(dataset(seed=1), 1) != [first]
    again = dataset()
    again.set_epoch(2)
    assert questions(again) == questions(again) == third
    again.set_epoch(0)
    assert questions(again) == first


def test_shuffled_shards_come_one_after_the_other_and_both_they_and_their_records_in_another_order(store):
    items = list(store.torch_dataset("layer_1", target="question_id", shuffle=True))
    numbers = [int(question.removeprefix("sums/")) for question in questions(items)]
    shards = store.ledger.shard_numbers[numbers]
    assert (numpy.diff(shards) != 0).sum() == len(store.ledger.shards) - 1
    assert list(dict.fromkeys(shards.tolist())) != list(range(len(store.ledger.shards)))
    assert any((numpy.diff(numpy.array(numbers)[shards == shard]) < 0).any() for shard in set(shards.tolist()))


def test_workers_that_are_started_anew_tell_epochs_apart(store):
    def dataset():
        return store.torch_dataset("layer_1", target="question_id", shuffle=True)

    torch.manual_seed(3)
    first, second = orders(dataset(), 2, num_workers=1)
    assert first != second
    torch.manual_seed(3)
    assert orders(dataset(), 2, num_workers=1) == [first, second]
    told = dataset()
    for workers in (0, 1, 1):
        told.set_epoch(5)
        (order,) = orders(told, 1, num_workers=workers)
        assert order == orders_of_epoch(dataset(), 5)


def orders_of_epoch(dataset, epoch):
    dataset.set_epoch(epoch)
    return questions(dataset)


def test_workers_that_stay_tell_epochs_apart_and_hear_of_what_is_set(store):
    dataset = store.torch_dataset("layer_1", target="question_id", shuffle=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    assert questions(loader) != questions(loader)
    for epoch in (4, 5):
        dataset.set_epoch(epoch)
        found = questions(loader)
        assert found == orders_of_epoch(store.torch_dataset(1, target="question_id", shuffle=True), epoch)


def test_records_are_read_a_piece_at_a_time(store, monkeypatch):
    expected = orders_of_epoch(store.torch_dataset("layer_1", target="question_id", shuffle=True), 0)
    monkeypatch.setattr(datasets, "_AT_ONCE", 2)
    assert orders_of_epoch(store.torch_dataset("layer_1", target="question_id", shuffle=True), 0) == expected


@pytest.mark.parametrize("kind", ["store", "view", "dataset"])
def test_a_store_its_views_and_its_datasets_can_be_pickled(store, kind):
    view = store.where(correct=True)
    if kind == "dataset":
        dataset = view.torch_dataset("layer_1", target="question_id", shuffle=True)
        again = pickle.loads(pickle.dumps(dataset))
        assert questions(again) == questions(dataset)
    else:
        found = store if kind == "store" else view
        again = pickle.loads(pickle.dumps(found))
        assert torch.equal(again.stack(1, "last"), found.stack(1, "last"))


def test_workers_may_be_spawned(store, tmp_path):
    script = tmp_path / "load.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from torch.utils.data import DataLoader
            from actframe import ActivationStore

            if __name__ == "__main__":
                dataset = ActivationStore({store.location!r}).torch_dataset("layer_1", target="question_id")
                loader = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
                print(*(question for _, questions in loader for question in questions))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == store.column("question_id")


def test_a_site_that_is_not_there_is_an_error_at_once(store):
    with pytest.raises(SiteError, match=r"no site 'layer_2'.*layer_"):
        store.torch_dataset("layer_2")


def test_a_target_that_no_record_has_is_an_error_with_the_nearest(store):
    with pytest.raises(UnknownNameError, match=r"the key 'corect' \(did you mean 'correct'\?\)"):
        store.torch_dataset("layer_1", target="corect")


def test_a_target_that_some_records_lack_is_an_error_that_says_how_to_leave_them_out(store):
    with pytest.raises(
        SelectionError, match=r"1 of 40 records say nothing under 'note'; leave them out: where\("
    ) as error:
        store.torch_dataset("layer_1", target="note")
    advice = str(error.value).partition("leave them out: ")[2]
    view = eval(f"store.{advice}", {"store": store})
    assert len(list(view.torch_dataset("layer_1", target="note"))) == COUNT - 1


def test_a_position_that_some_records_lack_is_an_error_in_a_worker_too(store):
    dataset = store.torch_dataset("layer_1", 4)
    for workers in (0, 1):
        with pytest.raises(SelectionError, match="have no row of layer_1 for position 4"):
            list(DataLoader(dataset, num_workers=workers))


@pytest.mark.parametrize("settings", [{"seed": -1}, {"seed": 0.5}, {"seed": None}])
def test_a_seed_that_is_none_is_refused(store, settings):
    with pytest.raises(SettingsError, match="the seed is .*whole number"):
        store.torch_dataset("layer_1", **settings)


def test_positions_and_epochs_that_make_no_sense_are_refused(store):
    with pytest.raises(SelectionError, match="no positions 'first'"):
        store.torch_dataset("layer_1", "first")
    with pytest.raises(SettingsError, match="epochs count from 0"):
        store.torch_dataset("layer_1").set_epoch(-1)
