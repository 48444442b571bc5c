import json
import math
import os

import pytest
import torch
from typer.testing import CliRunner

from actframe.analysis.similarity import compare_records
from actframe.analysis.stats import record_stats
from actframe.cli.main import app
from actframe.records.record import ActivationRecord
from actframe.storage.files import load_activations, save_activations


def make_record(prompt, seed, **changes):
    noise = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    sites = ["embeddings", "layer_0", "layer_1", "layer_2"]
    values = {
        "prompt": prompt,
        "response": "B. Rome",
        "model": "smollm2",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "input_ids": list(range(7)),
        "output_ids": [1, 2, 3],
        "positions": list(range(9)),
        "site_positions": {},
        "prompt_length": 7,
        "sites": sites,
        "recorded": "live",
        "activations": dict(zip(sites, noise, strict=True)),
    }
    return ActivationRecord({**values, **changes})


@pytest.fixture
def first(tmp_path):
    return save_activations(make_record("What is the capital of Italy?", 0), tmp_path / "first.safetensors")


@pytest.fixture
def second(tmp_path):
    return save_activations(make_record("What is iron?", 1), tmp_path / "second.pkl")


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(argument) for argument in arguments])


def parse(result):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout, parse_constant=refuse)


def squeeze(text):
    return " ".join(text.split())


def test_show_gives_what_was_said_and_what_there_is(first):
    result = actframe("show", first)
    assert result.exit_code == 0
    shown = squeeze(result.stdout)
    assert str(first) in result.stdout
    for words in [
        "format safetensors",
        "What is the capital of Italy?",
        "B. Rome",
        "0 to 8 (7 of the prompt, 2 of the response)",
        "input_ids 7 tokens",
        "embeddings (9, 6) bfloat16 108 bytes 108 bytes",
        "layer_0 .. layer_2 (3) (9, 6) bfloat16 108 bytes 324 bytes",
    ]:
        assert words in shown


def test_show_as_json_has_every_site_and_all_metadata(first):
    shown = parse(actframe("show", first, "--json"))
    assert (shown["format"], shown["tensor_bytes"], shown["file_bytes"]) == ("safetensors", 432, os.path.getsize(first))
    assert shown["ratio"] == 432 / os.path.getsize(first)
    assert shown["sites"][3] == {"site": "layer_2", "shape": [9, 6], "dtype": "bfloat16", "bytes": 108}
    loaded = load_activations(first)
    assert shown["record"] == {key: value for key, value in loaded.items() if key != "activations"}


def test_a_file_cannot_drive_the_terminal(tmp_path):
    record = make_record("\x1b]0;pwned\x07[bold red]x[/] \x9b2J", 0, subject="\x1b[2J")
    path = save_activations(record, tmp_path / "evil.safetensors")
    for command in (["show", path], ["stats", path], ["compare", path, path]):
        result = actframe(*command)
        assert result.exit_code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(result.stdout)
    assert "[bold red]x[/]" in actframe("show", path).stdout


def test_a_long_value_is_cut_for_reading_and_whole_as_json(tmp_path):
    path = save_activations(make_record("word " * 1000, 0), tmp_path / "long.safetensors")
    assert "(cut)" in actframe("show", path).stdout
    assert parse(actframe("show", path, "--json"))["record"]["prompt"] == "word " * 1000


def test_stats_prints_a_row_for_each_site(first):
    result = actframe("stats", first)
    expected = record_stats(load_activations(first))
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if "@" in line and ":" in line}
    assert list(rows)[:4] == [each.site for each in expected]
    assert float(rows["layer_1"][2]) == pytest.approx(expected[2].std, rel=1e-3)


def test_stats_as_json_gives_every_number(first):
    printed = parse(actframe("stats", first, "--sites", "layer_*", "--json"))
    expected = record_stats(load_activations(first), ["layer_*"])
    assert [each["site"] for each in printed["sites"]] == ["layer_0", "layer_1", "layer_2"]
    assert printed["sites"][0]["kurtosis"] == expected[0].kurtosis
    assert printed["sites"][0]["max_abs_at"] == list(expected[0].max_abs_at)


def test_values_that_are_not_finite_become_null_and_get_a_column(tmp_path):
    broken = {"layer_0": torch.full((9, 6), math.nan)}
    path = save_activations(make_record("x", 0, activations=broken, sites=["layer_0"]), tmp_path / "nan.safetensors")
    printed = parse(actframe("stats", path, "--json"))
    assert (printed["sites"][0]["mean"], printed["sites"][0]["nonfinite"]) == (None, 54)
    assert "nonfinite" in actframe("stats", path).stdout


def test_compare_prints_both_prompts_and_a_row_for_each_site(first, second):
    result = actframe("compare", first, second)
    assert result.exit_code == 0
    assert "A  What is the capital of Italy?" in result.stdout
    assert "B  What is iron?" in result.stdout
    (expected,) = compare_records(load_activations(first), load_activations(second), sites=["layer_2"])
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("layer_2"))
    assert row[1] == f"{expected.cosine:.4f}"
    assert row[4] == f"{expected.cka:.3f}"


@pytest.mark.parametrize("position", ["last", "mean", "3"])
def test_compare_as_json_takes_the_position(first, second, position):
    printed = parse(actframe("compare", first, second, "--position", position, "--sites", "layer_0", "--json"))
    at = 3 if position == "3" else position
    (expected,) = compare_records(load_activations(first), load_activations(second), at, sites=["layer_0"])
    assert printed["position"] == position
    assert [each["cosine"] for each in printed["sites"]] == [expected.cosine]


def test_compare_at_a_position_that_was_not_recorded_fails(first, second):
    result = actframe("compare", first, second, "--position", "99")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no row for position 99; it holds positions 0 to 8" in result.stderr


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", ".safetensors.zst"])
def test_convert_keeps_every_bit_and_all_metadata(first, tmp_path, suffix):
    target = tmp_path / f"converted{suffix}"
    result = actframe("convert", first, target)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"wrote {target}" in result.stdout
    before, after = load_activations(first), load_activations(target)
    assert list(after["activations"]) == list(before["activations"])
    for site, tensor in before["activations"].items():
        assert after["activations"][site].view(torch.int16).equal(tensor.view(torch.int16))
    assert {**after, "activations": None} == {**before, "activations": None}


def test_convert_can_leave_sites_out(first, tmp_path):
    target = tmp_path / "fewer.safetensors"
    assert actframe("convert", first, target, "--sites", "embeddings,layer_2").exit_code == 0
    assert list(load_activations(target)["activations"]) == ["embeddings", "layer_2"]


def test_convert_replaces_a_file_only_with_force(first, second):
    before = second.read_bytes()
    refused = actframe("convert", first, second)
    assert (refused.exit_code, second.read_bytes()) == (1, before)
    assert f"error: {second} exists; use --force to replace it" in refused.stderr
    assert actframe("convert", first, second, "--force").exit_code == 0
    assert load_activations(second)["prompt"] == "What is the capital of Italy?"


def test_convert_onto_itself_loses_nothing(first):
    assert actframe("convert", first, first, "--force").exit_code == 0
    assert len(load_activations(first)["activations"]) == 4


@pytest.mark.parametrize("command", ["show", "stats"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.safetensors", "there is no such file"),
        ("", "is a folder"),
        ("notes.txt", "no storage backend for files ending in '.txt'"),
        ("empty.pkl", "it is empty"),
        ("torn.safetensors", "torn.safetensors"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_of_reason(tmp_path, command, name, words):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.pkl").touch()
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 40)
    result = actframe(command, tmp_path / name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_a_site_that_the_file_lacks_fails_with_those_it_has(first):
    result = actframe("stats", first, "--sites", "layer_9")
    assert result.exit_code == 1
    assert "holds no site 'layer_9'" in result.stderr
    assert "layer_0 .. layer_2" in result.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [("nowhere/x.pkl", "does not exist"), ("x.txt", "no storage backend for files ending in '.txt'")],
)
def test_convert_to_an_impossible_path_fails_before_it_reads(first, tmp_path, target, words):
    result = actframe("convert", first, tmp_path / target)
    assert result.exit_code == 1
    assert words in result.stderr
