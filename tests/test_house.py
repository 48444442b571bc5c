"""The house keeps its shape: layers, sizes, names, and what an import costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import actframe

ROOT = Path(__file__).parent.parent / "actframe"
MODULES = {
    ".".join(["actframe", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

CONTRACTS = (
    "actframe.hookspecs",
    "actframe.contracts",
    "actframe.distributions",
    "actframe.hooks",
    "actframe.registry",
)
LAYERS = [
    {"actframe.errors", "actframe.extension"},
    {
        "actframe.records",
        "actframe.benchmarks.prompting",
        "actframe.capture.copies",
        "actframe.capture.scratch",
        "actframe.capture.sites",
        "actframe.capture.declared",
        "actframe.capture.exceptions",
        "actframe.capture.places",
        "actframe.capture.parts",
        "actframe.capture.stacks",
        "actframe.capture.sides",
        "actframe.capture.layout",
        "actframe.capture.selection",
    },
    {"actframe.runs.engines", *(name for name in MODULES if name.endswith(".base"))},
    set(CONTRACTS),
    {"actframe.capture", "actframe.storage", "actframe.benchmarks", "actframe.runs"},
    {"actframe.inference", "actframe.analysis", "actframe.cli", "actframe.testing", "actframe.__main__", "actframe"},
]
"""From the bottom up, as DESIGN has them; a package stands for its modules that no lower layer names."""

IMPLEMENTATIONS = {
    "actframe.capture.forward_hooks",
    "actframe.capture.hidden_states",
    "actframe.runs.engines",
    "actframe.storage.pickle_",
    "actframe.storage.safetensors_",
    "actframe.storage.zstd_",
    "actframe.benchmarks.arc_challenge",
    "actframe.benchmarks.arc_easy",
    "actframe.benchmarks.arithmetic",
    "actframe.benchmarks.boolq",
    "actframe.benchmarks.commonsense_qa",
    "actframe.benchmarks.general",
    "actframe.benchmarks.gpqa",
    "actframe.benchmarks.gsm8k",
    "actframe.benchmarks.hellaswag",
    "actframe.benchmarks.jsonl",
    "actframe.benchmarks.math500",
    "actframe.benchmarks.mmlu",
    "actframe.benchmarks.mmlu_pro",
    "actframe.benchmarks.openbookqa",
    "actframe.benchmarks.piqa",
    "actframe.benchmarks.truthfulqa",
    "actframe.benchmarks.winogrande",
}


def layer_of(name):
    """The lowest layer that names a module, or the package it is in."""
    for exact in (True, False):
        for number, members in enumerate(LAYERS):
            if name in members if exact else any(name.startswith(f"{m}.") for m in members if m != "actframe"):
                return number
    raise AssertionError(f"{name} has no layer")


def imports_of(name):
    """The modules of actframe that a module imports when it runs: not those that only its annotations name."""
    found = set()
    tree = ast.parse(MODULES[name].read_text())
    for node in runtime(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actframe"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("actframe"))
    return found


def runtime(tree):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime(node)


EDGES = {name: imports_of(name) for name in MODULES if name not in ("actframe", "actframe.builtin")}


@pytest.mark.parametrize("name", EDGES)
def test_imports_go_downward_only(name):
    for imported in EDGES[name]:
        assert imported != "actframe.builtin", f"{name} imports builtin, which only the registry names"
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported} from above"


def test_there_are_no_import_circles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done:
            return
        path.append(name)
        for imported in EDGES.get(name, ()):
            visit(imported)
        path.pop()
        done.add(name)

    for name in EDGES:
        visit(name)


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
def test_implementations_know_contracts_and_values_but_no_working_part(name):
    reached, todo = set(), [name]
    while todo:
        for imported in EDGES[todo.pop()] - reached:
            reached.add(imported)
            todo.append(imported)
    assert not reached & {*CONTRACTS, "actframe.capture.recorder", "actframe.storage.files", "actframe.runs.run"}
    assert not reached & (IMPLEMENTATIONS - {name}) - {"actframe.storage.safetensors_"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_stays_short(name):
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= 320, f"{lines} lines ask for a better division"


def functions(name):
    tree = ast.parse(MODULES[name].read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("name", MODULES)
def test_functions_stay_short_and_take_few_parameters(name):
    for function in functions(name):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
        assert lines <= 45, f"{function.name} of {name} has {lines} lines"
        if not name.startswith("actframe.cli"):  # a command's parameters are its flags
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            assert count <= 7 + (arguments.args[:1] != [] and arguments.args[0].arg in ("self", "cls")), function.name


@pytest.mark.parametrize("name", [name for name in MODULES if "__main__" not in name])
def test_all_names_what_is_there(name):
    tree = ast.parse(MODULES[name].read_text())
    (exported,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ] or [[]]
    module = importlib.import_module(name)
    for attribute in exported:
        assert hasattr(module, attribute)


@pytest.mark.parametrize("name", MODULES)
def test_a_contract_says_which_version_it_has(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ClassDef):
            given = [each for each in node.body if isinstance(each, ast.AnnAssign) and each.value]
            said = {ast.unparse(each.target): ast.unparse(each.annotation) for each in given}
            if said.get("kind") == "ClassVar[str]":
                assert "contract_version" in said, f"{node.name} names a kind, and is at contract_version 1"


def test_the_public_names_are_these():
    assert actframe.__all__ == sorted(actframe.__all__)
    errors = importlib.import_module("actframe.errors")
    public = {name for name in errors.__all__ if name[0].isupper()}
    assert public <= set(actframe.__all__)
    for name in actframe.__all__:
        assert getattr(actframe, name) is not None


@pytest.mark.parametrize("statement", ["import actframe", "import actframe.cli.main", "from actframe import hookimpl"])
def test_importing_it_imports_neither_torch_nor_transformers(statement):
    check = f"{statement}; import sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ActivationStorage'"):
        _ = actframe.ActivationStorage
