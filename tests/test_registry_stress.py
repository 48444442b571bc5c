"""Plugins that are broken in every way that we know: each is named with its reason, and nothing else breaks."""

import importlib
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import redirect_stdout

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actframe import PluginError, StorageBackend, UnknownNameError
from actframe.distributions import find_entries
from actframe.registry import GROUP, Registry
from actframe.storage.zstd_ import ZstdBackend

INSTALLED = {entry.distribution for entry in find_entries(GROUP)}
"""What is there beside the plugins of these tests."""

BACKEND = """
from actframe import Bundle, StorageBackend, hookimpl

class Mine(StorageBackend):
    name = "{name}"
    suffix = ".{name}"
    def write(self, path, bundle): path.write_bytes(b"")
    def read(self, path, names=None): return Bundle({{}}, {{}})

@hookimpl
def extensions():
    return [Mine]
"""


def backend(name="mine", **replaced):
    """The source of a plugin with one backend, with parts of it replaced."""
    source = BACKEND.format(name=name)
    for old, new in replaced.values():
        assert old in source
        source = source.replace(old, new)
    return source


class Folder:
    """A folder on the path, into which distributions are installed by hand, and not always completely."""

    def __init__(self, path):
        self.path = path
        self.names = []

    def install(self, name, source=None, *, version="1.2", metadata=True, entry_points=None, info=None):
        """A distribution `actframe-<name>`; what is left out is what somebody removed."""
        module = f"actframe_{name}"
        self.names.append(f"actframe-{name}")
        if source is not None:
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        folder = self.path / (info or f"{module}-{version}.dist-info")
        folder.mkdir()
        if metadata is True:
            metadata = f"Metadata-Version: 2.1\nName: actframe-{name}\nVersion: {version}\n\nName: what it is about\n"
        if metadata:
            (folder / "METADATA").write_text(metadata)
        (folder / "entry_points.txt").write_bytes(entry_points or f"[actframe]\n{name} = {module}\n".encode())
        importlib.invalidate_caches()
        return folder

    def registry(self):
        return Registry(find_entries(GROUP, self.names))

    def environment(self):
        path = os.pathsep.join([str(self.path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "ACTFRAME_PLUGINS": ",".join(self.names), "COLUMNS": "80"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Folder(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("actframe_"):
            del sys.modules[name]


def problems_of(registry):
    """What is said of each plugin that something is said of; the built-in extensions must be there all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        plugins = registry.plugins()
    assert {"pickle", "safetensors", "zstd"} <= registry.installed(StorageBackend).keys()
    return {plugin.name: "; ".join(said) for plugin in plugins if (said := registry.problems(plugin))}


# Imports that fail


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def broken(:", "SyntaxError: invalid syntax (actframe_bad.py, line 1)"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("class Panic(BaseException): pass\nraise Panic('in Rust')", "Panic: in Rust"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("from actframe import NoSuchName", "ImportError: cannot import name 'NoSuchName' from 'actframe'"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("raise RuntimeError('one\\n   two')", "RuntimeError: one two"),
        (
            "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute",
            "Mute: its message cannot be read (ZeroDivisionError)",
        ),
    ],
)
def test_an_import_that_fails_is_kept_with_its_reason_and_stops_no_other(folder, source, reason):
    folder.install("bad", source)
    folder.install("good", backend("good"))
    found = folder.registry()
    assert problems_of(found)["bad"].startswith(reason)
    assert found.find(StorageBackend, "good").suffix == ".good"


@pytest.mark.parametrize(
    ("look_up", "doing"),
    [
        ("registry.registry().plugins()\n{}", "loaded"),
        ("{}    registry.registry().plugins()\n", "asked for their extensions"),
    ],
)
def test_a_plugin_that_looks_extensions_up_while_it_is_set_up_is_told_to_do_it_later(
    folder, monkeypatch, look_up, doing
):
    early = backend("early").replace("    return [Mine]\n", "")
    folder.install("early", "from actframe import registry\n" + look_up.format(early + "    ...\n"))
    folder.install("good", backend("good"))
    found = folder.registry()
    monkeypatch.setattr("actframe.registry.registry", lambda: found)
    assert problems_of(found)["early"].startswith(f"extensions were looked up while plugins were {doing}: look them up")
    assert "good" in found.installed(StorageBackend)


def test_an_interrupt_is_no_failure_and_the_next_look_up_begins_again(folder):
    module = folder.path / "actframe_slow.py"
    folder.install("slow", "raise KeyboardInterrupt")
    found = folder.registry()
    with pytest.raises(KeyboardInterrupt):
        found.plugins()
    module.write_text(backend("slow"))
    importlib.invalidate_caches()
    assert problems_of(found) == {}
    assert "slow" in found.installed(StorageBackend)


def test_what_a_plugin_prints_while_it_is_set_up_goes_to_stderr(folder, capsys):
    folder.install("loud", "print('hello from the import')\n" + backend("loud") + "    print('never')\n")
    folder.install("hook", backend("hook", before=("    return", "    print('hello from the hook')\n    return")))
    found = folder.registry()
    assert problems_of(found) == {}
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "hello from the import\nhello from the hook\n"


def test_an_import_that_warns_is_no_failure(folder):
    folder.install("grumbling", "import warnings\nwarnings.warn('old', UserWarning)\n" + backend("grumbling"))
    found = folder.registry()
    with pytest.warns(UserWarning, match="old"):
        assert "grumbling" in found.installed(StorageBackend)
    assert found.failures() == []


def test_where_warnings_are_errors_the_look_up_after_the_first_finds_everything(folder):
    folder.install("bad", "1 / 0")
    folder.install("good", backend("good"))
    found = folder.registry()
    with pytest.raises(RuntimeWarning, match=r"plugin 'bad' \(actframe-bad 1.2\) failed: ZeroDivisionError"):
        found.find(StorageBackend, "zstd")
    assert found.find(StorageBackend, "good").name == "good"
    assert [plugin.name for plugin in found.failures()] == ["bad"]


def test_a_failure_is_warned_about_once(folder):
    folder.install("bad", "1 / 0")
    found = folder.registry()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            found.find(StorageBackend, "zstd")
            list(found.call_each("record_captured", record=None))
    assert len(said) == 1


# What is given is not what was asked for


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("None", "extensions() returned None: return a list of classes"),
        ("Mine", "extensions() returned the class Mine: return a list, [Mine]"),
        ("Mine()", "extensions() returned <actframe_wrong.Mine object"),
        ("'Mine'", "extensions() returned 'Mine': return a list of classes"),
        ("7", "extensions() returned 7: return a list of classes"),
        ("[Mine()]", "extensions() gave an instance of Mine: give the class itself"),
        ("[int]", "extensions() gave <class 'int'>, which is not a subclass of actframe's contracts"),
        ("[Mine, Mine]", "extensions() gave storage backend 'mine' twice; give it once"),
        ("[StorageBackend]", "extensions() gave the contract StorageBackend itself"),
        (
            "[type('Loose', StorageBackend.__bases__[:1], {'name': 'loose', 'kind': 'thing'})]",
            "Loose subclasses none of actframe's contracts",
        ),
        ("[type('Other', (Mine,), {'kind': 'benchmark'})]", "Other sets kind, which is its contract's to say"),
        ("[type('Blank', (Mine,), {'name': 'my backend'})]", "Blank is called 'my backend': leave out blanks"),
        ("[type('Bell', (Mine,), {'name': 'bell\\a'})]", "Bell is called 'bell\\x07': leave out"),
        ("[type('Empty', (Mine,), {'name': ''})]", "Empty has name = ''"),
        ("[type('Number', (Mine,), {'suffix': 7})]", "Number has suffix = 7; give it a text"),
        ("[type('None_', (Mine,), {'read': None})]", "read of None_ is not a method"),
        ("[type('Few', (Mine,), {'read': lambda self, path: 0})]", "Few.read takes (path), and is called with (path,"),
        ("[type('More', (Mine,), {'write': lambda self, path, bundle, level: 0})]", "More.write takes"),
        ("(each for each in (1 / 0,))", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_gives_the_wrong_thing_is_told_what_to_give(folder, given, reason):
    folder.install("wrong", backend(given=("[Mine]", given)))
    folder.install("good", backend("good"))
    found = folder.registry()
    said = problems_of(found)
    assert list(said) == ["wrong"]
    assert said["wrong"].startswith(reason)
    assert found.find(StorageBackend, "good").suffix == ".good"


def test_a_suffix_that_is_missing_is_an_error_of_its_plugin_and_not_of_every_save(folder):
    folder.install("half", backend(suffix=('    suffix = ".mine"\n', "")))
    found = folder.registry()
    assert problems_of(found) == {"half": "Mine has no 'suffix'; give it a text, as a storage backend must"}


def test_the_good_classes_of_a_plugin_stay_where_others_are_refused(folder):
    folder.install("mixed", backend(given=("[Mine]", "[int, Mine, StorageBackend]")))
    found = folder.registry()
    said = problems_of(found)["mixed"]
    assert said.startswith("extensions() gave <class 'int'>")
    assert "; extensions() gave the contract StorageBackend itself" in said
    assert found.find(StorageBackend, "mine").suffix == ".mine"


@pytest.mark.parametrize(
    "method",
    [
        "def read(self, path, names=None): ...",
        "def read(self, path, names=None, *, columns=()): ...",
        "def read(self, *args, **kwargs): ...",
        "@contextlib.contextmanager\n    def read(self, path, names=None): yield",
        "@staticmethod\n    def read(path, names=None): ...",
        "def read(self, where, /, names=None): ...",
    ],
)
def test_methods_that_take_what_they_are_given_are_fine_however_they_are_written(folder, method):
    source = backend(read=("def read(self, path, names=None): return Bundle({}, {})", method))
    folder.install("fine", "import contextlib\n" + source)
    assert problems_of(folder.registry()) == {}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (backend(hook=("def extensions()", "def extensions(config)")), "hookimpl definition: extensions(config)"),
        (backend(hook=("@hookimpl", "")), "what its entry point names implements no hook"),
        (backend(hook=("@hookimpl", "@hookimpl(wrapper=True)"), to=("return", "yield")), "PluginError"),
        (
            backend(hook=("def extensions()", "def extention()")),
            "unknown hook 'extention' (did you mean 'extensions'?)",
        ),
        ("", "what its entry point names implements no hook"),
    ],
)
def test_hooks_that_would_never_be_called_are_failures(folder, source, reason):
    folder.install("bad", source)
    folder.install("good", backend("good"))
    found = folder.registry()
    said = problems_of(found)
    assert list(said) == ["bad"]
    assert said["bad"].startswith(reason if reason != "PluginError" else "extensions is marked as a wrapper")
    assert "good" in found.installed(StorageBackend)


def test_a_layout_that_is_none_is_refused_and_the_structure_is_read_instead(folder, monkeypatch, tiny_llama):
    from actframe.capture import available

    source = "from actframe import hookimpl\n@hookimpl\ndef model_layout(model): return {'layer_0': 'model.layers.0'}"
    folder.install("wrong", source)
    found = folder.registry()
    monkeypatch.setattr(available, "registry", lambda: found)
    with pytest.warns(
        RuntimeWarning, match=r"model_layout\(\) returned {'layer_0': .*}: return a ModelLayout, or None"
    ):
        sites = available.available_sites(tiny_llama[0])
    assert "layer_0" in sites
    assert problems_of(found)["wrong"].startswith("in model_layout: model_layout() returned")


def test_an_exit_that_is_asked_for_while_a_hook_runs_is_an_exit(folder):
    folder.install("bad", "from actframe import hookimpl\n@hookimpl\ndef record_captured(record): raise SystemExit(3)")
    found = folder.registry()
    with pytest.raises(SystemExit):
        list(found.call_each("record_captured", record=None))
    assert problems_of(found) == {}


# Names that are taken


@pytest.mark.parametrize("order", ["@hookimpl", "@hookimpl(tryfirst=True)", "@hookimpl(trylast=True)"])
def test_what_is_built_in_is_never_replaced_whenever_a_plugin_wants_to_be_called(folder, order):
    folder.install("shadow", backend("pickle", order=("@hookimpl", order)))
    found = folder.registry()
    assert problems_of(found) == {"shadow": "storage backend 'pickle' is built in and cannot be replaced"}
    assert found.find(StorageBackend, "pickle").__module__ == "actframe.storage.pickle_"


def test_a_suffix_that_is_built_in_is_taken_as_well(folder):
    folder.install("shadow", backend("shadow", suffix=('".shadow"', '".PKL"')))
    found = folder.registry()
    assert problems_of(found) == {"shadow": "the suffix '.pkl' of a storage backend is built in and cannot be replaced"}
    assert "shadow" not in found.installed(StorageBackend)


def test_two_plugins_with_one_suffix_are_both_told_and_stay_usable_by_name(folder):
    folder.install("one", backend("one", suffix=('".one"', '".same"')))
    folder.install("two", backend("two", suffix=('".two"', '".same"')))
    found = folder.registry()
    said = problems_of(found)
    assert said["one"].startswith("the suffix '.same' of a storage backend is also claimed by 'two' (actframe-two 1.2)")
    assert said["two"].startswith("the suffix '.same' of a storage backend is also claimed by 'one' (actframe-one 1.2)")
    assert {"one", "two"} <= found.installed(StorageBackend).keys()


def test_a_plugin_called_as_the_built_in_one_is_not_the_built_in_one(folder):
    folder.install("other", entry_points=b"[actframe]\nactframe.builtin = actframe.builtin\n")
    found = folder.registry()
    ours, theirs = found.plugins() if problems_of(found) else ()
    assert (ours.is_builtin, theirs.is_builtin) == (True, False)
    assert found.problems(theirs)[0].startswith("its entry point names the same as that of plugin 'actframe.builtin'")


def test_of_two_plugins_with_one_name_each_says_that_it_is_the_other_who_has_it_too(folder):
    folder.install("one", backend("same"))
    folder.install("two", backend("same"))
    found = folder.registry()
    said = problems_of(found)
    assert said["one"].startswith(
        "storage backend 'same' is also claimed by 'two' (actframe-two 1.2), so it means none"
    )
    assert said["two"].startswith(
        "storage backend 'same' is also claimed by 'one' (actframe-one 1.2), so it means none"
    )
    with pytest.raises(PluginError, match="'same' is claimed by 'one' .* and 'two'"):
        found.find(StorageBackend, "same")


# Contract versions


@pytest.fixture
def second_version(monkeypatch):
    """The contract of storage backends after a change that broke them, as far as the registry sees it."""
    monkeypatch.setattr(StorageBackend, "contract_version", 2)


@pytest.mark.usefixtures("second_version")
def test_a_plugin_that_says_nothing_was_built_for_the_first_version_and_is_refused_after_a_change(folder):
    folder.install("old", backend())
    found = folder.registry()
    said = problems_of(found)["old"]
    assert said.startswith("Mine was built for version 1 of StorageBackend, and this actframe has version 2: update")
    assert said.endswith("sets built_for = 2; a class that does not say it counts as built for version 1")
    with pytest.raises(UnknownNameError, match="Plugin 'old' failed to load: Mine was built for version 1"):
        found.find(StorageBackend, "mine")


@pytest.mark.usefixtures("second_version")
def test_a_plugin_that_says_that_it_was_built_for_this_version_is_used(folder):
    folder.install("new", backend(version=("    name =", "    built_for = 2\n    name =")))
    assert problems_of(folder.registry()) == {}


@pytest.mark.usefixtures("second_version")
def test_a_subclass_of_a_built_in_one_does_not_inherit_that_it_is_up_to_date(folder):
    source = "from actframe.storage.zstd_ import ZstdBackend\n" + backend(base=("(StorageBackend)", "(ZstdBackend)"))
    folder.install("heir", source)
    assert "built for version 1 of StorageBackend" in problems_of(folder.registry())["heir"]
    assert "built_for" not in vars(ZstdBackend)


@pytest.mark.usefixtures("second_version")
def test_the_plugins_of_other_contracts_are_not_concerned(folder):
    source = """
        from actframe import BenchmarkAdapter, Question, hookimpl
        class Mine(BenchmarkAdapter):
            name = "mine"
            def questions(self): yield Question("1", "?", "")
            def extract_answer(self, response, question): return None
        @hookimpl
        def extensions(): return [Mine]
    """
    folder.install("questions", source)
    assert problems_of(folder.registry()) == {}


@pytest.mark.parametrize(
    ("built_for", "reason"),
    [
        ("7", "Mine was built for version 7 of StorageBackend, and this actframe has version 1: update actframe"),
        ("'0.1'", "built_for of Mine is '0.1', not the number of a contract's version (StorageBackend is at 1)"),
    ],
)
def test_a_plugin_for_a_newer_actframe_is_refused_with_what_to_update(folder, built_for, reason):
    folder.install("new", backend(version=("    name =", f"    built_for = {built_for}\n    name =")))
    assert problems_of(folder.registry())["new"].startswith(reason)


# Distributions that are half removed


def test_a_module_that_is_gone_is_told_from_a_library_that_is_missing(folder):
    folder.install("gone")
    assert problems_of(folder.registry()) == {
        "gone": "its module 'actframe_gone' is not there: the distribution is half removed, or was built without it; "
        "reinstall or uninstall actframe-gone"
    }


def test_a_folder_that_an_uninstall_left_empty_is_no_plugin(folder):
    (folder.path / "actframe_gone" / "__pycache__").mkdir(parents=True)
    folder.install("gone")
    assert problems_of(folder.registry())["gone"].startswith("its module 'actframe_gone' is a folder without code")


@pytest.mark.parametrize(
    ("metadata", "missing"),
    [
        (False, "no name and no version"),
        ("Metadata-Version: 2.1\nName: actframe-torn\n", "no version"),
        ("Metadata-Version: 2.1\nName:\nVersion: 1.2\n\nName: actframe-other\n", "no name"),
    ],
)
def test_metadata_without_name_or_version_is_a_failure_that_says_so(folder, metadata, missing):
    folder.install("torn", backend("torn"), metadata=metadata)
    folder.install("good", backend("good"))
    found = folder.registry()
    assert problems_of(found) == {"torn": f"its metadata has {missing}: it is half removed; reinstall actframe-torn"}
    assert "good" in found.installed(StorageBackend)


def test_a_distribution_without_record_or_installer_is_complete_for_us(folder):
    info = folder.install("plain", backend("plain"))
    assert {path.name for path in info.iterdir()} == {"METADATA", "entry_points.txt"}
    assert problems_of(folder.registry()) == {}


def test_what_pip_put_aside_is_named_and_does_not_hide_what_was_installed_since(folder):
    aside = folder.install("npy", backend("npy"), version="1.0", info="~ctframe_npy-1.0.dist-info")
    assert problems_of(folder.registry()) == {
        "npy": f"this is what an interrupted uninstall left behind; delete {aside}"
    }
    folder.install("npy", backend("npy"))
    found = folder.registry()
    assert list(problems_of(found)) == ["npy of actframe-npy"]
    assert [plugin.version for plugin in found.plugins()[1:]] == ["1.2", "1.0"]
    assert "npy" in found.installed(StorageBackend)


def test_two_versions_in_one_folder_are_named(folder):
    folder.install("twice", backend("twice"))
    folder.install("twice", version="1.3")
    (said,) = problems_of(folder.registry()).values()
    assert said.startswith("actframe-twice is installed twice, in ")


def test_a_distribution_that_another_of_its_name_hides_is_left_alone_as_python_does(folder, tmp_path, monkeypatch):
    folder.install("same", backend("same"))
    behind = tmp_path / "behind"
    behind.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind)])
    Folder(behind).install("same", version="0.9")
    found = folder.registry()
    assert problems_of(found) == {}
    assert [plugin.version for plugin in found.plugins()[1:]] == ["1.2"]


def test_a_folder_that_is_on_the_path_twice_is_read_once(folder, monkeypatch):
    folder.install("same", backend("same"))
    monkeypatch.syspath_prepend(f"{folder.path}{os.sep}.")
    assert len(find_entries(GROUP, ["actframe-same"])) == 1


@pytest.mark.parametrize(
    ("entry_points", "reason"),
    [
        (b"[actframe]\nodd = actframe-odd!\n", "its entry point reads odd = 'actframe-odd!', which names no module"),
        (b"[actframe]\nodd\n", "its entry point reads odd = '', which names no module"),
        (
            b"[actframe]\nodd = actframe_odd:nothing\n",
            "AttributeError: module 'actframe_odd' has no attribute 'nothing'",
        ),
        (b"[actframe]\nodd = \xff\xfe\n", "its entry point reads odd = '"),
        (
            b"[other]\nline without meaning\n[actframe]\nodd = actframe_gone\n",
            "its module 'actframe_gone' is not there",
        ),
    ],
)
def test_entry_points_that_cannot_be_read_are_a_failure_of_their_distribution(folder, entry_points, reason):
    folder.install("odd", backend("odd"), entry_points=entry_points)
    folder.install("good", backend("good"))
    found = folder.registry()
    assert problems_of(found)["odd"].startswith(reason)
    assert "good" in found.installed(StorageBackend)


def test_damaged_distributions_of_others_are_none_of_our_business(folder):
    for number, entry_points in enumerate((b"no section, no sense", b"[console_scripts]\nnonsense\n", b"\xff\xfe\x00")):
        folder.install(f"other{number}", entry_points=entry_points, metadata=False)
    folder.install("good", backend("good"))
    assert [entry.name for entry in find_entries(GROUP, folder.names)] == ["good"]


PIECES = [
    b"[actframe]\n",
    b"torn",
    b"=",
    b"actframe_torn",
    b":",
    b".",
    b"\n",
    b"\n\n",
    b"Name: ",
    b"Version: ",
    b"\xff",
    b"\0",
    b"[",
]
TORN = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join) | st.binary(max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry_points=TORN, metadata=TORN)
def test_whatever_stands_in_the_files_of_a_distribution_the_others_are_found(folder, entry_points, metadata):
    info = folder.path / "actframe_torn-1.2.dist-info"
    if not info.exists():
        folder.install("torn", backend("torn"))
        folder.install("good", backend("good"))
    (info / "entry_points.txt").write_bytes(entry_points)
    (info / "METADATA").write_bytes(metadata)
    found = Registry([entry for entry in find_entries(GROUP) if entry.distribution not in INSTALLED])
    assert "good" not in problems_of(found)
    assert found.find(StorageBackend, "good").suffix == ".good"


def test_one_entry_point_of_a_name_or_several_all_are_kept_apart(folder):
    lines = b"[actframe]\nsame = actframe_many\nsame = gone_one\nsame = gone_two\n"
    folder.install("many", backend("many"), entry_points=lines)
    found = folder.registry()
    assert list(problems_of(found)) == ["same of actframe-many", "same of actframe-many, again"]
    assert "many" in found.installed(StorageBackend)


# Many at once


def test_every_thread_finds_everything_at_its_first_look_up(folder):
    folder.install("slow", "import time\ntime.sleep(0.2)\n" + backend("slow"))
    found = folder.registry()
    seen = []
    begin = threading.Barrier(8)

    def look_up():
        begin.wait()
        seen.append(found.find(StorageBackend, "slow"))

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


ALL = {
    "syntax": "def broken(:",
    "exits": "raise SystemExit(3)",
    "needs": "import no_such_library",
    "prints": "print('hello')\n" + backend("prints"),
    "one": backend("same"),
    "two": backend("same"),
    "shadow": backend("zstd"),
    "none": backend(given=("[Mine]", "None")),
    "newer": backend("newer", version=("    name =", "    built_for = 2\n    name =")),
    "unmarked": backend(hook=("@hookimpl", "")),
    "command": "from actframe import hookimpl\n@hookimpl\ndef register_commands(cli): raise SystemExit",
    "gone": None,
}


@pytest.fixture
def all_at_once(folder):
    for name, source in ALL.items():
        folder.install(name, source)
    folder.install("torn", backend("torn"), metadata=False)
    folder.install("left", backend("left"), info="~ctframe_left-1.2.dist-info")
    folder.install("good", backend("good"))
    return folder


def test_all_failures_at_once_stand_in_the_list_of_plugins_and_nothing_else_breaks(all_at_once):
    command = [sys.executable, "-m", "actframe", "plugins"]
    done = subprocess.run(command, env=all_at_once.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "hello\n"
    listed, problems = done.stdout.split("Plugins with problems")
    lines = [" ".join(line.split()) for line in listed.splitlines()]
    assert "storage backend good good actframe-good 1.2" in lines
    assert "storage backend prints prints actframe-prints 1.2" in lines
    for name in {*ALL, "torn", "left"} - {"prints"}:
        assert f"'{name}' (actframe-{name} 1.2)" in problems
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_list_for_scripts_is_json_whatever_plugins_print(all_at_once):
    command = [sys.executable, "-m", "actframe", "plugins", "--json"]
    done = subprocess.run(command, env=all_at_once.environment(), capture_output=True, text=True, check=False)
    said = {each["plugin"]: each["problems"] for each in json.loads(done.stdout)}
    assert (said["good"], said["prints"]) == ([], [])
    assert all(said[name] for name in {*ALL, "torn", "left"} - {"prints"})
    assert "hello" in done.stderr


def test_a_plugin_that_only_adds_hooks_is_listed_by_them(folder, monkeypatch):
    from actframe.cli import plugins

    folder.install("watching", "from actframe import hookimpl\n@hookimpl\ndef record_captured(record): ...")
    found = folder.registry()
    monkeypatch.setattr(plugins, "registry", lambda: found)
    monkeypatch.setenv("COLUMNS", "120")
    with redirect_stdout(io.StringIO()) as printed:
        plugins.plugins()
    lines = [" ".join(line.split()) for line in printed.getvalue().splitlines()]
    assert "hook record_captured watching actframe-watching 1.2" in lines


@pytest.mark.parametrize(
    ("limit", "words"),
    [("", "No plugins are loaded, because"), ("actframe-npz", "Only plugins of actframe-npz are loaded, because")],
)
def test_the_list_says_when_it_is_limited(limit, words, monkeypatch):
    from actframe.cli import plugins

    monkeypatch.setenv("ACTFRAME_PLUGINS", limit)
    with redirect_stdout(io.StringIO()) as printed:
        plugins.plugins()
    assert f"{words} ACTFRAME_PLUGINS is set." in printed.getvalue()
