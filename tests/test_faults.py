"""What a store survives: processes that are killed, full disks, readers and writers at once, backends that fail."""

import errno
import gc
import itertools
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from pkgutil import resolve_name as resolve

import pytest
import torch

from actframe import ActivationStore, StorageError
from actframe.storage.safetensors_ import SafetensorsBackend
from actframe.testing import assert_same_record, random_record

RECORDS = 150
LENGTH = 4


def answer(number):
    return random_record(number, LENGTH, d_model=64)


def open_store(path, **settings):
    """Open a store that a killed process may have left: what is repaired is said in a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the store ", RuntimeWarning)
        return ActivationStore(path, **settings)


def write_what_is_missing(path, flushed):
    """What a run does: skip what is committed, append the rest, and note what was flushed."""
    store = open_store(path, shard_bytes=20_000, flush_every=9)
    done = set(store.column("question_id")) if len(store) else set()
    appended = []
    with open(flushed, "a", buffering=1) as log:
        for number in range(RECORDS):
            record = answer(number)
            if record.question_id in done:
                continue
            store.append(record)
            appended.append(number)
            time.sleep(0.001)
            if len(appended) % 20 == 0:
                store.flush()
                log.write("".join(f"{each}\n" for each in appended))
    store.close()


def check(path, flushed):
    """The numbers of all records: each there once and bit for bit, and every flushed one among them."""
    store = open_store(path)
    numbers = [int(record.question_id.removeprefix("sums/")) for record in store]
    assert len(numbers) == len(set(numbers)), "a record is there twice"
    promised = {int(line) for line in flushed.read_text().split()} if flushed.exists() else set()
    assert promised <= set(numbers), "a flushed record is lost"
    for number, record in zip(numbers, store, strict=True):
        assert_same_record(record, answer(number))
    return set(numbers)


@pytest.mark.slow
def test_a_process_killed_at_fifty_moments_loses_nothing_that_was_flushed(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "actframe.storage.store", "actframe.testing.records"])
    moments = random.Random(20261123)
    killed, finished, seen = 0, 0, 0
    # After the last kill a process is left alone, so that at least one run is resumed to its end.
    while killed < 50 or not finished:
        path, flushed = tmp_path / f"run-{finished}", tmp_path / f"flushed-{finished}"
        process = context.Process(target=write_what_is_missing, args=(path, flushed))
        process.start()
        process.join(moments.uniform(0.02, 0.8) if killed < 50 else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if not path.exists():
            continue
        numbers = check(path, flushed)
        assert len(numbers) >= seen, "resuming lost records"
        seen = len(numbers)
        if process.exitcode == 0:
            assert numbers == set(range(RECORDS)), "a resumed run has other records than one that was never killed"
            finished, seen = finished + 1, 0


def test_two_processes_write_while_another_reads(tmp_path):
    script = """
import sys
from actframe import ActivationStore
from actframe.testing import random_record
first = int(sys.argv[2])
with ActivationStore(sys.argv[1], shard_bytes=5000, flush_every=3) as store:
    for number in range(first, first + 60):
        store.append(random_record(number))
"""
    path = tmp_path / "run"
    reader = ActivationStore(path)
    command = [sys.executable, "-c", script, path]
    writers = [subprocess.Popen([*command, str(first)]) for first in (0, 1000)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        reader.refresh()
        assert len(reader) >= seen
        for record in reader[seen:]:
            assert_same_record(record, random_record(int(record.question_id.removeprefix("sums/"))))
        # Records of another writer may come before those that were there.
        seen = len(reader)
        time.sleep(0.02)
    assert [writer.wait() for writer in writers] == [0, 0]
    reader.refresh()
    numbers = sorted(int(number.removeprefix("sums/")) for number in reader.column("question_id"))
    assert numbers == [*range(60), *range(1000, 1060)]


class FailsSometimes(SafetensorsBackend):
    """Safetensors, on a disk that is full whenever `full` is set."""

    name = "fails-sometimes"
    full = False

    def write(self, path, bundle):
        if type(self).full:
            path.write_bytes(b"half of a sh")
            raise ValueError("a bug in a third party's backend")
        super().write(path, bundle)


@pytest.fixture
def failing_backend(monkeypatch):
    from actframe.storage import store

    find = store.backend_named
    monkeypatch.setattr(
        store, "backend_named", lambda name: FailsSometimes() if name == FailsSometimes.name else find(name)
    )
    monkeypatch.setattr(FailsSometimes, "full", True)
    return FailsSometimes


def test_an_error_of_a_backend_surfaces_at_the_next_append(tmp_path, failing_backend):
    store = ActivationStore(tmp_path / "run", failing_backend.name, shard_bytes=1)
    store.append(answer(0))
    with pytest.raises(StorageError, match="a bug in a third party's backend.*kept"):
        for number in range(1, 1000):
            store.append(answer(number))
            time.sleep(0.01)
    failing_backend.full = False
    store.close()
    found = open_store(tmp_path / "run")
    assert list(found.column("question_id")) == [answer(number).question_id for number in range(len(found))]
    assert [name for name in os.listdir(tmp_path / "run" / "shards") if name.startswith(".")] == []


def test_an_error_of_a_backend_surfaces_at_close_with_what_is_lost(tmp_path, failing_backend):
    store = ActivationStore(tmp_path / "run", failing_backend.name)
    store.append(answer(0))
    store.append(answer(1))
    with pytest.raises(StorageError, match="2 records were appended and are not in the store"):
        store.close()
    assert len(open_store(tmp_path / "run")) == 0


def test_a_failed_flush_keeps_the_records_for_the_next_one(tmp_path, failing_backend):
    with ActivationStore(tmp_path / "run", failing_backend.name) as store:
        store.append(answer(0))
        with pytest.raises(StorageError, match="flush\\(\\) tries again"):
            store.flush()
        failing_backend.full = False
        store.flush()
        assert_same_record(store[0], answer(0))


def test_an_error_inside_the_block_is_the_one_that_is_raised(tmp_path, failing_backend):
    with pytest.raises(ZeroDivisionError) as raised, ActivationStore(tmp_path / "run", failing_backend.name) as store:
        store.append(answer(0))
        raise ZeroDivisionError
    assert "1 records were appended and are not in the store" in raised.value.__notes__[0]


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes at a folder."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here, so no disk can be made full")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_what_was_committed_and_goes_on_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 2_000_000):
        ballast = disk / "ballast"
        store = ActivationStore(disk / "run", shard_bytes=100_000)
        for number in range(20):
            store.append(answer(number))
        store.flush()
        free = os.statvfs(disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))
        for number in range(20, 40):
            store.append(answer(number))
        with pytest.raises(StorageError, match="No space left on device"):
            store.flush()
        assert len(open_store(disk / "run")) == 20
        ballast.unlink()
        store.close()
        found = open_store(disk / "run")
        assert len(found) == 40
        for number, record in enumerate(found):
            assert_same_record(record, answer(number))


def test_a_slow_disk_makes_the_model_wait_and_memory_stays_as_it_is(tmp_path, monkeypatch):
    write = SafetensorsBackend.write

    def slowly(self, path, bundle):
        time.sleep(0.02)
        write(self, path, bundle)

    monkeypatch.setattr(SafetensorsBackend, "write", slowly)
    record = random_record(0, 64, d_model=512)
    size = sum(tensor.nbytes for tensor in record.activations.values())
    most = 0
    with ActivationStore(tmp_path / "run", shard_bytes=3 * size) as store:
        for _ in range(60):
            store.append(record)
            most = max(most, store.progress.queued_records)
    # Three or four in the shard that is written, and as many in the one that fills.
    assert 5 <= most <= 8
    assert len(store) == 60


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    records = [random_record(number, 1, sites=[f"layer_{n}" for n in range(31)], d_model=576) for number in range(50)]
    with ActivationStore(tmp_path / "run") as store:
        for number in range(200):
            store.append(records[number % 50])
        before = resident_bytes()
        for number in range(200, 20_000):
            store.append(records[number % 50])
        assert resident_bytes() - before < 100e6
    assert len(store) == 20_000


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_threads_may_append_to_one_store(tmp_path):
    with ActivationStore(tmp_path / "run", shard_bytes=5000) as store:
        threads = [
            threading.Thread(target=lambda first=first: [store.append(answer(first + n)) for n in range(20)])
            for first in range(0, 80, 20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(store.column("question_id")) == sorted(answer(number).question_id for number in range(80))


def test_a_forked_process_says_that_the_store_must_be_opened_again(tmp_path):
    with ActivationStore(tmp_path / "run") as store:
        store.append(answer(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                store.append(answer(1))
            except StorageError as error:
                os._exit(0 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store) == 1


def test_nothing_is_taken_by_a_store_of_which_closing_failed(tmp_path, failing_backend):
    store = ActivationStore(tmp_path / "run", failing_backend.name)
    store.append(answer(0))
    with pytest.raises(StorageError, match="1 records were appended and are not in the store"):
        store.close()
    with pytest.raises(StorageError, match="was closed"):
        store.append(answer(1))
    in_time(store.flush)


def test_what_a_thread_appends_while_another_closes_is_in_the_store_or_refused(tmp_path):
    for attempt in range(10):
        store = ActivationStore(tmp_path / f"{attempt}", shard_bytes=2000, flush_every=None)
        taken = []

        def append_on(store=store, taken=taken):
            with suppress(StorageError):
                for number in itertools.count():
                    store.append(answer(number))
                    taken.append(answer(number).question_id)

        thread = threading.Thread(target=append_on, daemon=True)
        thread.start()
        time.sleep(0.02)
        store.close()
        thread.join(timeout=20)
        assert not thread.is_alive()
        assert list(open_store(tmp_path / f"{attempt}").column("question_id")) == taken


def test_threads_whose_records_have_different_dtypes_do_not_wait_for_each_other(tmp_path):
    dtypes = [torch.float32, torch.float16, torch.float64, torch.bfloat16]
    with ActivationStore(tmp_path / "run", flush_every=None) as store:

        def append_some(first):
            for number in range(first, 40, len(dtypes)):
                tensors = answer(number).activations.items()
                cast = {site: tensor.to(dtypes[first]) for site, tensor in tensors}
                store.append(answer(number).replace(activations=cast))

        threads = [threading.Thread(target=append_some, args=(first,), daemon=True) for first in range(len(dtypes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)
    assert len(store) == 40


def test_a_store_that_its_own_thread_collects_as_garbage_is_closed(tmp_path, failing_backend, monkeypatch):
    monkeypatch.setattr(FailsSometimes, "full", False)
    monkeypatch.setattr(FailsSometimes, "write", collecting(FailsSometimes.write))
    store = ActivationStore(tmp_path / "run", failing_backend.name, flush_every=None)
    store.itself = store
    for number in range(3):
        store.append(answer(number))
    writer = store._begun()
    gc.disable()
    try:
        del store
        with writer._lock:
            writer._room_wanted = True
            writer._state.notify_all()
        deadline = time.monotonic() + 20
        while writer.is_running and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert not writer.is_running
    assert len(open_store(tmp_path / "run")) == 3


def collecting(write):
    def write_after_collecting(self, path, bundle):
        gc.collect()
        write(self, path, bundle)

    return write_after_collecting


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timer")
@pytest.mark.parametrize("call", ["flush", "append"])
def test_a_signal_handler_that_writes_mixes_no_records_up(tmp_path, call):
    """It may come in the middle of taking one; then it is refused."""
    store = ActivationStore(tmp_path / "run", shard_bytes=20_000, flush_every=None)
    store.append(answer(0))
    taken, others, refused = [0], iter(range(10_000, 100_000)), []

    def handle(*_):
        number = next(others)
        try:
            store.flush() if call == "flush" else store.append(answer(number))
        except StorageError as error:
            refused.append(str(error))
        else:
            if call == "append":
                taken.append(number)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        moment = random.Random(0)
        for number in range(1, 1000):
            signal.setitimer(signal.ITIMER_REAL, moment.uniform(1e-6, 1e-3))
            store.append(answer(number))
            taken.append(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    store.close()
    assert all("signal handler" in said for said in refused)
    found = {record.question_id: record for record in open_store(tmp_path / "run")}
    assert len(found) == len(open_store(tmp_path / "run")) == len(taken)
    for number in taken:
        assert_same_record(found[answer(number).question_id], answer(number))


def test_a_forked_process_ends_without_a_word_about_the_store_of_its_parent(tmp_path):
    program = (
        "import os, sys, warnings\n"
        "from actframe import ActivationStore\n"
        "from actframe.testing import random_record\n"
        "warnings.simplefilter('ignore')\n"
        f"store = ActivationStore({str(tmp_path / 'run')!r})\n"
        "store.append(random_record(0, 4))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert store.progress.queued_records == 0\n"
        "    if len(sys.argv) > 1:\n"
        "        store.close()\n"
        "    sys.exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    for number, arguments in enumerate([[], ["close"]], start=1):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(open_store(tmp_path / "run")) == number


@pytest.mark.parametrize("function", ["local.sync_folder", "local.rename_new", "local.os.fsync", "local.sync"])
def test_a_disk_that_failed_for_a_while_holds_up_nothing_afterwards(tmp_path, monkeypatch, function):
    """Also where the shard had its name, or the ledger its lines, and only saying so failed."""
    name = f"actframe.storage.{function}"
    call = resolve(name)

    def fail(*arguments, **options):
        call(*arguments, **options)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ActivationStore(tmp_path / "run", flush_every=None) as store:
        store.append(answer(0))
        store.flush()
        store.append(answer(1))
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            for _ in range(3):
                with pytest.raises(StorageError, match="Input/output error"):
                    store.flush()
        store.append(answer(2))
        store.flush()
    assert [int(record.question_id.removeprefix("sums/")) for record in store] == [0, 1, 2]
    assert store.verify().ok
    assert sorted(os.listdir(tmp_path / "run" / "shards")) == sorted(store.ledger.shards)


def in_time(call):
    """Call it, but wait for seconds at most."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
