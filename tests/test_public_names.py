"""Plugins and examples use public names only, and what is public is written down."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import actframe

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "plugins" / "versions.md"
SOURCES = sorted(path for path in (ROOT / "plugins").rglob("*.py") if "site-packages" not in path.parts)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONTRACTS = [
    each for name in actframe.__all__ if isinstance(each := getattr(actframe, name), type) and "kind" in vars(each)
]

PRIVATE = {
    name
    for contract in CONTRACTS
    for name in vars(contract)
    if name.startswith("_") and not name.startswith(("__", "_abc"))
}


def rows_of(heading):
    """The rows of the first table after a heading of the page."""
    text = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


PUBLIC = {
    "actframe": set(actframe.__all__),
    "actframe.testing": set(importlib.import_module("actframe.testing").__all__),
    **{row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows_of("Public names")},
}


def reached(source):
    """What a source reaches in actframe beyond its public names."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=module, names=names, level=0) if is_ours(module):
                yield from (f"{module}.{each.name}" for each in names if each.name not in PUBLIC.get(module, ()))
            case ast.Import(names=names):
                yield from (each.name for each in names if is_ours(each.name) and each.name != "actframe")
            case ast.Attribute(value=ast.Name(id="actframe"), attr=name) if name not in PUBLIC["actframe"]:
                yield f"actframe.{name}"
            case ast.Call(func=called, args=[ast.Constant(value=str(text)), *_]) if imports(called) and is_ours(text):
                yield from () if text in PUBLIC else (text,)
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) if name in PRIVATE:
                yield name


def is_ours(module):
    return module is not None and module.partition(".")[0] == "actframe"


def imports(called):
    return ast.unparse(called).split(".")[-1] in ("import_module", "__import__", "importorskip")


def by_name(paths):
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def test_there_are_contracts_and_plugins_to_look_at():
    assert {"StorageBackend", "CaptureStrategy", "BenchmarkAdapter"} <= {contract.__name__ for contract in CONTRACTS}
    assert {"actframe-npz", "actframe-lm-eval"} <= {path.relative_to(ROOT).parts[1] for path in SOURCES}


@pytest.mark.parametrize("path", by_name(SOURCES))
def test_a_plugin_imports_public_names_only(path):
    assert sorted(reached(path.read_text())) == [], (
        f"export them, or grow the contract; {PAGE.name} says what is public"
    )


@pytest.mark.parametrize("path", by_name([*DOCUMENTS, *EXAMPLES]))
def test_an_example_imports_public_names_only(path):
    text = path.read_text()
    sources = [text] if path.suffix == ".py" else FENCED.findall(text)
    assert [name for source in sources for name in reached(source)] == [], f"{PAGE.name} says what is public"


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_name_exists_and_its_module_exports_it(module):
    assert PUBLIC[module] <= set(importlib.import_module(module).__all__)


def test_the_page_names_every_contract_with_its_version():
    said = {name.strip("`"): int(version) for name, version, _ in rows_of("Contract versions")}
    assert said == {contract.__name__: contract.contract_version for contract in CONTRACTS}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from actframe.storage.files import write_bundle", "actframe.storage.files.write_bundle"),
        ("from actframe.storage import files", "actframe.storage.files"),
        ("import actframe.storage.files", "actframe.storage.files"),
        ("def f():\n    from actframe.registry import Registry", "actframe.registry.Registry"),
        ("import actframe\nactframe.registry.registry()", "actframe.registry"),
        ("import importlib\nimportlib.import_module('actframe.storage.writer')", "actframe.storage.writer"),
        ("class Mine:\n    def _asked(self): ...", "_asked"),
        ("self._asked(question)", "_asked"),
        ("from actframe.testing import _SUITES", "actframe.testing._SUITES"),
    ],
)
def test_what_reaches_further_is_found(source, name):
    assert list(reached(source)) == [name]
