import importlib.util
import json
import os
import subprocess
import sys

import pytest

from actframe import ActivationStore
from actframe.cli import demo


def actframe(*arguments, folder):
    command = [sys.executable, "-m", "actframe", *arguments]
    env = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=600, check=True)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo with four questions, run twice in one folder: the second run's output, and the folder."""
    folder = tmp_path_factory.mktemp("demo")
    actframe("demo", "--limit", "2", folder=folder)
    return actframe("demo", "--limit", "4", folder=folder), folder


def commands_of(output):
    return [line for line in output.rpartition("Go on with")[2].splitlines()[1:] if line[:1] not in ("", "#")]


def test_the_demo_shows_results_statistics_similarity_and_a_picture(shown):
    done, folder = shown
    steps = [
        "smollm2 answers 4 questions",
        "Guessing gets 25%",
        "in the store",
        "What is in the first record",
        "kurtosis",
    ]
    steps += ["How alike two prompts", "cosine", "actframe-demo/demo.png", "Go on with"]
    places = [done.stdout.find(step) for step in steps]
    assert places == sorted(places)
    assert places[0] > 0
    assert (folder / "actframe-demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_fits_a_terminal_of_80_columns(shown):
    tables = shown[0].stdout.partition("Go on with")[0]
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= 80
    assert "…" not in "".join(line for line in tables.splitlines() if not line.startswith(("A  ", "B  ")))


def test_the_demo_reports_its_progress_on_stderr(shown):
    assert "4/4" in shown[0].stderr
    assert "tokens/s" in shown[0].stderr
    assert "on disk" in shown[0].stderr


def test_a_second_demo_in_the_same_folder_has_results_of_its_own(shown):
    _, folder = shown
    results = json.loads((folder / "actframe-demo" / "demo-store" / "results.json").read_text())
    assert results["answers"] == {"done": 4, "total": 4}


def test_every_answer_of_the_demo_has_a_record_with_every_layer(shown):
    _, folder = shown
    store = ActivationStore(folder / "actframe-demo" / "demo-store")
    assert len(store) == 4
    assert store.sites == ["embeddings", *(f"layer_{index}" for index in range(30))]
    assert store.stack("layer_20", positions="last_prompt").shape == (4, 576)


def test_the_commands_to_go_on_with_name_the_store(shown):
    done, folder = shown
    commands = commands_of(done.stdout)
    words = ["-c", "-c", "sites", "run"]
    assert [word in command.split() for word, command in zip(words, commands, strict=True)] == [True] * len(words)
    assert all('ActivationStore("actframe-demo/demo-store")' in command for command in commands[:2])
    assert (folder / "actframe-demo" / "demo-store").is_dir()


def test_without_matplotlib_the_demo_says_how_to_get_the_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    demo._plot(None, None, tmp_path / "demo.png")
    assert 'pip install "actframe[plot]"' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_commands_to_go_on_with_work_when_they_are_pasted(shown):
    done, folder = shown
    for command in commands_of(done.stdout):
        subprocess.run(command, shell=True, check=True, cwd=folder, capture_output=True, timeout=600)
