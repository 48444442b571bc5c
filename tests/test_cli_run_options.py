import pytest
import torch
import typer

from actframe.cli.run_options import CaptureFlags
from actframe.errors import SelectionError, UnknownNameError

NOTHING = dict.fromkeys(["layers", "sites", "positions", "dtype", "strategy", "storage"])


def test_without_flags_everything_is_left_to_the_defaults():
    flags = CaptureFlags(**NOTHING)
    flags.check(wanted=True)
    settings = flags.settings()
    assert (settings.select.sites, settings.select.positions, settings.select.dtype) == (None, "all", None)
    assert (settings.strategy, settings.storage) == ("hooks", "safetensors")


def test_layers_and_sites_are_taken_together():
    flags = CaptureFlags(**{**NOTHING, "layers": "0-1,-1", "sites": "embeddings,layer_*.mlp_out", "dtype": "float16"})
    settings = flags.settings()
    assert settings.select.sites == [0, 1, -1, "embeddings", "layer_*.mlp_out"]
    assert settings.select.dtype == torch.float16


@pytest.mark.parametrize("name", list(NOTHING))
def test_a_flag_that_would_do_nothing_is_a_usage_error(name):
    flags = CaptureFlags(**{**NOTHING, name: "0"})
    with pytest.raises(typer.BadParameter, match=f"--{name} says what to capture; add --capture-activations"):
        flags.check(wanted=False)


def test_a_list_that_cannot_be_read_is_found_before_anything_is_loaded():
    with pytest.raises(typer.BadParameter, match="'x' is not a layer"):
        CaptureFlags(**{**NOTHING, "layers": "x"}).check(wanted=True)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("positions", "nowhere", SelectionError),
        ("dtype", "int8", SelectionError),
        ("strategy", "magic", UnknownNameError),
        ("storage", "zipn", UnknownNameError),
    ],
)
def test_what_the_settings_refuse_is_refused(name, value, error):
    with pytest.raises(error, match=value):
        CaptureFlags(**{**NOTHING, name: value}).settings()
