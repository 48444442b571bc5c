"""The word problems of `arithmetic`: answers against the expressions beside them; how they are put and answered."""

import ast
import operator
from collections import Counter
from fractions import Fraction

import pytest

from actframe.benchmarks.arithmetic import Arithmetic
from actframe.benchmarks.base import BenchmarkAdapter
from actframe.benchmarks.numerals import canonical_number
from actframe.benchmarks.prompting import Prompting
from actframe.registry import registry

QUESTIONS = list(Arithmetic().questions())
OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def exact_value(expression):
    """What an expression of numbers and the six operations is worth, exactly: 0.1 is a tenth here."""

    def value(node):
        match node:
            case ast.BinOp():
                return OPERATIONS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.Constant():
                return Fraction(ast.get_source_segment(expression, node))
        raise ValueError(f"{ast.dump(node)} is no arithmetic")

    return value(ast.parse(expression, mode="eval").body)


def test_the_evaluator_is_exact_and_takes_nothing_but_arithmetic():
    assert exact_value("0.1 + 0.2 - (-3) * 4 / 8 + 7 // 2 + 7 % 2") == Fraction("0.3") + Fraction("1.5") + 4
    with pytest.raises(ValueError, match="no arithmetic"):
        exact_value("print(1)")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_the_answer_is_what_the_check_gives(question):
    assert canonical_number(exact_value(question.metadata["check"])) == question.answer


def test_the_registry_finds_it():
    assert registry().find(BenchmarkAdapter, "arithmetic") is Arithmetic


def test_there_are_nine_problems_of_each_of_eight_kinds():
    kinds = {question.subject for question in QUESTIONS}
    assert len(kinds) == 8
    assert Counter(question.subject for question in QUESTIONS) == dict.fromkeys(kinds, 9)
    for kind in kinds:
        ids = [question.id for question in QUESTIONS if question.subject == kind]
        assert ids == [f"arithmetic/{kind}/{number:02}" for number in range(1, 10)]


def test_each_round_of_eight_has_every_kind():
    for start in range(0, len(QUESTIONS), 8):
        assert len({question.subject for question in QUESTIONS[start : start + 8]}) == 8


def test_there_are_negative_decimal_and_fractional_answers():
    answers = [Fraction(question.answer) for question in QUESTIONS]
    assert sum(answer < 0 for answer in answers) >= 8
    assert sum(answer.denominator > 1 for answer in answers) >= 12
    assert "5/12" in {question.answer for question in QUESTIONS}


def test_a_prompt_asks_for_the_calculation_and_the_number():
    (message,) = Arithmetic().conversation(QUESTIONS[0], Prompting(chat=True))
    prompt = message.content
    assert prompt.startswith(f"{QUESTIONS[0].text}\n")
    assert '"The answer is" and the number' in prompt


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_each_answer_is_recognised_however_it_is_put(question):
    arithmetic = Arithmetic()
    for response in (
        question.answer,
        f"We get {question.metadata['check']} = {question.answer}.",
        f"It is **{question.answer}**.",
    ):
        assert arithmetic.score(arithmetic.extract_answer(response, question), question), response


def test_numbers_of_the_question_alone_are_no_answer():
    arithmetic = Arithmetic()
    for question in QUESTIONS:
        statement = question.text.rpartition("?")[0].rpartition(". ")[0]
        if statement:
            assert arithmetic.extract_answer(f"{statement}.", question) is None, question.id


def test_a_wrong_or_missing_number_does_not_score():
    arithmetic = Arithmetic()
    assert not arithmetic.score("16", QUESTIONS[0])
    assert not arithmetic.score(arithmetic.extract_answer("I do not know.", QUESTIONS[0]), QUESTIONS[0])
