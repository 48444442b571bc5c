import csv
import io
import json
import random

import pytest
from toys import Toy, settings
from typer.testing import CliRunner

from actframe import ActivationStore
from actframe.cli.main import app
from actframe.runs.results import RESULTS
from actframe.runs.run import BenchmarkRun
from actframe.testing import random_record


def actframe(*arguments, width=80):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["results", *map(str, arguments)])


def squeeze(text):
    return " ".join(text.split())


def fill(path, share=0.5, questions=40, trials=1, start=0, model="tiny", benchmark="sums", **said):
    """A store in which so many answers are right, of two subjects in turn."""
    run = {
        "model": {"name": model},
        "benchmark": {"name": benchmark, "questions": questions},
        "num_trials": trials,
    }
    generator = random.Random(f"{share} {model}")
    with ActivationStore(path, run=run) as store:
        for trial in range(trials):
            for number in range(start, start + questions):
                right = generator.random() < share
                answer = {"extracted_answer": "A" if right else "B", "correct": right, "expected": "A", "chance": 0.25}
                store.append(random_record(number, 2, trial=trial, model=model, **{**answer, **said}))
    return path


def parse(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_run_is_printed_with_its_error_bars(tmp_path):
    store = fill(tmp_path / "run")
    (run,) = parse(actframe(store, "--json"))["runs"]
    summary = run["summary"]
    text = squeeze(actframe(store).stdout)
    for words in [
        str(store),
        "sums, answered by tiny",
        f"all 40 {summary['accuracy']:.1%} {summary['low']:.1%} - {summary['high']:.1%}",
        f"{summary['standard_error']:.1%}",
        "Guessing gets 25%.",
        f"macro accuracy {summary['macro']:.1%}",
    ]:
        assert words in text, words
    for word in ("even 20", "trials", "Differences", "not complete"):
        assert word not in text
    assert "even 20" in squeeze(actframe(store, "--by-subject").stdout)


def test_figures_of_several_trials_are_printed(tmp_path):
    store = fill(tmp_path / "run", trials=3, metrics={"accuracy_norm": 0.5})
    (run,) = parse(actframe(store, "--json"))["runs"]
    summary = run["summary"]
    text = squeeze(actframe(store).stdout)
    for words in [
        "trials 3",
        *(f"pass@{k} {summary['pass_at'][f'pass@{k}']:.1%}" for k in (1, 2, 3)),
        f"majority vote {summary['majority']:.1%}",
        f"agreement {summary['agreement']:.1%}",
        "accuracy_norm 0.5 ± 0",
    ]:
        assert words in text, words


@pytest.mark.parametrize("width", [80, 120])
def test_several_runs_stand_side_by_side_and_are_compared_with_the_first(tmp_path, width):
    stores = [
        fill(tmp_path / "base"),
        fill(tmp_path / "tuned", 0.7, 45, model="tuned"),
        fill(tmp_path / "trials", 0.6, trials=2),
        fill(tmp_path / "elsewhere", start=500),
        fill(tmp_path / "products", benchmark="products"),
    ]
    data = parse(actframe(*stores, "--json"))
    tuned, trials, elsewhere, products = data["differences"]
    assert [(each["first_run"], each["second_run"]) for each in data["differences"]] == [(0, n) for n in (1, 2, 3, 4)]
    assert (tuned["kind"], tuned["questions"], tuned["only_second"]) == ("paired", 40, 5)
    assert (trials["kind"], trials["discordant"]) == ("paired", None)
    assert (elsewhere["kind"], elsewhere["questions"]) == ("independent", 0)
    assert "different benchmarks" in products["refused"]
    shown = actframe(*stores, width=width).stdout
    text = squeeze(shown)
    found = tuned["discordant"]
    interval = f"{100 * tuned['low']:+.1f} to {100 * tuned['high']:+.1f} {100 * tuned['standard_error']:.1f}"
    for words in [
        "B - A 40 "
        f"{100 * tuned['difference']:+.1f} {interval} {found['only_second']} {found['only_first']} "
        f"{found['p_value']:.4f}",
        "B - A: from A to B changed model.name: tiny -> tuned, benchmark.questions: 40 -> 45",
        "B - A: over the 40 questions that both answered, without 5 that only B answered",
        "D - A: they share no question, so this is the difference of two independent samples",
        f"E - A: {stores[0]} answers sums and {stores[4]} answers products",
        f"B {data['runs'][1]['summary']['questions']} {data['runs'][1]['summary']['accuracy']:.1%}",
    ]:
        assert words in text, words
    tables, _, notes = shown.partition("B - A: from")
    # Paths are folded, and sentences left to the terminal.
    assert max(map(len, tables.splitlines())) <= width
    assert notes
    assert squeeze(actframe(*stores[:2], "--by-subject").stdout).count("even 2") == 2


def test_a_run_compared_with_itself_claims_no_certainty(tmp_path):
    store = fill(tmp_path / "run")
    text = squeeze(actframe(store, store).stdout)
    assert "B - A 40 +0.0 - 0.0 0 0 1.0000" in text
    assert "each question has the same difference" in text


def test_questions_that_expect_something_else_are_said(tmp_path):
    stores = [fill(tmp_path / "a"), fill(tmp_path / "b", 0.6, expected="C")]
    assert "40 of the questions expect another answer" in squeeze(actframe(*stores).stdout)


def test_what_was_done_differently_is_said_in_words_where_there_are_some(tmp_path):
    store = fill(tmp_path / "a")
    identity = json.loads((store / "run.json").read_text())
    for changes, words in [
        ({"scoring": "loglikelihood", "weights": "sha256:77", "capture": {"sites": []}}, "scoring: none -> loglikel"),
        ({"weights": "sha256:77"}, "changed weights: none -> sha256:77"),
        ({f"s{number}": 1 for number in range(20)}, "s7: none -> 1, ..."),
    ]:
        other = fill(tmp_path / next(iter(changes)))
        (other / "run.json").write_text(json.dumps({**identity, "run": {**identity["run"], **changes}}))
        text = squeeze(actframe(store, other).stdout)
        assert words in text
        assert "capture" not in text
        assert ("sha256" in text) == (list(changes) == ["weights"])


def test_a_run_that_is_not_complete_says_so_and_what_was_left_out(tmp_path):
    store = fill(tmp_path / "run", trials=2)
    identity = json.loads((store / "run.json").read_text())
    identity["run"]["num_trials"] = 3
    (store / "run.json").write_text(json.dumps(identity))
    said = {
        "partial": True,
        "reason": "interrupted",
        "too_long": ["a", "b"],
        "seconds": 90.0,
        "tokens_per_second": 41.5,
    }
    (store / RESULTS).write_text(json.dumps(said))
    text = squeeze(actframe(store).stdout)
    for words in [
        "not complete 80 of 120 answers: interrupted",
        "too long 2 questions left out",
        "speed 41.5 tokens/s",
    ]:
        assert words in text, words


def test_files_that_a_run_wrote_are_read_as_a_store_is(tiny, tmp_path):
    for layout in ("files", "store"):
        BenchmarkRun(tiny, Toy(), tmp_path / layout, settings(layout=layout)).execute()
    files, store = parse(actframe(tmp_path / "files", tmp_path / "store", "--json"))["runs"]
    assert files["summary"] == store["summary"]
    assert "toy, answered by tiny" in actframe(tmp_path / "files").stdout


def test_the_table_has_a_row_for_each_run_and_subject(tmp_path):
    stores = [fill(tmp_path / "a", metrics={"accuracy": 1.0}), fill(tmp_path / "b, c", trials=4)]
    (tmp_path / "out.csv").write_text("old")
    shown = actframe(*stores, "--csv", tmp_path / "out.csv")
    assert f"wrote {tmp_path / 'out.csv'}" in shown.stdout
    alone = actframe(*stores, "--csv", "-")
    assert alone.stdout == (tmp_path / "out.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(alone.stdout)))
    runs = parse(actframe(*stores, "--json"))["runs"]
    assert [(row["store"], row["subject"]) for row in rows] == [
        (str(store), subject) for store in stores for subject in ("", "even", "odd")
    ]
    for row, run in zip(rows[::3], runs, strict=True):
        for key in ("accuracy", "standard_error", "low", "high", "macro", "chance", "majority"):
            assert float(row[key]) == run["summary"][key], key
    assert (rows[0]["metrics.accuracy"], rows[3]["metrics.accuracy"]) == ("1.0", "")
    assert [name for name in rows[0] if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4"]
    assert (rows[0]["pass@4"], float(rows[3]["pass@4"])) == ("", runs[1]["summary"]["pass_at"]["pass@4"])


def test_a_run_that_nobody_judged_has_no_accuracy(tmp_path):
    stores = [fill(tmp_path / "a"), fill(tmp_path / "b", correct=None)]
    assert "No answers." in actframe(stores[1]).stdout
    text = squeeze(actframe(*stores).stdout)
    assert "B - A: the second has no answers that were judged" in text
    assert actframe(*stores, "--csv", "-").stdout.count("\n") == 4


def test_what_has_no_results_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = fill(tmp_path / "run")
    with ActivationStore(tmp_path / "empty"):
        pass
    for path, code, words in [
        ("rum", 1, "nothing is there (did you mean 'run'?)"),
        ("run/shards", 1, "is a part of the store run; give the store itself"),
        ("run/run.json", 1, "give the store itself"),
        ("empty", 1, "has no answers: it has no record"),
        (".", 1, "lists the stores below it"),
    ]:
        result = actframe(path)
        assert (result.exit_code, words in squeeze(result.stderr)) == (code, True), result.stderr
    result = actframe(store, "--csv", "-", "--json")
    assert result.exit_code == 2
    assert "both want stdout" in squeeze(result.stderr)
    result = actframe(store, "--csv", tmp_path / "no" / "x.csv")
    assert result.exit_code == 1
