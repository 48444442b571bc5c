import json
import subprocess
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

from actframe.cli import plugins
from actframe.cli.main import app
from actframe.distributions import Entry
from actframe.registry import Registry
from actframe.testing import tiny_model, tiny_tokenizer


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, list(arguments))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders with tiny models, as a user would have them."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "t5", "bert"):
        tiny_model(family).save_pretrained(folder / family)
        tiny_tokenizer().save_pretrained(folder / family)
    return folder


def test_sites_lists_what_can_be_captured_with_shapes(checkpoints):
    result = actframe("sites", str(checkpoints / "llama"))
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "embeddings (pos, 32) float32" in lines
    assert "layer_0 .. layer_3 (4) (pos, 32) float32" in lines
    assert "layer_0.mlp_act .. layer_3.mlp_act (4) (pos, 48) float32" in lines
    assert "logits (pos, 260) float32" in lines
    assert "'module:<dotted path>'" in result.stdout


def test_sites_as_json_is_for_scripts(checkpoints):
    result = actframe("sites", str(checkpoints / "llama"), "--json")
    listed = json.loads(result.stdout)
    assert listed["strategy"] == "hooks"
    assert {"site": "layer_2", "shape": ["pos", 32], "dtype": "float32"} in listed["sites"]


def test_the_other_strategy_lists_its_own_sites(checkpoints):
    result = actframe("sites", str(checkpoints / "llama"), "--strategy", "output_hidden_states", "--json")
    names = [each["site"] for each in json.loads(result.stdout)["sites"]]
    assert "layer_2" in names
    assert "layer_0.mlp_out" not in names


def test_sites_of_an_encoder_decoder_model_name_their_tower(checkpoints):
    names = [each["site"] for each in json.loads(actframe("sites", str(checkpoints / "t5"), "--json").stdout)["sites"]]
    assert {"encoder.layer_0", "decoder.layer_3"} <= set(names)


def test_sites_of_a_model_that_does_not_generate_are_listed_too(checkpoints):
    result = actframe("sites", str(checkpoints / "bert"))
    assert result.exit_code == 0
    assert "layer_0 .. layer_3 (4)" in result.stdout


def lines_of(*arguments):
    result = actframe("sites", *arguments)
    assert result.exit_code == 0, result.stderr
    return [line.lstrip("│├└─ ").rstrip() for line in result.stdout.splitlines()]


def test_the_tree_says_where_the_sites_are_and_blocks_that_are_alike_stand_together(checkpoints):
    assert lines_of(str(checkpoints / "llama"), "--tree")[1:] == [
        "tower  the model itself  LlamaForCausalLM  residual stream (pos, d_model)",
        "embeddings  model.layers.0  what enters the first block",
        "layer_0 .. layer_3  model.layers.0 .. model.layers.3  LlamaDecoderLayer  4 alike",
        "attn_out  self_attn  LlamaAttention",
        "mlp_out  mlp  LlamaMLP",
        "mlp_act  mlp.down_proj  Linear  what enters it",
        "attn_probs  self_attn  LlamaAttention  item 1 of its output",
        "final_norm  model.norm  LlamaRMSNorm",
        "logits  lm_head  Linear",
    ]


def test_the_tree_says_what_was_not_found_and_why(checkpoints):
    lines = lines_of(str(checkpoints / "bert"), "--tree")
    assert "final_norm  not found: no norm stands after the blocks in this tower" in lines
    assert "logits  not found: the model names no output embeddings" in lines


def test_the_tree_has_a_branch_for_each_tower_and_is_for_scripts_too(checkpoints):
    towers = json.loads(actframe("sites", str(checkpoints / "t5"), "--tree", "--json").stdout)["towers"]
    assert [(tower["prefix"], tower["root"]["path"]) for tower in towers] == [
        ("encoder.", "encoder"),
        ("decoder.", "decoder"),
    ]
    (first, *others) = towers[1]["blocks"]
    assert first["parts"]["mlp_out"] == {
        "path": "layer.2.DenseReluDense", "class": "T5DenseActDense", "side": "output", "item": 0,
    }  # fmt: skip
    assert (first["count"] + sum(run["count"] for run in others), towers[1]["axes"]) == (4, ["pos", "d_model"])


def test_blocks_can_be_named_and_what_is_no_list_of_blocks_is_refused(checkpoints):
    path = str(checkpoints / "llama")
    assert lines_of(path, "--tree", "--blocks", "model.layers") == lines_of(path, "--tree")
    refused = actframe("sites", path, "--tree", "--blocks", "model.layer")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the lists of modules in LlamaForCausalLM, with their lengths: model.layers (4)" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["no-such-model-anywhere"], "no-such-model-anywhere"), (["smollm2", "--strategy", "magic"], "'magic'")],
)
def test_what_does_not_exist_is_one_line_that_names_it(arguments, words):
    result = actframe("sites", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert result.stderr.startswith("error: ")


def test_plugins_lists_every_extension_with_its_distribution():
    result = actframe("plugins")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    ours = f"actframe.builtin actframe {metadata.version('actframe')}"
    for kind, name in [("storage backend", "zstd"), ("capture strategy", "hooks"), ("benchmark", "general")]:
        assert f"{kind} {name} {ours}" in lines


@pytest.fixture
def one_broken(tmp_path, monkeypatch):
    """A registry with a plugin that does not load, in place of the process's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torn.py").write_text("import a_library_that_is_not_there")
    installed = Registry([Entry("torn", "torn")])
    with pytest.warns(RuntimeWarning, match="plugin 'torn'"):
        installed.plugins()
    monkeypatch.setattr(plugins, "registry", lambda: installed)


@pytest.mark.usefixtures("one_broken")
def test_plugins_shows_what_failed_with_its_error():
    result = actframe("plugins")
    assert result.exit_code == 0
    assert "Plugins with problems" in result.stdout
    assert "ModuleNotFoundError: No module named 'a_library_that_is_not_there'" in " ".join(result.stdout.split())


@pytest.mark.usefixtures("one_broken")
def test_plugins_as_json_has_errors_and_extensions():
    builtin, torn = json.loads(actframe("plugins", "--json").stdout)
    assert {"kind": "storage backend", "name": "pickle"} in builtin["extensions"]
    assert (builtin["problems"], builtin["hooks"]) == ([], [])
    assert torn["plugin"] == "torn"
    assert torn["problems"] == ["ModuleNotFoundError: No module named 'a_library_that_is_not_there'"]


def test_json_stays_alone_on_stdout_while_a_model_loads(checkpoints):
    command = [sys.executable, "-m", "actframe", "sites", str(checkpoints / "llama"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["sites"]
    assert done.stderr == ""
