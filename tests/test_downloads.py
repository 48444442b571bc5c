"""Copies of remote files, of which the least recently used go first."""

import os
import threading

import pytest

from actframe.storage.downloads import Downloads, Scratch


@pytest.fixture
def fetched():
    return []


@pytest.fixture
def get(fetched):
    """Asks for `name`, of 100 bytes, where there is room for 300."""
    downloads = Downloads(Scratch(), limit_bytes=300)

    def get(name, version=1, size=100):
        def fetch(path):
            fetched.append(name)
            path.write_bytes(b"%d" % version * size)

        return downloads.get(name, version, size, fetch)

    get.downloads = downloads
    return get


def test_the_least_recently_used_go_first(get, fetched):
    paths = {name: get(name) for name in ("shards/a", "shards/b", "shards/c")}
    get("shards/a")
    assert fetched == ["shards/a", "shards/b", "shards/c"]
    get("shards/d")
    assert [path.exists() for path in paths.values()] == [True, False, True]
    get("shards/e", size=200)
    assert [path.exists() for path in paths.values()] == [False, False, False]
    assert get("shards/d").exists()


def test_one_that_is_larger_than_the_limit_is_kept_alone(get):
    others = [get("a"), get("b")]
    large = get("large", size=1000)
    assert large.stat().st_size == 1000
    assert not any(path.exists() for path in others)
    assert get("large") == large
    get("a")
    assert not large.exists()


def test_another_version_takes_the_place_of_a_copy(get, fetched):
    assert get("a", version=1).read_bytes() == b"1" * 100
    assert get("a", version=2).read_bytes() == b"2" * 100
    assert fetched == ["a", "a"]


def test_a_copy_that_someone_deleted_is_fetched_again(get, fetched):
    get("a").unlink()
    assert get("a").exists()
    assert fetched == ["a", "a"]


def test_a_forgotten_copy_is_deleted(get):
    path = get("a")
    get.downloads.forget("a")
    get.downloads.forget("never there")
    assert not path.exists()


def test_after_a_failed_fetch_nothing_is_kept(get):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError("the line is down")

    with pytest.raises(OSError, match="the line is down"):
        get.downloads.get("a", 1, 100, fail)
    path = get("a")
    assert path.read_bytes() == b"1" * 100


def test_threads_that_want_one_file_fetch_it_once_and_different_files_at_once(get):
    together = threading.Barrier(2, timeout=30)
    count = []

    def fetch(path):
        count.append(path)
        together.wait()
        path.write_bytes(b"x")

    threads = [threading.Thread(target=get.downloads.get, args=(name, 1, 1, fetch)) for name in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 2


def test_a_scratch_folder_is_deleted_with_its_object():
    scratch = Scratch()
    folder = scratch.folder("shards")
    (folder / "x").write_bytes(b"x")
    above = folder.parent.parent
    assert os.listdir(above) == [str(os.getpid())]
    del scratch
    assert not above.exists()
