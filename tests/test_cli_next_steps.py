import os
import shlex
import subprocess
import sys

import pytest

from actframe.cli.next_steps import actframe_command, print_commands, python_command


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A virtual environment below the current folder, whose Python is a link to another one."""
    binaries = tmp_path / "project" / "env" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    (binaries / "actframe").write_text("#!/bin/sh\n")
    (binaries / "actframe").chmod(0o755)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(sys, "argv", [str(binaries / "actframe"), "demo"])
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", os.path.dirname(os.path.realpath(sys.executable)))
    return binaries


def test_an_environment_that_is_active_needs_no_path(environment, monkeypatch):
    monkeypatch.setenv("PATH", str(environment))
    assert actframe_command("show", "x.pkl") == ["actframe", "show", "x.pkl"]
    assert python_command("-c", "1") == ["python", "-c", "1"]


@pytest.mark.usefixtures("environment")
def test_an_environment_that_is_not_active_is_named_by_its_path_from_here():
    assert actframe_command("show") == ["env/bin/actframe", "show"]
    assert python_command("-V") == ["env/bin/python", "-V"]


def test_an_environment_elsewhere_is_named_by_its_whole_path(environment, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert actframe_command("show") == [str(environment / "actframe"), "show"]


def test_another_actframe_that_the_shell_would_find_is_not_taken_for_this_one(environment, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "actframe").symlink_to(environment / "actframe")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert actframe_command()[0] == "env/bin/actframe"


@pytest.mark.usefixtures("environment")
def test_what_runs_as_a_module_is_run_as_a_module_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/actframe/__main__.py"])
    assert actframe_command("show") == ["env/bin/python", "-m", "actframe", "show"]


def test_commands_survive_the_shell_whatever_the_path(capsys):
    odd = ["printf", "%s", 'a b/it\'s $HOME "x" `y` [red]' + "long" * 100]
    print_commands({"a purpose": odd})
    purpose, printed = capsys.readouterr().out.splitlines()
    assert purpose == "# a purpose"
    assert shlex.split(printed) == odd
    assert subprocess.run(printed, shell=True, capture_output=True, text=True, check=True).stdout == odd[2]
