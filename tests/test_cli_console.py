import json
import math
import subprocess
import sys

import pytest

from actframe.cli import console


def test_json_is_strict_whatever_the_numbers(capsys):
    console.print_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}, "é": "\x1b[31m\ud800"})

    def refuse(constant):
        raise AssertionError(constant)

    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=refuse) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
        "é": "\x1b[31m\ud800",
    }
    assert printed.isascii()


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b31m", "back\b\b", "\u202eevil", "\ud800"])
def test_what_a_terminal_would_obey_is_spelled_out(text):
    shown = console.printable(text)
    assert shown.isprintable()
    assert shown != text


def test_ordinary_text_of_any_language_is_left_alone():
    text = "¿Qué? 東京 🙂\n\tA. Ωμέγα"
    assert console.printable(text) == text


def test_an_error_is_one_line_however_long_and_without_markup(capsys):
    console.print_error(ValueError("[bold]" + "word " * 100 + "\nend"))
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("error: [bold]word word")


def test_an_error_without_a_message_gives_its_name(capsys):
    console.print_error(MemoryError())
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_a_path_is_never_folded(capsys):
    path = "/data/" + "long-name-" * 40 + "x.pkl"
    console.print_path(path)
    assert capsys.readouterr().out == f"{path}\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "-"),
        (None, "-"),
        (math.inf, "inf"),
        (0.0, "0"),
        (-1234.5, "-1234"),
        (3.4e38, "3.4e+38"),
        (999.96, "1000"),
    ],
)
def test_numbers_have_four_digits(value, shown):
    assert console.number(value) == shown


def test_colours_follow_the_terminal_and_no_color():
    code = "from actframe.cli.console import print_error; print_error(ValueError('x'))"
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    for env, coloured in [({}, False), (forced, True), ({**forced, "NO_COLOR": "1"}, False)]:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
        assert ("\x1b[31m" in done.stderr or "31m" in done.stderr) is coloured, env


def test_waiting_is_announced_on_a_terminal_alone(capsys, monkeypatch):
    console.announce("loading [x]\n")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    console.announce("loading [x]\n")
    assert "loading [x] ..." in capsys.readouterr().err
