"""The questions of `general`: how many, how balanced, and how they are put and answered."""

from collections import Counter

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.benchmarks.general import General
from actframe.registry import registry

QUESTIONS = list(General().questions())
ROUNDS = [QUESTIONS[start : start + 12] for start in range(0, len(QUESTIONS), 12)]


def right_choice(question):
    return question.choices[question.letters.index(question.answer)]


def share_guessed(pick):
    """How many questions a guess by length gets, a tie counting in part."""
    points = 0.0
    for question in QUESTIONS:
        length = pick(map(len, question.choices))
        tied = [choice for choice in question.choices if len(choice) == length]
        points += (right_choice(question) in tied) / len(tied)
    return points / len(QUESTIONS)


def test_the_registry_finds_it():
    assert registry().find(BenchmarkAdapter, "general") is General


def test_there_are_twelve_questions_of_each_of_twelve_subjects():
    assert Counter(question.subject for question in QUESTIONS) == dict.fromkeys({q.subject for q in QUESTIONS}, 12)
    assert len({question.subject for question in QUESTIONS}) == 12
    assert Counter(question.metadata["difficulty"] for question in QUESTIONS) == {"easy": 48, "medium": 48, "hard": 48}


def test_ids_name_the_subject_and_its_number_in_order():
    for subject in {question.subject for question in QUESTIONS}:
        ids = [question.id for question in QUESTIONS if question.subject == subject]
        assert ids == [f"general/{subject}/{number:02}" for number in range(1, 13)]


def test_any_round_of_twelve_stands_for_the_whole():
    for questions in ROUNDS:
        assert len({question.subject for question in questions}) == 12
        assert Counter(question.metadata["difficulty"] for question in questions) == {"easy": 4, "medium": 4, "hard": 4}
        assert Counter(question.answer for question in questions) == {"A": 3, "B": 3, "C": 3, "D": 3}


def test_letters_and_lengths_do_not_tell_the_answer():
    letters = [question.answer for question in QUESTIONS]
    assert set(Counter(letters).values()) == {36}
    assert not any(len(set(letters[start : start + 4])) == 1 for start in range(len(letters) - 3))
    assert share_guessed(max) < 0.3
    assert share_guessed(min) < 0.3


def test_each_question_has_four_options_that_differ():
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)
    for question in QUESTIONS:
        assert len({choice.strip().lower() for choice in question.choices}) == 4, question.id
        assert question.text.endswith("?"), question.id


def test_a_prompt_has_the_question_and_its_options_without_letters():
    question = QUESTIONS[0]
    assert General().prompt(question).splitlines() == [
        question.text,
        "Choose one of these answers:",
        *(f"- {choice}" for choice in question.choices),
    ]


def test_each_option_is_recognised_by_its_letter_and_by_its_text():
    general = General()
    for question in QUESTIONS:
        for letter, choice in zip(question.letters, question.choices, strict=True):
            for response in (
                letter,
                f"({letter})",
                f"{letter}. {choice}",
                f"- {choice}",
                f"The answer is {choice}",
                choice,
            ):
                assert general.extract_answer(response, question) == letter, (question.id, response)


def test_only_the_right_letter_scores():
    general, question = General(), QUESTIONS[0]
    assert [general.score(letter, question) for letter in question.letters].count(True) == 1
    assert general.score(general.extract_answer(right_choice(question), question), question)
    assert not general.score(None, question)


def test_options_are_ranked_by_their_texts_since_no_letters_are_shown():
    question = next(iter(General().questions()))
    found = General().completions(question)
    assert [each.continuation for each in found] == [f" {choice}" for choice in question.choices]
    assert {each.context for each in found} == {f"Question: {question.text}\nAnswer:"}
