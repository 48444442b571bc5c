"""`actframe questions`: what there is, and what a model will get."""

import json

import pytest
from typer.testing import CliRunner

from actframe.cli.main import app
from actframe.testing import tiny_model, tiny_tokenizer


def actframe(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["questions", *map(str, arguments)])


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "chatty"
    tiny_model("llama").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    tokenizer.save_pretrained(folder)
    return folder


def test_questions_are_counted_by_subject_with_their_answers():
    result = actframe("general")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert rows["all"] == ["144", "4", "A", "36", "B", "36", "C", "36", "D", "36"]
    assert rows["history"][:2] == ["12", "4"]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_json_has_the_counts_and_what_is_shown():
    found = json.loads(
        actframe("general", "--show", 2, "--system", "Be brief.", "--subjects", "history", "--json").stdout
    )
    assert (found["benchmark"], found["questions"], list(found["subjects"])) == ("general", 12, ["history"])
    assert found["choices"] == {"4": 12}
    first = found["shown"][0]
    assert [each["role"] for each in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["content"] == "Be brief."
    assert "prompt" not in first


def test_a_preview_is_readable_in_eighty_columns():
    result = actframe("general", "--show", 3)
    assert result.exit_code == 0
    assert result.stdout.count("[user]") == 3
    assert "Choose one of these answers:" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_without_a_chat_template_the_prompt_is_one_text():
    result = actframe("general", "--show", 1, "--chat-template", "off")
    assert result.stdout.rstrip().endswith("Answer:")


def test_with_a_model_prompts_are_what_its_tokenizer_makes_of_them(chatty):
    found = json.loads(actframe("general", "--show", 1, "--model", chatty, "--system", "Hi.", "--json").stdout)
    (shown,) = found["shown"]
    assert shown["prompt"] == f"<system>Hi.<user>{shown['messages'][1]['content']}<assistant>"
    assert shown["tokens"] == len(shown["prompt"].encode())
    printed = actframe("general", "--show", 1, "--model", chatty).stdout
    assert f"{shown['tokens'] - len('<system>Hi.')} tokens" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 1, "nothing"),
        (["general", "--subjects", "histori"], 1, "no subject 'histori' (did you mean 'history'?)"),
        (["general", "--subjects", ","], 2, "the list is empty"),
        (["general", "--chat-template", "maybe"], 2, "'maybe' is not one of auto, on, off"),
        (["general", "--prompt-style", "loud"], 2, "'loud' is not one of direct, reason"),
        (["general", "--num-fewshot", "3", "--show", "1"], 1, "no examples to show"),
        (["general", "--num-fewshot", "3"], 1, "no examples to show"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments, code, message):
    result = actframe(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split()).replace("│ ", "").replace(" │", "")


def test_a_subject_with_too_few_examples_is_found_wherever_it_stands(tmp_path):
    for split, per_subject in (("dev", {"botany": 3, "zoology": 2}), ("test", {"botany": 2, "zoology": 1})):
        (tmp_path / split).mkdir()
        for subject, count in per_subject.items():
            rows = [f"{split} {subject} {number}?,a,b,c,d,A" for number in range(count)]
            (tmp_path / split / f"{subject}_{split}.csv").write_text("\n".join(rows) + "\n")
    assert actframe("mmlu", "--data", tmp_path, "--num-fewshot", 2).exit_code == 0
    result = actframe("mmlu", "--data", tmp_path, "--num-fewshot", 3)
    assert result.exit_code == 1
    assert "has 2 for the subject 'zoology'" in " ".join(result.stderr.split())
    assert result.stdout == ""
