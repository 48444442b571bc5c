"""Plugins: real entry points of real (if tiny) distributions, written into a folder on the path."""

import importlib
import sys
import textwrap

import pytest

from actframe import PluginError, StorageBackend, UnknownNameError
from actframe.benchmarks.base import BenchmarkAdapter
from actframe.capture.base import CaptureStrategy
from actframe.distributions import find_entries
from actframe.registry import GROUP, Registry, limited_to

BACKEND = """
    from actframe import Bundle, StorageBackend, hookimpl

    class Nothing(StorageBackend):
        name = "{name}"
        suffix = ".{name}"
        def write(self, path, bundle): path.write_bytes(b"")
        def read(self, path, names=None): return Bundle({{}}, {{}})

    @hookimpl
    def extensions():
        return [Nothing]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with one entry point, and give the registry that a new process would have."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def add(distribution, source, entry_point=None):
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        name = entry_point or distribution.removeprefix("actframe-")
        (info / "entry_points.txt").write_text(f"[actframe]\n{name} = {module}\n")
        importlib.invalidate_caches()

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def registry():
    return Registry(find_entries(GROUP, limited_to()))


@pytest.fixture(autouse=True)
def only_test_plugins(monkeypatch):
    """Whatever else is installed here stays out of these tests."""
    names = "actframe-nothing,actframe-other,actframe-broken,actframe-abstract,actframe-wrong,actframe-misspelt"
    monkeypatch.setenv("ACTFRAME_PLUGINS", names)


def test_built_in_extensions_are_found_by_name():
    found = registry()
    assert list(found.installed(StorageBackend)) == ["pickle", "safetensors", "zstd"]
    assert list(found.installed(CaptureStrategy)) == ["hooks", "output_hidden_states"]
    assert list(found.installed(BenchmarkAdapter)) == [
        "arc_challenge",
        "arc_easy",
        "arithmetic",
        "boolq",
        "commonsense_qa",
        "general",
        "gpqa",
        "gsm8k",
        "hellaswag",
        "jsonl",
        "math500",
        "mmlu",
        "mmlu_pro",
        "openbookqa",
        "piqa",
        "truthfulqa",
        "winogrande",
    ]
    assert found.find(StorageBackend, "zstd").suffix == ".safetensors.zst"


def test_a_third_party_extension_is_found_with_the_distribution_it_comes_from(install):
    install("actframe-nothing", BACKEND.format(name="nothing"))
    found = registry()
    assert found.find(StorageBackend, "nothing").suffix == ".nothing"
    plugin = found.plugins()[-1]
    assert (plugin.name, plugin.distribution, plugin.version, plugin.error) == (
        "nothing",
        "actframe-nothing",
        "1.2",
        None,
    )


def test_a_plugin_that_fails_to_import_is_kept_as_a_failure_and_stops_no_other(install):
    install("actframe-broken", "import a_module_that_is_not_there")
    install("actframe-nothing", BACKEND.format(name="nothing"))
    found = registry()
    with pytest.warns(RuntimeWarning, match=r"plugin 'broken' \(actframe-broken 1.2\) failed: ModuleNotFoundError"):
        found.plugins()
    assert "nothing" in found.installed(StorageBackend)
    (failure,) = found.failures()
    assert failure.name == "broken"
    with pytest.raises(UnknownNameError) as error:
        found.find(StorageBackend, "zipn")
    assert str(error.value) == (
        "no storage backend named 'zipn'; installed: nothing, pickle, safetensors, zstd. "
        "Plugin 'broken' failed to load: No module named 'a_module_that_is_not_there'."
    )


def test_a_near_miss_is_suggested():
    with pytest.raises(UnknownNameError, match=r"no storage backend named 'pikle' \(did you mean 'pickle'\?\)"):
        registry().find(StorageBackend, "pikle")


def test_two_plugins_that_claim_one_name_are_an_error_at_look_up_that_names_both(install):
    install("actframe-nothing", BACKEND.format(name="nothing"))
    install("actframe-other", BACKEND.format(name="nothing"))
    found = registry()
    assert found.failures() == []
    assert "nothing" not in found.installed(StorageBackend)
    with pytest.raises(
        PluginError, match=r"claimed by 'nothing' \(actframe-nothing 1.2\) and 'other' \(actframe-other 1.2\)"
    ):
        found.find(StorageBackend, "nothing")


def test_two_entry_points_of_one_name_are_both_loaded(install):
    install("actframe-nothing", BACKEND.format(name="first"), entry_point="same")
    install("actframe-other", BACKEND.format(name="second"), entry_point="same")
    assert {"first", "second"} <= set(registry().installed(StorageBackend))


def test_a_built_in_cannot_be_shadowed(install):
    install("actframe-nothing", BACKEND.format(name="pickle"))
    found = registry()
    with pytest.warns(RuntimeWarning, match="storage backend 'pickle' is built in and cannot be replaced"):
        assert found.find(StorageBackend, "pickle").__module__ == "actframe.storage.pickle_"
    assert [plugin.name for plugin in found.failures()] == ["nothing"]


def test_a_class_that_breaks_its_contract_is_refused_with_what_it_lacks(install):
    source = """
        from actframe import StorageBackend, hookimpl
        class Half(StorageBackend):
            name = "half"
            def write(self, path, bundle): ...
        @hookimpl
        def extensions(): return [Half]
    """
    install("actframe-abstract", source)
    with pytest.warns(RuntimeWarning, match="Half does not implement read"):
        assert "half" not in registry().installed(StorageBackend)


def test_something_that_is_no_extension_is_refused(install):
    install("actframe-wrong", "from actframe import hookimpl\n@hookimpl\ndef extensions(): return [dict]")
    with pytest.warns(RuntimeWarning, match="which is not a subclass of actframe's contracts"):
        registry().plugins()


def test_a_misspelt_hook_is_a_failure(install):
    install("actframe-misspelt", "from actframe import hookimpl\n@hookimpl\ndef extension(): return []")
    with pytest.warns(RuntimeWarning, match="unknown hook 'extension'"):
        assert [plugin.name for plugin in registry().failures()] == ["misspelt"]


def test_a_hook_that_raises_stops_no_other(install):
    hook = "from actframe import hookimpl\n@hookimpl\ndef record_captured(record): {}"
    install("actframe-broken", hook.format("raise RuntimeError('bad day')"))
    install("actframe-other", hook.format("return record"))
    found = registry()
    with pytest.warns(RuntimeWarning, match="'broken' .* failed: RuntimeError: bad day"):
        results = [(plugin.name, result) for plugin, result in found.call_each("record_captured", record=3)]
    assert results == [("other", 3)]
    assert next(found.call_each("record_captured", record=3))[1] == 3


def test_the_variable_limits_what_loads(install, monkeypatch):
    install("actframe-nothing", BACKEND.format(name="nothing"))
    install("actframe-other", BACKEND.format(name="other"))
    for limit, expected in [
        ("", set()),
        ("actframe_other", {"other"}),
        ("actframe-nothing, actframe-other", {"nothing", "other"}),
    ]:
        monkeypatch.setenv("ACTFRAME_PLUGINS", limit)
        assert {"nothing", "other"} & set(registry().installed(StorageBackend)) == expected


def test_nothing_is_imported_before_the_first_look_up(install):
    install("actframe-nothing", "raise SystemExit('imported')")
    importlib.import_module("actframe.registry")
    assert "actframe_nothing" not in sys.modules


def test_a_plugin_may_describe_a_model_that_the_rule_gets_wrong(install, monkeypatch):
    from actframe.capture import available, recorder

    install(
        "actframe-other",
        """
        from actframe import hookimpl
        @hookimpl
        def model_layout(model):
            from actframe.capture.layout import ModelLayout, Place, Tower
            if type(model).__name__ == "Sequential":
                return ModelLayout((Tower("", ("0", "1")),), {"layer_0": Place("0"), "layer_1": Place("1")})
        """,
    )
    import torch

    found = registry()
    monkeypatch.setattr(available, "registry", lambda: found)
    monkeypatch.setattr(recorder, "registry", lambda: found)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    assert available.available_sites(model) == ["layer_0", "layer_1"]
    assert available.available_sites(torch.nn.Linear(2, 2)) == []
    with recorder.ActivationRecorder(model, -1) as recording:
        output = model(torch.ones(1, 4, 3))
    assert torch.equal(recording.activations["layer_1"], output.detach())


def test_every_record_is_told_to_the_plugins(install, monkeypatch, tiny_llama):
    import torch

    from actframe.capture import recorder

    source = """
        from actframe import hookimpl
        seen = []
        @hookimpl
        def record_captured(record): seen.append(record)
    """
    install("actframe-other", source)
    found = registry()
    monkeypatch.setattr(recorder, "registry", lambda: found)
    with torch.no_grad(), recorder.ActivationRecorder(tiny_llama[0], 0) as recording:
        tiny_llama[0](torch.tensor([[1, 2], [3, 4]]))
    assert sys.modules["actframe_other"].seen == recording.records
