"""Saving and loading records: names, atomicity, and every error with the file it is about."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from actframe import registry as registry_module
from actframe.errors import (
    ActframeError,
    FormatError,
    PluginError,
    SiteError,
    StorageError,
    UnknownNameError,
    UnsafeFileError,
)
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.record import ActivationRecord
from actframe.registry import Plugin, Registry
from actframe.storage import files
from actframe.storage.base import StorageBackend
from actframe.storage.files import (
    backend_for,
    backend_named,
    check_can_save,
    load_activations,
    load_record,
    read_bundle,
    save_activations,
    write_bundle,
)
from actframe.testing import assert_same, random_tensor
from actframe.testing.bundles import METADATA

SUFFIXES = [".pkl", ".safetensors", ".safetensors.zst"]
SITES = ["embeddings", *(f"layer_{index}" for index in range(11)), "layer_0.mlp_out"]


@pytest.fixture
def record():
    return ActivationRecord(
        {
            "prompt": "What is the capital of France?",
            "response": "Paris.",
            "model": "smollm2",
            "timestamp": "2024-09-15T14:30:22+00:00",
            "input_ids": [1, 2, 3],
            "activations": {site: random_tensor(torch.bfloat16, 5, 8, seed=len(site)) for site in SITES},
            "positions": [0, 1, 2, 3, 4],
            "site_positions": {"layer_0.mlp_out": [1, 2, 3, 4, 5], "layer_3": [0, 1, 2, 3, 4]},
            "sites": SITES,
        }
    )


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"record{request.param}"


def leftovers(folder):
    return sorted(file.name for file in folder.iterdir() if file.name.startswith(".actframe-"))


# Saving and loading


def test_a_record_is_loaded_as_it_was_saved(path, record):
    assert save_activations(record, path) == path
    found = load_activations(path)
    assert type(found) is dict
    assert type(found["activations"]) is dict
    assert found.keys() == record.keys()
    for key in found.keys() - {"activations"}:
        assert found[key] == record[key]
    assert list(found["activations"]) == SITES
    for site in SITES:
        assert_same(found["activations"][site], record.activations[site])


def test_what_was_loaded_can_be_saved_again_in_another_format(tmp_path, record):
    first = load_activations(save_activations(record, tmp_path / "a.pkl"))
    second = load_activations(save_activations(first, tmp_path / "b.safetensors.zst"))
    assert_same(second["activations"]["layer_3"], record.activations["layer_3"])
    assert second["sites"] == SITES


def test_paths_may_be_strings(tmp_path, record):
    path = f"{tmp_path}/record.safetensors"
    assert save_activations(record, path) == Path(path)
    assert load_activations(path)["prompt"] == record.prompt


def test_a_record_is_loaded_lazily(path, record):
    save_activations(record, path)
    found = load_record(path)
    assert isinstance(found, ActivationRecord)
    assert isinstance(found.activations, LazyTensors)
    assert_same(found.activations["layer_10"], record.activations["layer_10"])


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("layer_3", ["layer_3"]),
        (["layer_3", "embeddings"], ["embeddings", "layer_3"]),
        ("layer_*", [f"layer_{index}" for index in range(11)]),
        (["layer_1?", "*.mlp_out"], ["layer_10", "layer_0.mlp_out"]),
        ("resid_post.4", ["layer_4"]),
        (["hidden_states[0]", "mlp_out.0"], ["embeddings", "layer_0.mlp_out"]),
        (2, ["layer_2"]),
        ([-1, 0], ["layer_0", "layer_10"]),
        ([], []),
    ],
)
def test_sites_are_chosen_by_name_alias_pattern_or_layer(path, record, sites, expected):
    save_activations(record, path)
    assert list(load_activations(path, sites)["activations"]) == expected
    assert list(load_record(path, sites).activations) == expected


def test_a_record_of_some_sites_says_only_of_these_what_it_has(path, record):
    save_activations(record, path)
    found = load_activations(path, ["layer_3", "embeddings"])
    assert found["sites"] == ["embeddings", "layer_3"]
    assert found["site_positions"] == {"layer_3": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (
            "layer_33",
            r"holds no site 'layer_33' \(did you mean 'layer_3'\?\); it holds embeddings, layer_0 .. layer_10, layer_0",
        ),
        ("mlp_*", r"holds no site 'mlp_\*'"),
        (11, "holds no layer 11; it holds"),
        (-12, "holds no layer -12"),
    ],
)
def test_a_site_that_the_file_lacks_is_an_error_with_those_it_has(path, record, site, message):
    save_activations(record, path)
    with pytest.raises(SiteError, match=message) as caught:
        load_activations(path, ["embeddings", site])
    assert str(caught.value).startswith(str(path))


def test_a_layer_between_the_recorded_ones_is_an_error(tmp_path, record):
    few = record.replace(activations={"layer_0": torch.ones(1), "layer_5": torch.ones(1)})
    save_activations(few, tmp_path / "few.pkl")
    with pytest.raises(SiteError, match="holds no layer 3; it holds layer_0 .. layer_5"):
        load_activations(tmp_path / "few.pkl", 3)


def test_an_unknown_format_is_refused_with_the_file(path):
    write_bundle(Bundle({}, {"format": "record/9"}), path)
    with pytest.raises(FormatError, match=r"cannot read .*record\.\S+: its format is 'record/9'"):
        load_activations(path)


def test_metadata_survives_every_format(path):
    write_bundle(Bundle({}, METADATA), path)
    assert read_bundle(path).metadata == METADATA


def test_tuples_and_subclasses_come_back_alike_from_every_format(path):
    write_bundle(Bundle({}, {"pair": (1, 2), "flag": True}), path)
    assert read_bundle(path).metadata == {"pair": [1, 2], "flag": True}


# Backends


def test_backends_are_found_by_suffix_in_any_case_and_by_name():
    assert backend_for("a/b.safetensors").name == "safetensors"
    assert backend_for("a/b.SafeTensors.ZST").name == "zstd"
    assert backend_for(Path("b.pkl")).name == "pickle"
    assert backend_named("zstd").suffix == ".safetensors.zst"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "x.safetensor",
            r"ending in '.safetensor' \(did you mean '.safetensors'\?\), as in 'x.safetensor'; installed: .*\.pkl",
        ),
        ("activations", r"files without a suffix, as in 'activations'; installed: .*\.pkl"),
        (".pkl.gz", "files ending in '.gz'"),
    ],
)
def test_an_unknown_suffix_is_an_error_with_the_known_ones(tmp_path, record, name, message):
    with pytest.raises(UnknownNameError, match=message):
        save_activations(record, tmp_path / name)


def test_an_unknown_backend_is_an_error_with_the_known_ones():
    with pytest.raises(
        UnknownNameError, match="no storage backend named 'zipn'; installed: .*pickle, .*safetensors, .*zstd"
    ):
        backend_named("zipn")


class Misbehaving(StorageBackend):
    """A third party's backend; tests replace its methods."""

    name = "misbehaving"
    suffix = ".bad"

    def write(self, path, bundle):
        path.write_bytes(b"content")

    def read(self, path, names=None):
        return Bundle({"layer_0": torch.ones(1)})


@pytest.fixture
def third_party(monkeypatch):
    """Registers backends as those of the plugin `their-plugin`."""
    registry = Registry([])
    registry.plugins()
    monkeypatch.setattr("actframe.storage.backends.registry", lambda: registry)

    def add(*extensions, name="their-plugin"):
        plugin = Plugin(name, f"{name}-distribution", "1.2", extensions=list(extensions))
        registry._plugins[name] = plugin
        return plugin

    return add


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyError("x"), MemoryError(), AssertionError(), RecursionError("deep")]
)
def test_whatever_a_third_partys_backend_raises_names_it_its_plugin_and_the_file(
    tmp_path, third_party, monkeypatch, error
):
    third_party(Misbehaving)

    def fail(*_):
        raise error

    path = tmp_path / "x.bad"
    monkeypatch.setattr(Misbehaving, "write", fail)
    who = r"\(storage backend 'misbehaving' of plugin 'their-plugin' \(their-plugin-distribution 1.2\)\)"
    with pytest.raises(
        StorageError, match=rf"cannot save to {path} {who}: {type(error).__name__}.*untouched"
    ) as caught:
        write_bundle(Bundle({}), path)
    assert caught.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []

    path.write_bytes(b"content")
    monkeypatch.setattr(Misbehaving, "read", fail)
    with pytest.raises(StorageError, match=rf"cannot read {path} {who}: {type(error).__name__}"):
        read_bundle(path)

    monkeypatch.setattr(Misbehaving, "read", lambda *_: Bundle(LazyTensors(["layer_0"], fail)))
    with pytest.raises(StorageError, match=rf"cannot read 'layer_0' of {path} {who}: {type(error).__name__}"):
        load_activations(path)


def test_a_backend_that_gives_no_bundle_is_named(tmp_path, third_party, monkeypatch):
    third_party(Misbehaving)
    monkeypatch.setattr(Misbehaving, "read", lambda *_: {"layer_0": torch.ones(1)})
    (tmp_path / "x.bad").write_bytes(b"content")
    with pytest.raises(StorageError, match="'misbehaving' of plugin.*gave dict where a Bundle was expected"):
        read_bundle(tmp_path / "x.bad")


def test_a_backend_that_ignores_names_reads_no_other_sites(tmp_path, third_party):
    third_party(Misbehaving)
    (tmp_path / "x.bad").write_bytes(b"content")
    with pytest.raises(SiteError, match="holds no site 'layer_1'.*; it holds layer_0"):
        load_activations(tmp_path / "x.bad", "layer_1")


def test_the_longest_suffix_wins(third_party):
    longer = type("Longer", (Misbehaving,), {"name": "longer", "suffix": ".very.bad"})
    third_party(Misbehaving, longer)
    assert backend_for("x.bad").name == "misbehaving"
    assert backend_for("x.very.bad").name == "longer"


def test_a_suffix_that_two_plugins_claim_is_an_error_that_names_both(third_party):
    third_party(Misbehaving)
    third_party(type("Other", (Misbehaving,), {"name": "other"}), name="other-plugin")
    with pytest.raises(PluginError, match=r"ending in .bad are claimed by .*'their-plugin'.* and .*'other-plugin'"):
        backend_for("x.bad")


def test_a_plugin_cannot_take_over_a_suffix_of_ours(third_party):
    third_party(type("Shadow", (Misbehaving,), {"name": "shadow", "suffix": ".pkl"}))
    assert backend_for("x.pkl").name == "pickle"


def test_plugins_that_failed_are_named_where_a_suffix_is_missing(third_party):
    third_party().errors["import"] = ImportError("No module named 'zipnn'")
    with pytest.raises(UnknownNameError, match="Plugin 'their-plugin' failed to load: No module named 'zipnn'"):
        backend_for("x.zipnn")


def test_the_registry_of_the_process_is_the_one_that_is_asked():
    assert files.backend_named.__globals__["registry"] is registry_module.registry


# What cannot be saved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": {"layer_0": [1.0]}}, "'layer_0' is of type list, not a torch.Tensor"),
        ({"activations": {3: torch.ones(1)}}, "have the key 3; sites are strings, such as 'layer_3'"),
        (
            {"activations": {"layer_0": torch.eye(3).to_sparse()}},
            "'layer_0' is a torch.sparse_coo tensor; only plain dense",
        ),
        ({"activations": {"layer_0": torch.ones(1, device="meta")}}, "'layer_0' is a meta tensor"),
        ({"note": torch.ones(1)}, r"metadata\['note'\] is of type torch.Tensor"),
    ],
)
def test_a_record_that_cannot_be_saved_is_refused_and_leaves_no_file(path, record, changes, message):
    with pytest.raises(StorageError, match=message):
        save_activations(record.replace(**changes), path)
    assert not path.exists()
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("save", [check_can_save, lambda path: write_bundle(Bundle({}), path)], ids=["check", "write"])
@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda folder: None, "missing/x.pkl", r"the folder \S+missing does not exist; create it first"),
        (lambda folder: (folder / "file").write_text(""), "file/x.pkl", r"\S+file is not a folder"),
        (lambda folder: (folder / "x.pkl").mkdir(), "x.pkl", "it is a folder, not a file"),
        (lambda folder: os.mkfifo(folder / "x.pkl"), "x.pkl", "it is a named pipe, not a file"),
        (lambda folder: (folder / "x.pkl").symlink_to("/dev/null"), "x.pkl", "it is a device, not a file"),
        (lambda folder: None, "x" * 300 + ".pkl", "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, save, make, name, message):
    make(tmp_path)
    with pytest.raises(StorageError, match=message) as caught:
        save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.fixture
def closed_folder():
    """A folder that may not be written, also where tests run as root, who may write anywhere."""
    backend_for("x.pkl")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.rmdir()


def test_a_folder_that_may_not_be_written_is_refused(closed_folder):
    path = closed_folder / "x.pkl"
    for save in (check_can_save, lambda path: write_bundle(Bundle({}), path)):
        with pytest.raises(StorageError, match=f"cannot save to {path}: Permission denied") as caught:
            save(path)
        assert caught.value.errno == errno.EACCES


def test_checking_a_path_writes_nothing(path):
    check_can_save(path)
    assert list(path.parent.iterdir()) == []


# Writing in one step


def test_the_old_file_stays_whole_until_the_new_one_is_complete(tmp_path, third_party, monkeypatch):
    third_party(Misbehaving)
    path = tmp_path / "x.bad"
    path.write_bytes(b"old")

    def write(self, temporary, bundle):
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".bad")
        assert temporary.read_bytes() == b""
        temporary.write_bytes(b"half of the new")
        assert path.read_bytes() == b"old"

    monkeypatch.setattr(Misbehaving, "write", write)
    write_bundle(Bundle({}), path)
    assert path.read_bytes() == b"half of the new"
    assert leftovers(tmp_path) == []


def test_the_file_reaches_the_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    path = tmp_path / "x.pkl"
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_bundle(Bundle({}), path)
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_old_file_and_no_other(tmp_path, third_party, monkeypatch, error):
    third_party(Misbehaving)
    path = tmp_path / "x.bad"
    path.write_bytes(b"old")

    def interrupt(self, temporary, bundle):
        temporary.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Misbehaving, "write", interrupt)
    with pytest.raises(error):
        write_bundle(Bundle({}), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path, record):
    path = tmp_path / "record.safetensors"
    save_activations(record, path)
    script = f"""
import os, signal
from actframe.records.bundle import Bundle
from actframe.storage import files
from actframe.storage.safetensors_ import SafetensorsBackend

def write(self, temporary, bundle):
    temporary.write_bytes(b"half of a file")
    os.kill(os.getpid(), signal.SIGKILL)

SafetensorsBackend.write = write
files.write_bundle(Bundle({{}}), {str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_activations(path)["prompt"] == record.prompt
    assert len(leftovers(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; where none can be mounted, None."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def limited_files():
    """Writing beyond 300 kB is an error, as where a quota is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_file(small_disk, record, suffix):
    if small_disk is None:
        pytest.skip("mounting a small file system takes root")
    path = small_disk / f"record{suffix}"
    save_activations(record, path)
    before = path.read_bytes()
    large = record.replace(activations={"layer_0": random_tensor(torch.float32, 1024, 1024)})
    with pytest.raises(
        StorageError, match=r"cannot save to \S+: No space left on device; what was there.*untouched"
    ) as caught:
        save_activations(large, path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(small_disk.iterdir()) == [path]


def test_a_file_that_may_not_grow_leaves_the_old_one(path, record, limited_files):
    save_activations(record, path)
    before = path.read_bytes()
    large = record.replace(activations={"layer_0": random_tensor(torch.float32, 1024, 1024)})
    with pytest.raises(StorageError, match="cannot save to .*: File too large; what was there before is untouched"):
        save_activations(large, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path, record):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "record.pkl", tmp_path / "link.pkl"
    link.symlink_to(target)
    save_activations(record, link)
    assert link.is_symlink()
    assert load_activations(target)["prompt"] == record.prompt


def test_a_new_file_has_the_permissions_of_any_new_file(path, record):
    before = os.umask(0o027)
    try:
        save_activations(record, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_readers_beside_a_writer_see_whole_records(path, record):
    save_activations(record, path)
    stop = threading.Event()
    problems = []

    def rewrite():
        for number in range(40):
            value = float(number)
            activations = {site: torch.full((5, 8), value) for site in SITES}
            save_activations(record.replace(activations=activations, prompt=value), path)
        stop.set()

    save_activations(record.replace(activations={"layer_0": torch.zeros(1)}, prompt=0.0), path)
    writer = threading.Thread(target=rewrite)
    writer.start()
    while not stop.is_set():
        try:
            found = load_activations(path)
            seen = {float(tensor.flatten()[0]) for tensor in found["activations"].values()}
            if seen != {found["prompt"]}:
                problems.append((found["prompt"], seen))
        except StorageError as error:
            if "changed or replaced after it was opened" not in str(error):
                problems.append(error)
    writer.join()
    assert problems == []


# What cannot be loaded


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "it is a folder, not a file"),
        (os.mkfifo, "it is a named pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b""), "it is empty: writing it was never finished"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, suffix, make, message):
    path = tmp_path / f"x{suffix}"
    make(path)
    with pytest.raises(StorageError, match=f"cannot read {path}: {message}"):
        load_activations(path)


def test_a_socket_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.pkl")
        with pytest.raises(StorageError, match="it is a socket, not a file"):
            load_activations("x.pkl")


def test_a_missing_file_is_an_error_with_the_nearest_name(tmp_path, record):
    save_activations(record, tmp_path / "question_12.pkl")
    with pytest.raises(StorageError, match=r"no such file \(did you mean 'question_12.pkl'\?\)") as caught:
        load_activations(tmp_path / "question_21.pkl")
    assert caught.value.errno == errno.ENOENT


def test_a_damaged_tensor_is_named_with_the_file(tmp_path, record):
    path = tmp_path / "record.safetensors.zst"
    save_activations(record.replace(activations={"layer_0": random_tensor(torch.float32, 64, 64)}), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"cannot read 'layer_0' of {path}: frame \d is damaged"):
        load_activations(path)


def test_an_attack_is_refused_with_the_file(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeFileError, match=rf"cannot read {path}: its pickle asks for 'os.system'") as caught:
        load_activations(path)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ActframeError)
