import pytest
import typer

from actframe.cli.options import parse_layers, parse_positions, parse_sites


@pytest.mark.parametrize(
    ("text", "layers"),
    [(None, []), ("0,5,-1", [0, 5, -1]), ("0-3", [0, 1, 2, 3]), (" 2 , 4-5 ,", [2, 4, 5]), ("7-7", [7])],
)
def test_layers_are_numbers_and_ranges(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["a", "1..3", "1-", "1.5", "-3--1"])
def test_what_is_not_a_layer_is_a_usage_error_that_shows_how(text):
    with pytest.raises(typer.BadParameter, match="write numbers and ranges, as in '0,5,-1' or '0-5'"):
        parse_layers(text)


def test_an_empty_range_is_a_usage_error():
    with pytest.raises(typer.BadParameter, match="the range '5-2' is empty"):
        parse_layers("5-2")


def test_sites_are_names_and_patterns_between_commas():
    assert parse_sites("embeddings, layer_*.mlp_out,") == ["embeddings", "layer_*.mlp_out"]
    assert parse_sites(None) == []


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("all", "all"),
        ("1:5", slice(1, 5)),
        ("-4:", slice(-4, None)),
        (":", slice(None, None)),
        ("0,3,-1", [0, 3, -1]),
        ("7", [7]),
        ("nowhere", "nowhere"),
    ],
)
def test_positions_are_words_slices_or_numbers(text, positions):
    assert parse_positions(text) == positions
