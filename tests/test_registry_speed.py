"""Two hundred plugins: what they add to the first look-up, and that they add nothing to an import."""

import json
import os
import subprocess
import sys

import pytest

PLUGINS = 200

MODULE = """
from actframe import hookimpl

@hookimpl
def extensions():
    from actframe import Bundle, StorageBackend

    class Dummy(StorageBackend):
        name = "{name}"
        suffix = ".{name}"

        def write(self, path, bundle): ...

        def read(self, path, names=None): return Bundle({{}}, {{}})

    return [Dummy]
"""

DESCRIPTION = (
    "Packages have descriptions, and these are long: some hundred lines of Markdown are nothing special.\n" * 150
)

WATCH = """
import json, sys
from collections import Counter
from pathlib import Path

opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)

def ours():
    paths = [Path(path) for path in opened if path.startswith({folder!r})]
    return Counter("module" if path.suffix in (".py", ".pyc") else path.name for path in paths)

import actframe, actframe.registry
first = ours()
# What the built-in extensions import looks through all entry points for its own.
import actframe.builtin
actframe.builtin.extensions()
opened.clear()
found = actframe.registry.registry().plugins()
print(json.dumps([first, ours(), len(found), [problem for each in found for problem in each.errors]]))
"""

TIME = """
import importlib, json, sys, time
import actframe.builtin
from actframe.registry import Registry, find_entries

actframe.builtin.extensions()

def loaded(only):
    before, begin = set(sys.modules), time.process_time()
    plugins = Registry(find_entries("actframe", only)).plugins()
    spent = time.process_time() - begin
    for name in set(sys.modules) - before:
        del sys.modules[name]
    return spent, len(plugins)

def imported(names):
    begin = time.process_time()
    for name in names:
        importlib.import_module(name).extensions()
    spent = time.process_time() - begin
    for name in names:
        del sys.modules[name]
    return spent

everything = {names!r}
rounds = [
    (loaded([]), loaded(everything[: len(everything) // 2]), loaded(everything), imported({modules!r}))
    for _ in range(5)
]
none, half, whole = (min(each[place][0] for each in rounds) for place in range(3))
print(json.dumps([none, half, whole, min(each[3] for each in rounds), rounds[0][2][1]]))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with two hundred plugins, each a distribution of its own."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(PLUGINS):
        name = f"actframe_dummy{number}"
        (folder / f"{name}.py").write_text(MODULE.format(name=f"dummy{number}"))
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        (info / "METADATA").write_text(f"{head}Requires-Dist: actframe>=0.1\n\n{DESCRIPTION}")
        (info / "RECORD").write_text(f"{name}.py,,\n")
        (info / "entry_points.txt").write_text(f"[actframe]\ndummy{number} = {name}\n")
    return folder


def python(code, folder, **environment):
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_hundred_plugins_are_not_touched_by_an_import_and_each_file_is_read_once_by_the_first_look_up(many):
    only = ",".join(f"actframe-dummy{number}" for number in range(PLUGINS))
    first, then, found, errors = python(
        WATCH.format(folder=str(many)), many, ACTFRAME_PLUGINS=only, PYTHONDONTWRITEBYTECODE="1"
    )
    assert first == {}
    assert (found, errors) == (PLUGINS + 1, [])
    # The compiled file, and the source where there is none.
    assert PLUGINS <= then.pop("module") <= 2 * PLUGINS
    assert then == {"entry_points.txt": PLUGINS, "METADATA": PLUGINS}


def test_loading_two_hundred_plugins_takes_little_more_than_importing_them_and_grows_as_they_do(many):
    names = [f"actframe-dummy{number}" for number in range(PLUGINS)]
    code = TIME.format(names=names, modules=[name.replace("-", "_") for name in names])
    none, half, whole, imported, found = python(code, many)
    assert found == PLUGINS + 1
    print(f"200 plugins add {1000 * (whole - none):.0f} ms of CPU, their plain import {1000 * imported:.0f}")
    assert whole - none < 8 * imported
    assert whole - none < 3 * (half - none)
