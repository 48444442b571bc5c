"""Where a store's files are: the same promises on a disk, in memory, on S3, and on file systems that promise little."""

import errno
import fcntl
import multiprocessing
import os
import pickle
import resource
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from actframe.errors import StorageError
from actframe.storage import remote, remote_files
from actframe.storage.folders import LocalFolder, store_folder

WRITER, OTHER = "20261123T091500Z-a1b2c3", "20261123T091501Z-d4e5f6"
PLACES = ["disk", "memory", "s3", "plain"]
"""The last can only be asked whether there is a file, and written to then."""


class PlainFileSystem(LocalFileSystem):
    """A third party's: files that grow while they are written, and renaming that replaces nothing."""

    protocol = "plain"
    fails_after_renaming = False

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("plain://").strip("/")

    def mv(self, path1, path2, **kwargs):
        if os.path.exists(path2):
            raise OSError(errno.EEXIST, "the server has a file of that name", path2)
        os.rename(path1, path2)
        if self.fails_after_renaming:
            raise TimeoutError("the server does not answer")


fsspec.register_implementation("plain", PlainFileSystem, clobber=True)


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


@pytest.fixture
def location(place, tmp_path, request):
    """A path or a URL where nothing is yet."""
    if place == "disk":
        return str(tmp_path / "runs" / "first")
    if place == "s3":
        return f"{request.getfixturevalue('s3_url')}/{secrets.token_hex(4)}/first"
    if place == "plain":
        return f"plain:/{tmp_path}/runs/first"
    return f"memory://{secrets.token_hex(4)}/first"


@pytest.fixture
def folder(location):
    return store_folder(location)


@pytest.fixture
def disk(tmp_path):
    return LocalFolder(tmp_path / "store")


def in_workspace(folder, content, name=f".{WRITER}-000001.safetensors"):
    path = folder.workspace() / name
    path.write_bytes(content)
    return path


def logged(folder):
    """What the log `ledger/w.jsonl` holds, in one part or many."""
    return b"".join(folder.read(f"ledger/{name}") for name in folder.sizes("ledger"))


def all_names(folder):
    """The names of all visible and hidden files."""
    names = []
    for below in ("", *folder.folders()):
        found = [*folder.sizes(below), *folder._hidden(below)]
        names += [f"{below}/{name}" if below else name for name in found]
    return sorted(names)


def at_once(count, action):
    """What `action(number)` returns in threads that begin together."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(number):
        barrier.wait()
        results[number] = action(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def forked(work):
    """A process that was forked from this one and does `work()`."""
    child = multiprocessing.get_context("fork").Process(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are other threads
        child.start()
    return child


# Everywhere: files


def test_where_nothing_is_there_are_no_files(folder):
    assert not folder.exists()
    assert folder.sizes("") == {}
    assert folder.sizes("shards") == {}
    assert folder.folders() == []


def test_a_file_is_read_as_it_was_written(folder):
    folder.write("shards/x.bin", b"0123456789")
    assert folder.exists()
    assert folder.folders() == ["shards"]
    assert folder.read("shards/x.bin") == b"0123456789"


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 4), (3, 7), (3, None), (0, 100), (8, 100), (10, None), (10, 12), (50, None), (4, 4), (5, 3)]
)
def test_a_part_of_a_file_is_read_as_far_as_the_file_goes(folder, start, stop):
    folder.write("x.bin", b"0123456789")
    assert folder.read("x.bin", start, stop) == b"0123456789"[start:stop]


def test_an_empty_file_is_a_file(folder):
    folder.write("shards/x.bin", b"")
    assert folder.sizes("shards") == {"x.bin": 0}
    assert folder.read("shards/x.bin") == folder.read("shards/x.bin", 0, 10) == b""
    assert folder.local("shards/x.bin").read_bytes() == b""


def test_writing_replaces_a_file(folder):
    folder.write("results.json", b"a longer first version")
    folder.write("results.json", b"the second")
    assert folder.read("results.json") == b"the second"
    assert all_names(folder) == ["results.json"]


def test_sizes_are_of_visible_files_directly_below_in_order(folder):
    for name in ("shards/b", "shards/a", "shards/.hidden", "shards/deeper/c", "run.json", "shards-of-another/d"):
        folder.write(name, name.encode())
    assert list(folder.sizes("shards").items()) == [("a", 8), ("b", 8)]
    assert folder.sizes("") == {"run.json": 8}
    assert folder.folders() == ["shards", "shards-of-another"]


def test_what_others_write_is_seen_at_once(folder, location):
    other = store_folder(location)
    assert not folder.exists()
    assert folder.sizes("ledger") == {}
    for content in (b"one", b"one and two", b"three"):
        other.write("ledger/x", content)
        assert folder.exists()
        assert folder.sizes("ledger") == {"x": len(content)}
        assert folder.read("ledger/x") == content
        assert folder.local("ledger/x").read_bytes() == content
    other.remove("ledger/x")
    assert folder.sizes("ledger") == {}


def test_what_another_program_writes_to_a_bucket_is_seen_at_once(s3_url):
    folder = store_folder(f"{s3_url}/{secrets.token_hex(4)}")
    program = fsspec.filesystem("s3", skip_instance_cache=True)
    name = f"{folder.location}/ledger/x"
    for content in (b"one", b"one and two", b"three"):
        program.pipe_file(name, content)
        assert folder.sizes("ledger") == {"x": len(content)}
        assert folder.folders() == ["ledger"]
        assert folder.read("ledger/x") == content
        assert folder.read("ledger/x", 1) == content[1:]
        assert folder.local("ledger/x").read_bytes() == content
    program.rm_file(name)
    assert folder.sizes("ledger") == {}
    assert not folder.exists()
    assert folder.create("ledger/x", b"four")


@pytest.mark.parametrize(
    "action",
    [
        lambda folder: folder.read("shards/x.bin"),
        lambda folder: folder.read("shards/x.bin", 3),
        lambda folder: folder.read("shards/x.bin", 3, 3),
        lambda folder: folder.local("shards/x.bin"),
        lambda folder: folder.remove("shards/x.bin"),
        lambda folder: folder.move("shards/x.bin", "quarantine/x.bin"),
    ],
)
@pytest.mark.parametrize("has_others", [False, True])
def test_a_file_that_is_not_there_is_named(folder, action, has_others):
    if has_others:
        folder.write("shards/y.bin", b"y")
    with pytest.raises(StorageError) as caught:
        action(folder)
    assert caught.value.errno == errno.ENOENT
    assert f"{folder.location}/shards/x.bin" in str(caught.value)
    assert str(caught.value).endswith(
        ("No such file or directory", "there is no such file", "The specified key does not exist.")
    )


@pytest.mark.parametrize("name", ["../x", "shards/../../x", "/etc/passwd", "", "shards//x", "./x", "a\\b", "C:x", "\0"])
@pytest.mark.parametrize(
    "action",
    [
        lambda folder, name: folder.read(name),
        lambda folder, name: folder.local(name),
        lambda folder, name: folder.write(name, b""),
        lambda folder, name: folder.create(name, b""),
        lambda folder, name: folder.remove(name),
        lambda folder, name: folder.move("run.json", name),
        lambda folder, name: folder.open_log(name),
    ],
)
def test_names_do_not_lead_out_of_the_store(location, action, name):
    folder = store_folder(location.replace("s3://", "memory://"))
    folder.write("run.json", b"")
    with pytest.raises(StorageError, match="cannot be the name of a store's file"):
        action(folder, name)


def test_a_folder_is_no_file(folder):
    folder.write("shards/deeper/x.bin", b"x")
    for action in (folder.read, folder.local, folder.remove):
        with pytest.raises(StorageError, match="shards/deeper"):
            action("shards/deeper")
    assert folder.read("shards/deeper/x.bin") == b"x"


def test_create_leaves_a_file_that_is_there(folder):
    assert folder.create("run.json", b"first")
    assert not folder.create("run.json", b"second")
    assert folder.read("run.json") == b"first"
    assert all_names(folder) == ["run.json"]


@pytest.mark.parametrize("place", PLACES[:3])
def test_of_many_that_create_a_file_at_once_one_does(location):
    folders = [store_folder(location) for _ in range(8)]
    for attempt in range(5):
        name = f"run-{attempt}.json"
        results = at_once(8, lambda number, name=name: folders[number].create(name, b"by %d" % number))
        assert sorted(results) == [False] * 7 + [True]
        assert folders[0].read(name) == b"by %d" % results.index(True)


def test_a_file_gets_another_name(folder):
    folder.write("shards/x.bin", b"damaged")
    folder.move("shards/x.bin", "quarantine/x.bin")
    assert folder.sizes("shards") == {}
    assert folder.read("quarantine/x.bin") == b"damaged"


def test_a_file_is_not_moved_onto_another(folder):
    folder.write("shards/x.bin", b"x")
    folder.write("quarantine/x.bin", b"earlier")
    with pytest.raises(StorageError, match=f"cannot rename {folder.location}/shards/x.bin to .*/quarantine/x.bin: "):
        folder.move("shards/x.bin", "quarantine/x.bin")
    assert folder.read("shards/x.bin") == b"x"
    assert folder.read("quarantine/x.bin") == b"earlier"


def test_removing_a_file_removes_that_file(folder):
    folder.write("shards/x.bin", b"x")
    folder.write("shards/y.bin", b"y")
    folder.remove("shards/x.bin")
    assert folder.sizes("shards") == {"y.bin": 1}


# Everywhere: shards


@pytest.mark.parametrize("size", [0, 5, 40_000_000])
def test_a_finished_file_is_published_whole(folder, size):
    content = secrets.token_bytes(size)
    path = in_workspace(folder, content)
    assert folder.sizes("shards") == {}
    folder.publish(path, f"shards/{WRITER}-000001.safetensors")
    assert not path.exists()
    assert folder.sizes("shards") == {f"{WRITER}-000001.safetensors": size}
    copy = folder.local(f"shards/{WRITER}-000001.safetensors")
    assert copy.name.endswith(".safetensors")
    assert copy.read_bytes() == content
    assert list(folder.workspace().glob(".*")) == []


def test_publishing_replaces_nothing(folder):
    folder.write("shards/x.bin", b"first")
    path = in_workspace(folder, b"second")
    with pytest.raises(StorageError, match=f"{folder.location}/shards/x.bin: .*exists|there is a file of that name"):
        folder.publish(path, "shards/x.bin")
    assert folder.read("shards/x.bin") == b"first"
    assert path.read_bytes() == b"second"


def test_a_file_that_cannot_be_published_stays_in_the_workspace(folder):
    path = in_workspace(folder, b"whole")
    folder.write("quarantine", b"a file where a folder would have to be")
    with pytest.raises(StorageError, match="quarantine/x.bin"):
        folder.publish(path.with_name("missing"), "quarantine/x.bin")
    assert path.read_bytes() == b"whole"


def test_an_upload_that_failed_late_is_not_in_the_way_of_the_next(tmp_path, monkeypatch):
    folder = store_folder(f"plain:/{tmp_path}/run")
    path = in_workspace(folder, b"whole")
    with monkeypatch.context() as patch:
        patch.setattr(PlainFileSystem, "fails_after_renaming", True)
        with pytest.raises(StorageError, match="x.bin: the server does not answer"):
            folder.publish(path, "shards/x.bin")
    assert all_names(folder) == []
    folder.publish(path, "shards/x.bin")
    assert folder.read("shards/x.bin") == b"whole"


def test_a_write_that_failed_late_is_whole(tmp_path, monkeypatch):
    folder = store_folder(f"plain:/{tmp_path}/run")
    monkeypatch.setattr(PlainFileSystem, "fails_after_renaming", True)
    with pytest.raises(StorageError, match="results.json: the server does not answer"):
        folder.write("results.json", b"whole")
    assert folder.read("results.json") == b"whole"
    assert all_names(folder) == ["results.json"]


# Everywhere: logs


def test_a_log_grows(folder):
    with folder.open_log("ledger/w.jsonl") as log:
        assert log.size == 0
        log.append(b"one\n")
        assert logged(folder) == b"one\n"
        log.append(b"two\nthree\n")
        assert logged(folder) == b"one\ntwo\nthree\n"
        assert log.size == 14
        log.append(b"")
        assert log.size == len(logged(folder)) == 14


def test_a_log_is_begun_once(folder, location):
    with folder.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")
    before = folder.sizes("ledger")
    with pytest.raises(StorageError, match=f"cannot begin {folder.location}/ledger/w.jsonl: ") as caught:
        store_folder(location).open_log("ledger/w.jsonl")
    assert caught.value.errno == errno.EEXIST
    assert folder.sizes("ledger") == before
    with folder.open_log("ledger/w-other.jsonl") as log:
        log.append(b"two\n")


def test_a_closed_log_takes_nothing_more(folder):
    log = folder.open_log("ledger/w.jsonl")
    log.append(b"one\n")
    log.close()
    log.close()
    with pytest.raises(StorageError, match=f"cannot write {folder.location}/ledger/w.*closed"):
        log.append(b"two\n")
    assert logged(folder) == b"one\n"


def test_a_log_that_is_written_is_not_adopted(folder, location):
    with folder.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")
        for name in folder.sizes("ledger"):
            assert folder.adopt_log(f"ledger/{name}") is None
            assert store_folder(location).adopt_log(f"ledger/{name}") is None


def test_only_a_log_that_is_known_to_be_written_has_a_writer(folder, location):
    log = folder.open_log("ledger/w.jsonl")
    log.append(b"one\n")
    (name,) = folder.sizes("ledger")
    known = isinstance(folder, LocalFolder)
    assert folder.has_writer(f"ledger/{name}") is known
    assert store_folder(location).has_writer(f"ledger/{name}") is known
    log.close()
    assert folder.has_writer(f"ledger/{name}") is False


def test_readers_beside_a_writer_see_whole_appends(folder, location):
    lines = [b"%04d\n" % number * 1000 for number in range(60)]
    seen, done = [b""], threading.Event()

    def read():
        other = store_folder(location)
        while not done.is_set():
            seen.append(logged(other))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with folder.open_log("ledger/w.jsonl") as log:
            for number, line in enumerate(lines):
                log.append(line)
                if number % 20 == 10:
                    before = len(seen)
                    while len(seen) == before and reader.is_alive():
                        time.sleep(0.001)
    finally:
        done.set()
        reader.join()
    whole = b"".join(lines)
    assert all(whole.startswith(content) for content in seen)
    assert len({len(content) for content in seen}) > 2
    assert logged(folder) == whole


# Everywhere: the place itself


def test_a_place_that_can_be_written_is_left_as_it_was(folder):
    assert folder.is_writable()
    assert not folder.exists()
    folder.write("shards/x.bin", b"x")
    assert folder.is_writable()
    assert all_names(folder) == ["shards/x.bin"]


def test_a_pickled_folder_is_the_same_folder(folder):
    folder.write("run.json", b"{}")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.location == folder.location
    assert repr(copy) == repr(folder) == f"{type(folder).__name__}({folder.location!r})"
    assert copy.read("run.json") == b"{}"


def test_a_forked_process_reads_and_writes(folder):
    folder.write("shards/x.bin", b"x" * 1000)
    folder.local("shards/x.bin")
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work():
        copy = folder.local("shards/x.bin")
        folder.write("shards/y.bin", copy.read_bytes())
        sender.send(folder.sizes("shards"))

    child = forked(work)
    assert receiver.poll(60)
    assert receiver.recv() == {"x.bin": 1000, "y.bin": 1000}
    child.join(60)
    assert child.exitcode == 0
    assert folder.local("shards/x.bin").read_bytes() == b"x" * 1000
    if not folder.location.startswith("memory"):
        assert folder.read("shards/y.bin") == b"x" * 1000


def test_leftovers_are_those_of_writers_that_ended(folder):
    hidden = [f".{WRITER}-000003.safetensors", f".{OTHER}-000001.safetensors", ".actframe-0123", ".nfs0001"]
    for name in (*hidden, f"{WRITER}-000002.safetensors"):
        folder.write(f"shards/{name}", b"half")
    folder.write("ledger/.actframe-4567", b"half")
    asked = []

    def alive(writer):
        asked.append(writer)
        return writer == OTHER

    assert folder.discard_leftovers(alive) == [f"shards/.{WRITER}-000003.safetensors"]
    assert set(asked) == {WRITER, OTHER}
    assert all_names(folder) == sorted(
        ["ledger/.actframe-4567", *(f"shards/{name}" for name in (*hidden[1:], f"{WRITER}-000002.safetensors"))]
    )


def test_temporary_files_are_leftovers_after_a_day(folder, monkeypatch):
    for name in (".actframe-01", "shards/.actframe-02", "shards/x.bin", "ledger/.actframe-03", "shards/.nfs0001"):
        folder.write(name, b"half")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 23 * 3600)
    assert folder.discard_leftovers(lambda writer: True) == []
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert folder.discard_leftovers(lambda writer: True) == [
        ".actframe-01",
        "ledger/.actframe-03",
        "shards/.actframe-02",
    ]
    assert all_names(folder) == ["shards/.nfs0001", "shards/x.bin"]


# Which folder a path means


def test_a_path_is_a_folder_on_a_disk_wherever_the_process_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/first", Path("runs/first"), f"file://{tmp_path}/runs/first", "file://runs/first"):
        folder = store_folder(path)
        assert type(folder) is LocalFolder
        assert folder.location == str(tmp_path / "runs" / "first")
    monkeypatch.chdir("/")
    folder.write("run.json", b"{}")
    assert (tmp_path / "runs" / "first" / "run.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "spelling", ["memory://one/two", "memory:///one/two", "memory://one/two/", "memory:////one/two//"]
)
def test_a_url_in_memory_has_many_spellings(spelling):
    folder = store_folder(spelling)
    assert folder.location == "memory://one/two"
    folder.write("run.json", spelling.encode())
    assert store_folder("memory://one/two").read("run.json") == spelling.encode()


def test_a_url_of_s3_has_two(s3_url):
    store_folder(f"{s3_url}/one/").write("run.json", b"{}")
    folder = store_folder(s3_url.replace("s3://", "s3a://") + "/one")
    assert folder.location == f"{s3_url}/one"
    assert folder.read("run.json") == b"{}"


def test_a_bucket_itself_is_a_folder(s3_url):
    folder = store_folder(s3_url)
    folder.write("shards/x.bin", b"x")
    assert folder.sizes("shards") == {"x.bin": 1}
    assert "shards" in folder.folders()


@pytest.mark.parametrize("url", ["s3://", "memory://", "memory:///"])
def test_a_url_of_nothing_is_refused(url):
    with pytest.raises(StorageError, match="cannot open .*names no folder"):
        store_folder(url)


@pytest.mark.parametrize("path", [Path("s3://bucket/run"), "s3:/bucket/run"])
def test_a_url_that_was_made_a_path_is_refused(path):
    with pytest.raises(StorageError, match="cannot open s3:/bucket/run: a URL is given as a string.*'s3://bucket/run'"):
        store_folder(path)


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(
        StorageError, match="cannot open memry://x: there is no protocol 'memry' .did you mean 'memory'"
    ):
        store_folder("memry://x")


def test_a_package_that_is_missing_is_named_with_how_to_get_it():
    script = """
import sys
sys.modules["s3fs"] = sys.modules["gcsfs"] = None
from actframe.storage.folders import store_folder
for url in ("s3://bucket/run", "gs://bucket/run"):
    try:
        store_folder(url)
    except OSError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "cannot open s3://bucket/run: a package is missing that s3:// takes: pip install 'actframe[s3]'"
    assert "cannot open gs://bucket/run" in second
    assert "gcsfs" in second


def test_a_store_on_a_disk_takes_neither_torch_nor_fsspec():
    script = """
import sys
from actframe.storage.folders import store_folder
store_folder("x").exists()
print([name for name in ("torch", "numpy", "fsspec") if name in sys.modules])
store_folder("memory://x").exists()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_a_password_is_not_shown():
    assert remote_files.without_password("sftp://me:secret@host/run") == "sftp://me:***@host/run"
    assert remote_files.without_password("sftp://me@host/run:1@2") == "sftp://me@host/run:1@2"
    with pytest.raises(StorageError) as caught:
        store_folder("nowhere://me:secret@host/run")
    assert "secret" not in str(caught.value)


# On a disk


def test_a_shard_is_made_where_it_will_be(disk):
    assert disk.workspace() == disk.path / "shards"
    assert (disk.path / "shards").is_dir()
    path = in_workspace(disk, b"x")
    inode = path.stat().st_ino
    disk.publish(path, "shards/x.bin")
    assert disk.local("shards/x.bin") == disk.path / "shards" / "x.bin"
    assert (disk.path / "shards" / "x.bin").stat().st_ino == inode


def test_what_was_written_is_on_disk_before_its_name_and_its_name_before_the_return(disk, monkeypatch):
    disk.write("ledger/first", b"")
    events = []
    fsync = os.fsync

    def record(kind, action):
        def recorded(*arguments, **options):
            events.append(kind)
            return action(*arguments, **options)

        return recorded

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_fsync)
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, record("name", getattr(os, name)))

    def events_of(action):
        events.clear()
        result = action()
        return result, list(events)

    path = in_workspace(disk, b"x")
    assert events_of(lambda: disk.write("ledger/x", b"x"))[1] == ["file", "name", "folder"]
    assert events_of(lambda: disk.create("ledger/y", b"x"))[1] == ["file", "name", "folder"]
    assert events_of(lambda: disk.publish(path, "shards/x.bin"))[1] == ["file", "name", "folder"]
    assert events_of(lambda: disk.move("ledger/x", "ledger/z"))[1] == ["name", "folder"]
    log, done = events_of(lambda: disk.open_log("ledger/w.jsonl"))
    assert done == ["name", "folder"]
    assert events_of(lambda: log.append(b"x"))[1] == ["file"]
    log.close()
    # The folder in which a new folder is, too.
    assert events_of(lambda: disk.write("results/x", b"x"))[1] == ["folder", "file", "name", "folder"]


def test_the_free_space_is_that_of_the_disk_it_will_be_on(disk, tmp_path):
    assert not disk.exists()
    free = os.statvfs(tmp_path)
    assert disk.free_bytes() == pytest.approx(free.f_bavail * free.f_frsize, rel=0.1)
    assert store_folder("memory://x").free_bytes() is None


def test_what_is_no_file_is_not_read(disk):
    disk.write("shards/x.bin", b"x")
    os.mkfifo(disk.path / "shards" / "pipe")
    assert disk.sizes("shards") == {"x.bin": 1}
    for action in (disk.read, disk.local, disk.adopt_log):
        with pytest.raises(StorageError, match="shards/pipe: it is no ordinary file"):
            action("shards/pipe")


def test_a_shard_may_be_a_link(disk, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"0123")
    disk.workspace().joinpath("x.bin").symlink_to(tmp_path / "elsewhere")
    assert disk.sizes("shards") == {"x.bin": 4}
    assert disk.read("shards/x.bin", 1, 3) == b"12"


def test_a_file_where_the_store_should_be_is_there_and_is_no_folder(tmp_path):
    (tmp_path / "store").write_bytes(b"")
    folder = store_folder(tmp_path / "store")
    assert folder.exists()
    assert not folder.is_writable()
    for action in (folder.folders, lambda: folder.sizes("shards"), lambda: folder.write("run.json", b"")):
        with pytest.raises(StorageError, match=f"{tmp_path}/store.*: Not a directory|{tmp_path}/store.*: File exists"):
            action()


def test_new_files_have_the_permissions_of_any_new_file(disk):
    before = os.umask(0o027)
    try:
        disk.write("results.json", b"")
        disk.create("run.json", b"")
        disk.open_log("ledger/w.jsonl").close()
    finally:
        os.umask(before)
    for name in ("results.json", "run.json", "ledger/w.jsonl"):
        assert stat.S_IMODE((disk.path / name).stat().st_mode) == 0o640


@pytest.fixture
def closed_store():
    """A store that may be read and not written, also where tests run as root, who may write anywhere."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    folder = LocalFolder(path)
    folder.write("shards/x.bin", b"x")
    folder.open_log("ledger/w.jsonl").close()
    is_root = os.geteuid() == 0
    everything = [path, *path.rglob("*")]
    for each in everything:
        each.chmod(0o555 if each.is_dir() else 0o444)
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    for each in everything:
        each.chmod(0o755)
    shutil.rmtree(path)


def test_a_store_that_may_not_be_written_is_read(closed_store):
    assert closed_store.exists()
    assert not closed_store.is_writable()
    assert closed_store.sizes("shards") == {"x.bin": 1}
    assert closed_store.read("shards/x.bin") == b"x"
    assert closed_store.local("shards/x.bin").read_bytes() == b"x"


@pytest.mark.parametrize(
    "action",
    [
        lambda folder: folder.write("results.json", b""),
        lambda folder: folder.create("run.json", b""),
        lambda folder: folder.open_log("ledger/new.jsonl"),
        lambda folder: folder.adopt_log("ledger/w.jsonl"),
        lambda folder: folder.move("shards/x.bin", "quarantine/x.bin"),
        lambda folder: folder.remove("shards/x.bin"),
    ],
)
def test_a_store_that_may_not_be_written_says_so(closed_store, action):
    with pytest.raises(StorageError, match=f"{closed_store.location}/.*: Permission denied") as caught:
        action(closed_store)
    assert caught.value.errno == errno.EACCES
    assert closed_store.read("shards/x.bin") == b"x"


def test_one_folder_of_a_store_that_may_not_be_written_is_enough():
    path = Path(tempfile.mkdtemp())
    folder = LocalFolder(path)
    folder.write("shards/x.bin", b"x")
    path.chmod(0o777)
    is_root = os.geteuid() == 0
    (path / "shards").chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        assert not folder.is_writable()
    finally:
        if is_root:
            os.seteuid(0)
        (path / "shards").chmod(0o755)
        shutil.rmtree(path)


@pytest.fixture
def small_disk(tmp_path):
    """A store on a file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield LocalFolder(path / "store")
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_leaves_everything_as_it_was(small_disk):
    small_disk.write("results.json", b"first")
    path = in_workspace(small_disk, b"x" * 600_000)
    with small_disk.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")
        before = all_names(small_disk)
        for action in (
            lambda: small_disk.write("results.json", b"x" * 600_000),
            lambda: small_disk.create("run.json", b"x" * 600_000),
            lambda: log.append(b"y" * 600_000),
        ):
            with pytest.raises(StorageError, match=f"cannot write {small_disk.location}/.*: No space left") as caught:
                action()
            assert caught.value.errno == errno.ENOSPC
        assert all_names(small_disk) == before
        assert small_disk.read("results.json") == b"first"
        assert logged(small_disk) == b"one\n"
        small_disk.publish(path, "shards/x.bin")
        log.append(b"two\n")
        assert log.size == 8
        assert logged(small_disk) == b"one\ntwo\n"


@pytest.fixture
def limited_files():
    """Writing beyond 300 kB is an error, as where a quota is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_an_append_that_is_cut_short_is_undone(disk, limited_files):
    with disk.open_log("ledger/w.jsonl") as log:
        log.append(b"x" * 200_000)
        with pytest.raises(StorageError, match="w.jsonl: File too large"):
            log.append(b"y" * 200_000)
        log.append(b"z")
    assert logged(disk) == b"x" * 200_000 + b"z"


def test_a_log_whose_end_cannot_be_mended_takes_no_more_until_it_can(disk, monkeypatch):
    with disk.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")

        def fail(descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StorageError, match="w.jsonl: Input/output error"):
                log.append(b"two\n")
            with pytest.raises(StorageError, match="w.jsonl: Input/output error"):
                log.append(b"three\n")
        log.append(b"four\n")
    assert logged(disk) == b"one\nfour\n"


# On a disk: locks


def test_a_log_of_a_writer_that_ended_is_adopted_by_one(disk):
    with disk.open_log("ledger/w.jsonl") as log:
        log.append(b"one\ntw")
    with disk.adopt_log("ledger/w.jsonl") as log:
        assert disk.adopt_log("ledger/w.jsonl") is None
        assert log.size == 6
        log.truncate(4)
        assert log.size == 4
        log.append(b"two\n")
    assert logged(disk) == b"one\ntwo\n"
    with disk.adopt_log("ledger/w.jsonl"):
        pass


def test_of_many_that_adopt_a_log_at_once_one_does(disk):
    disk.open_log("ledger/w.jsonl").close()
    folders = [LocalFolder(disk.path) for _ in range(8)]
    logs = at_once(8, lambda number: folders[number].adopt_log("ledger/w.jsonl"))
    (log,) = [log for log in logs if log]
    log.close()


WRITING = """
import sys, time
from actframe.storage.folders import LocalFolder
log = LocalFolder(sys.argv[1]).open_log("ledger/w.jsonl")
log.append(b"one\\n")
print("ready", flush=True)
time.sleep(100)
"""


def test_the_log_of_another_process_is_adopted_when_that_is_killed(disk):
    with subprocess.Popen([sys.executable, "-c", WRITING, disk.location], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        assert disk.adopt_log("ledger/w.jsonl") is None
        writer.kill()
    with disk.adopt_log("ledger/w.jsonl") as log:
        log.append(b"two\n")
    assert logged(disk) == b"one\ntwo\n"


def test_a_forked_process_does_not_keep_the_lock_of_one_that_was_killed(disk):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    ended = multiprocessing.Event()

    def write():
        log = disk.open_log("ledger/w.jsonl")
        log.append(b"one\n")
        child = os.fork()
        if not child:
            try:
                log.append(b"from the child\n")
            except StorageError as error:
                sender.send(str(error))
            ended.wait(60)
            os._exit(0)
        time.sleep(100)

    writer = forked(write)
    assert receiver.poll(60)
    assert "forked" in receiver.recv()
    assert disk.adopt_log("ledger/w.jsonl") is None
    writer.kill()
    for _ in range(1000):
        log = disk.adopt_log("ledger/w.jsonl")
        if log:
            break
        time.sleep(0.01)
    assert not ended.is_set()
    ended.set()
    writer.join(60)
    log.close()
    assert logged(disk) == b"one\n"


def test_a_log_is_locked_as_soon_as_it_has_its_name(disk):
    adopted, done = [], threading.Event()

    def adopt():
        while not done.is_set():
            for name in disk.sizes("ledger"):
                adopted.append(disk.adopt_log(f"ledger/{name}"))

    thread = threading.Thread(target=adopt)
    thread.start()
    logs = [disk.open_log(f"ledger/w{number}.jsonl") for number in range(100)]
    done.set()
    thread.join()
    assert adopted
    assert set(adopted) == {None}
    for log in logs:
        log.close()


def test_a_log_that_was_replaced_before_it_was_locked_is_not_adopted(disk, monkeypatch):
    disk.open_log("ledger/w.jsonl").close()
    flock = fcntl.flock

    def replace_and_lock(descriptor, operation):
        (disk.path / "ledger" / "w.jsonl").unlink()
        (disk.path / "ledger" / "w.jsonl").write_bytes(b"another's")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    assert disk.adopt_log("ledger/w.jsonl") is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_logs_are_written_and_none_is_adopted(disk, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with disk.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")
    assert disk.adopt_log("ledger/w.jsonl") is None
    assert logged(disk) == b"one\n"


def test_where_there_are_no_links_names_are_still_given_once(disk, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    results = at_once(8, lambda number: disk.create("run.json", b"by %d" % number))
    assert sorted(results) == [False] * 7 + [True]
    assert disk.read("run.json") == b"by %d" % results.index(True)
    path = in_workspace(disk, b"x")
    disk.publish(path, "shards/x.bin")
    path = in_workspace(disk, b"second")
    with pytest.raises(StorageError, match="shards/x.bin: File exists"):
        disk.publish(path, "shards/x.bin")
    assert disk.read("shards/x.bin") == b"x"
    with disk.open_log("ledger/w.jsonl"):
        assert disk.adopt_log("ledger/w.jsonl") is None
        with pytest.raises(StorageError, match="File exists"):
            disk.open_log("ledger/w.jsonl")


def test_a_link_whose_answer_was_lost_counts(disk, monkeypatch):
    link = os.link

    def link_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert disk.create("run.json", b"{}")
    assert not disk.create("run.json", b"{}")
    assert all_names(disk) == ["run.json"]


CREATING = """
import sys
from actframe.storage.folders import LocalFolder
folder = LocalFolder(sys.argv[1])
sys.stdin.readline()
print(folder.create("run.json", sys.argv[2].encode()))
"""


def test_of_many_processes_that_create_a_file_one_does(disk):
    command = [sys.executable, "-c", CREATING, disk.location]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in range(6)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate()[0].strip() for process in processes]
    assert sorted(results) == ["False"] * 5 + ["True"]
    assert disk.read("run.json") == str(results.index("True")).encode()


# Behind a URL


@pytest.mark.parametrize("place", PLACES[1:])
def test_a_log_behind_a_url_is_in_parts(location, place, monkeypatch):
    monkeypatch.setattr(remote, "PART_BYTES", 100)
    folder = store_folder(location)
    with folder.open_log("ledger/w.jsonl") as log:
        for number in range(12):
            log.append(b"%04d\n" % number * 6)
        assert log.size == 360
    expected = [30] * 12 if place == "plain" else [120, 120, 120]
    assert folder.sizes("ledger") == {f"w-{part:04d}.jsonl": size for part, size in enumerate(expected, 1)}
    assert logged(folder) == b"".join(b"%04d\n" % number * 6 for number in range(12))


def test_a_part_of_a_log_has_8_mib_and_the_rest_of_an_append():
    folder = store_folder(f"memory://{secrets.token_hex(4)}")
    with folder.open_log("ledger/w.jsonl") as log:
        for size in (8 * 1024**2, 1, 1, 9 * 1024**2, 5):
            log.append(b"x" * size)
    assert folder.sizes("ledger") == {
        "w-0001.jsonl": 8 * 1024**2 + 1,
        "w-0002.jsonl": 9 * 1024**2 + 1,
        "w-0003.jsonl": 5,
    }


def test_an_append_that_failed_is_not_in_the_next(s3_url, monkeypatch):
    folder = store_folder(f"{s3_url}/{secrets.token_hex(4)}")
    with folder.open_log("ledger/w.jsonl") as log:
        log.append(b"one\n")
        with refusing(), pytest.raises(StorageError, match=f"cannot write {folder.location}/ledger/w-0001.jsonl: "):
            log.append(b"two\n")
        assert log.size == 4
        log.append(b"three\n")
        assert log.size == 10
    assert logged(folder) == b"one\nthree\n"


class refusing:  # noqa: N801
    """As long as it is entered, the S3 server refuses what is asked of it, since it knows no user."""

    def __enter__(self):
        self.reset("0")

    def __exit__(self, *details):
        self.reset("inf")

    def reset(self, count):
        url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count.encode(), headers)).close()


def test_refused_credentials_are_an_error_and_not_an_empty_store(s3_url):
    folder = store_folder(f"{s3_url}/{secrets.token_hex(4)}")
    folder.write("shards/x.bin", b"x")
    path = in_workspace(folder, b"y")
    with refusing():
        assert not folder.is_writable()
        for action in (
            folder.exists,
            folder.folders,
            lambda: folder.sizes("shards"),
            lambda: folder.read("shards/x.bin"),
            lambda: folder.local("shards/x.bin"),
            lambda: folder.create("run.json", b""),
            lambda: folder.publish(path, "shards/y.bin"),
            lambda: folder.open_log("ledger/w.jsonl"),
            lambda: folder.discard_leftovers(lambda writer: False),
        ):
            with pytest.raises(StorageError, match=f"{folder.location}.*: .*(AWS Access Key|Forbidden)") as caught:
                action()
            assert caught.value.errno == errno.EACCES
    assert path.read_bytes() == b"y"
    folder.publish(path, "shards/y.bin")
    assert folder.sizes("shards") == {"x.bin": 1, "y.bin": 1}


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(s3_url):
    folder = store_folder(f"s3://nowhere-{secrets.token_hex(4)}/run")
    path = in_workspace(folder, b"x")
    assert not folder.is_writable()
    for action in (
        folder.exists,
        lambda: folder.sizes("ledger"),
        lambda: folder.write("run.json", b""),
        lambda: folder.create("run.json", b""),
        lambda: folder.publish(path, "shards/x.bin"),
    ):
        with pytest.raises(StorageError, match=f"{folder.location}.*: The specified bucket does not exist"):
            action()
    assert path.exists()


@pytest.fixture
def fresh_s3(s3_url):
    """S3 file systems that are made anew, with the environment as it is then."""
    instances = fsspec.get_filesystem_class("s3")
    instances.clear_instance_cache()
    yield s3_url
    instances.clear_instance_cache()


def test_a_server_that_does_not_answer_is_an_error(fresh_s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = store_folder(f"{fresh_s3}/run")
    with pytest.raises(StorageError, match=f"cannot look for {folder.location}: .*Could not connect to .*127.0.0.1:1/"):
        folder.exists()


def test_having_no_credentials_is_an_error(fresh_s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    folder = store_folder(f"{fresh_s3}/run")
    with pytest.raises(StorageError, match=f"cannot look for {folder.location}: .*Unable to locate credentials"):
        folder.exists()


@pytest.mark.parametrize("place", PLACES[1:])
def test_what_was_fetched_is_not_fetched_again_until_it_changes(location):
    folder, other = store_folder(location), store_folder(location)
    folder.write("shards/x.bin", b"first")
    path = folder.local("shards/x.bin")
    inode = path.stat().st_ino
    assert folder.local("shards/x.bin") == path
    assert path.stat().st_ino == inode
    other.write("shards/x.bin", b"other")
    assert folder.local("shards/x.bin").read_bytes() == b"other"
    path.unlink()
    assert folder.local("shards/x.bin").read_bytes() == b"other"


@pytest.mark.parametrize("place", PLACES[1:])
def test_what_a_forked_process_deletes_is_still_there_for_this_one(folder):
    folder.write("shards/x.bin", b"x")
    path = folder.local("shards/x.bin")
    child = forked(lambda: folder.remove("shards/x.bin"))
    child.join(60)
    assert child.exitcode == 0
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("end", ["", "del folder; print(all(path.exists() for path in paths)); paths = []"])
def test_local_copies_are_gone_when_the_process_ends(tmp_path, end):
    script = f"""
import os, sys
from actframe.storage.folders import store_folder
folder = store_folder("memory://x/y")
folder.write("shards/x.bin", b"x")
paths = [folder.local("shards/x.bin"), folder.workspace() / ".half"]
paths[1].write_bytes(b"x")
for end in (os._exit, sys.exit):
    child = os.fork()
    if not child:
        folder.local("shards/x.bin")
        end(0)
    assert os.waitpid(child, 0)[1] == 0
print(all(path.exists() for path in paths))
{end}
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"] if end else ["True"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", PLACES[1:])
def test_local_copies_are_for_the_user_alone(location):
    folder = store_folder(location)
    folder.write("shards/x.bin", b"x")
    path = folder.local("shards/x.bin")
    above = [parent for parent in path.parents if parent.name.startswith("actframe-")]
    assert stat.S_IMODE(above[0].stat().st_mode) == 0o700
