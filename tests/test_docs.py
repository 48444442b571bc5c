"""Every example and every command in the documentation runs; every hook is documented as it is."""

import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from actframe import hookspecs
from actframe.runs.smollm2 import smollm2_folder

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(actframe .*)$", re.MULTILINE)
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def with_page_names(pages):
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder in which everything of a page runs, as it does for who follows it."""
    return functools.cache(lambda page: tmp_path_factory.mktemp(page.stem))


@pytest.mark.parametrize("page", with_page_names(p for p in PAGES if FENCED.search(p.read_text())))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder_of, monkeypatch, smollm2):
    monkeypatch.chdir(folder_of(page))
    # Every test of a process has the same memory:// otherwise.
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    # The tests have no network: the hub's model is read from where the embedded one was converted to.
    source = "\n".join(FENCED.findall(page.read_text())).replace(HUB_ID, str(smollm2_folder()))
    exec(compile(source, page.name, "exec", dont_inherit=True), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "page",
    [
        # Its self-test of smollm2 alone takes a minute.
        pytest.param(ROOT / "README.md", id="README.md", marks=pytest.mark.slow),
        pytest.param(ROOT / "docs/quickstart.md", id="quickstart.md"),
    ],
)
def test_the_commands_of_a_page_run_beside_its_python(page, folder_of):
    text = page.read_text()
    commands = [*INDENTED.findall(text), *"".join(CONSOLE.findall(text)).splitlines()]
    assert commands
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            shlex.split(command), cwd=folder_of(page), env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def hooks():
    return [
        (name, function)
        for name, function in vars(hookspecs).items()
        if inspect.isfunction(function) and hasattr(function, "actframe_spec")
    ]


@pytest.mark.parametrize(("name", "function"), hooks(), ids=[name for name, _ in hooks()])
def test_a_hook_is_documented_with_its_exact_signature(name, function):
    signature = str(inspect.signature(function)).replace("'", "")
    assert f"`{name}{signature}`" in (ROOT / "docs" / "plugins" / "index.md").read_text()


@pytest.mark.parametrize("name", [name for name, _ in hooks()])
def test_a_hook_has_a_test(name):
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py") if path.name != "test_docs.py")
    assert f"def {name}(" in tests


@pytest.mark.parametrize(
    ("page", "module", "most_lines"),
    [
        ("index.md", "__init__.py", 15),
        ("storage-backend.md", "backend.py", 30),
        ("capture-strategy.md", "strategy.py", 30),
        ("benchmark.md", "benchmark.py", 20),
        ("engine.md", "engine.py", 20),
    ],
)
def test_a_plugin_page_shows_what_is_in_the_template_and_tested_there(page, module, most_lines):
    source = (ROOT / "plugins" / "template" / "src" / "actframe_example" / module).read_text()
    blocks = FENCED.findall((ROOT / "docs" / "plugins" / page).read_text())
    assert f"# actframe_example/{module}\n{source}" in blocks
    assert len(source.splitlines()) <= most_lines


def test_the_example_runs(tmp_path):
    example = ROOT / "docs" / "examples" / "example_activation_capture.py"
    done = subprocess.run(
        [sys.executable, str(example), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "layer_29" in done.stdout
    assert "cosine" in done.stdout
    assert (tmp_path / "out" / "capital_of_france.safetensors").exists()
    assert len(list((tmp_path / "out").glob("benchmark_activations_*"))) == 1
