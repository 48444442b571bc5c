from datetime import timedelta

import pytest
import typer

from actframe.cli.options import parse_bytes, parse_every, parse_layers, parse_positions, parse_sites


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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * 10**9),
        ("50 gb", 50 * 10**9),
        ("1.5GiB", 3 << 29),
        ("800M", 800 * 10**6),
        ("2TB", 2 * 10**12),
        ("4096", 4096),
        ("12 bytes", 12),
    ],
)
def test_sizes_are_written_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5 apples", "1e9", "5.GB"])
def test_what_is_no_size_is_a_usage_error(text):
    with pytest.raises(typer.BadParameter, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("60s", timedelta(seconds=60)),
        ("1.5 h", timedelta(minutes=90)),
        ("5M", timedelta(minutes=5)),
        ("500", 500),
        ("Never", None),
    ],
)
def test_commits_come_by_time_or_by_number(text, every):
    assert parse_every(text) == every


@pytest.mark.parametrize("text", ["", "soon", "5 d", "-5", "1.5"])
def test_what_is_neither_is_a_usage_error(text):
    with pytest.raises(typer.BadParameter, match="neither a time"):
        parse_every(text)
