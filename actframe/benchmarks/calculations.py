"""The numbers that a response gives as its answer, in the order in which `extract_number` looks for them."""

from __future__ import annotations

import re

from actframe.benchmarks.claims import CONCLUSION, NO_ANSWER, affirmed, claim_at, is_open, last_statement
from actframe.benchmarks.numerals import canonical_number, find_numerals, number_word
from actframe.benchmarks.responses import plain_text, sentences

__all__ = ["concluded_numbers", "stated_numbers"]

SENTENCE_LENGTH = 1000

ANSWER_CUE = re.compile(
    r"\b(?:answer|solution|final (?:result|value|amount|total))\b[^.:;!?\n=]{0,60}?"
    r"(?:\b(?:is|are|was|be|equals)\b|[:=])\s*|\b(?:result|total)\s?:\s*",
    re.I,
)
IS_THE_ANSWER = re.compile(r"\s(?:is|would be|must be)\s(?:the|my|our)\s(?:\w{1,20}\s){0,2}answer\b", re.I)
WORD = re.compile(r"[^\W\d_]+")
REASON = re.compile(r",\s|\s(?:because|since|as|where|which)\s|\s\(")
EQUALITY = re.compile(
    r"=|\b(?:equals|equal to|results in)\b|\b(?:gives(?: us)?|which is)(?=\s(?:about |only |just |equal to )?[$\d-])",
    re.I,
)
COMPARISON = re.compile(
    r"\s?%?\s(?:\w+\s)?(?:more|less|fewer|times (?:as|more|the)|higher|lower|older|younger)\b", re.I
)
OPERATION = re.compile(r"\s?[*/+^]\s?[\w($.]|\s-\s?[\w($.]|\sx\s?\d")
ALTERNATIVE = re.compile(
    r"(?:\s?[%°]|(?:\s[\w%°]+){0,3}?)\s(?:(?:or|and)\s(?:\w+\s)?|to\s)[$€£-]?$|,\s(?:and|or)\s[$€£-]?$"
)
FORMULA = re.compile(r"(?:[\w */+()$%=-]|[.,](?!\s)){1,100}=[ $-]*\d[\d.,]*[ \w%]{0,30}")
CONTINUATION = re.compile(r"now|next|then|let(?:'s|\sus)|step|first|second|however|but|wait|actually|\d", re.I)
ASIDE = re.compile(
    r"\([^()\n]{0,80}\)"
    r"|,?\s(?:after|because|since|if|when|before|while|given that|as there|as each)\s.*"
    r"|,\s(?:which|but|with|where|whereas)\s.*",
    re.I,
)
UNFINISHED = re.compile(
    r"(?:[-+*/=(,]|\b(?:a|an|and|are|as|by|for|from|in|is|it|of|or|so|that|the|then|therefore|this|to|we|which|with))$",
    re.I,
)
DENIED = re.compile(r"(?:\bnot|n't)\s[$€£]?$", re.I)
BESIDE_THE_POINT = re.compile(
    r"\b(?:(?<!total )of|for|in|after|at|from|with|per|every|each|within|during|on|than|to\s[a-z]{1,20})\s"
    r"(?:(?:the|a|an|all|first|last|other|original|same|its|his|her|their)\s){0,2}[$€£]?$",
    re.I,
)
NO_RESULT = re.compile(
    r"^(?:(?:this|that|it) is (?:because|a|an|since|why)\b|because\b|note\b|for example\b)"
    r"|\b(?:cannot|can't|could not|couldn't|unable to|don't know|do not know|not sure|no idea)\b",
    re.I,
)


def stated_numbers(text: str) -> set[str]:
    """The numbers of the last statement that gives any: "the answer is 15", "15 is the answer", `Answer: 15`."""
    statements = [(cue.end(), _claimed(claim_at(text, cue.end()))) for cue in ANSWER_CUE.finditer(text)]
    for verdict in IS_THE_ANSWER.finditer(text):
        before = sentences(text[max(0, verdict.start() - SENTENCE_LENGTH) : verdict.start()])[-2:]
        subject = next((sentence for sentence in reversed(before) if _has_numeral(sentence)), "")
        statements.append((verdict.start(), _result(subject)))
    return last_statement(statements)


def concluded_numbers(text: str, question: str = "") -> set[str]:
    """The number of the sentence that reads most like the end of the calculation, and does not repeat the question."""
    asked = _Asked(question)
    everything = sentences(text)
    conclusions = [index for index, sentence in enumerate(everything) if _is_conclusion(sentence)]
    if everything and _breaks_off(text, everything):
        return _concluded_before_break(everything, conclusions)
    results = [sentence for sentence in everything if _has_numeral(sentence) and not NO_RESULT.search(sentence)]
    results = [sentence for sentence in results if not asked.is_repeated_by(sentence)]
    if not results:
        return set()
    last = results[-1]
    if not _right_side(last):
        if conclusions and last != everything[-1]:
            last = everything[conclusions[-1]]
        elif asked.gives_numbers_of(last) and last not in (everything[index] for index in conclusions):
            last = next((sentence for sentence in reversed(results) if _right_side(sentence)), last)
    return _result(last)


class _Asked:
    """A question, which calculations often begin or end by repeating."""

    def __init__(self, question: str) -> None:
        self._text = plain_text(question).lower()
        self._words = set(WORD.findall(self._text))
        self._numbers = {numeral.value for numeral in find_numerals(self._text)}

    def gives_numbers_of(self, sentence: str) -> bool:
        return self._numbers.issuperset(numeral.value for numeral in find_numerals(sentence))

    def is_repeated_by(self, sentence: str) -> bool:
        """Whether a sentence calculates nothing and has its numbers and nearly all of its words from the question.

        A short one has to stand there as it is: "He sells 50 apples" may repeat, "He has 50 left" may answer.
        """
        words = set(WORD.findall(sentence.lower()))
        alike = len(words) >= 4 and len(words & self._words) >= 0.8 * len(words) and not EQUALITY.search(sentence)
        verbatim = len(words) >= 3 and sentence.lower().rstrip(".") in self._text
        return (alike or verbatim) and self.gives_numbers_of(sentence)


def _breaks_off(text: str, everything: list[str]) -> bool:
    """Whether the last sentence lacks the end that the others have, is half a formula, or only says what comes next."""
    last = everything[-1]
    if UNFINISHED.search(last) or (CONTINUATION.match(last) and not _has_numeral(last)):
        return True
    punctuated = any(sentence[-1] in ".!?" for sentence in everything[:-1])
    return punctuated and last[-1] not in ".!?)%" and not FORMULA.fullmatch(text.rpartition("\n")[2])


def _concluded_before_break(everything: list[str], conclusions: list[int]) -> set[str]:
    """The number of the last conclusion, unless the calculation goes on after it."""
    last = len(everything) - 1
    if conclusions and conclusions[-1] == last:
        conclusions = conclusions[:-1]
        result = _right_side(everything[last])
        # Where the text ends in a digit, others may have been cut off.
        if result and not everything[last][-1].isdigit():
            return {result}
    if not conclusions:
        return set()
    after = everything[conclusions[-1] + 1 :]
    if (
        (after and after[-1][-1] == "=")
        or any(CONTINUATION.match(sentence) for sentence in after)
        or any(map(_has_numeral, after[:-1]))
    ):
        return set()
    return _result(everything[conclusions[-1]])


def _is_conclusion(sentence: str) -> bool:
    return CONCLUSION.match(sentence) is not None and sentence[-1] != ":" and _has_numeral(sentence)


def _claimed(claim: str) -> set[str]:
    """The number that a claim gives; both of "3 or 4"; none for "3 + 4" without a result."""
    if is_open(claim):
        return {NO_ANSWER}
    claim = affirmed(claim)
    reason = REASON.search(claim, 1)
    if reason and not (OPERATION.search(claim, 0, reason.start()) and _right_side(claim)):
        return _claimed(claim[: reason.start()]) or _claimed(claim[reason.end() :])
    result = _right_side(claim)
    if result:
        return {result}
    numerals = list(find_numerals(claim))
    if not numerals:
        word = number_word(claim.lstrip(" \"'("))
        return set() if word is None else {canonical_number(word)}
    if OPERATION.match(claim, numerals[0].end):
        return set()
    if len(numerals) > 1 and ALTERNATIVE.fullmatch(claim, numerals[0].end, numerals[1].start):
        return {canonical_number(numeral.value) for numeral in numerals[:2]}
    return {canonical_number(numerals[0].value)}


def _result(sentence: str) -> set[str]:
    """What a sentence comes to: the right side of its equation, else its last number that is to the point."""
    sentence = sentence[-SENTENCE_LENGTH:]
    result = _right_side(sentence)
    if result:
        return {result}
    numerals = [
        numeral
        for numeral in find_numerals(sentence)
        if not DENIED.search(sentence, max(0, numeral.start - 8), numeral.start)
    ]
    asides = [aside.span() for aside in ASIDE.finditer(sentence)]
    said = [numeral for numeral in numerals if not any(start < numeral.start < end for start, end in asides)]
    if len(said) > 1 and ALTERNATIVE.fullmatch(sentence, said[-2].end, said[-1].start):
        return {canonical_number(numeral.value) for numeral in said[-2:]}
    to_the_point = [
        numeral for numeral in said if not BESIDE_THE_POINT.search(sentence, max(0, numeral.start - 30), numeral.start)
    ]
    return {canonical_number(numeral.value) for numeral in (to_the_point or said or numerals)[-1:]}


def _right_side(sentence: str) -> str | None:
    """The number after the last sign of equality, unless it begins another calculation."""
    result = None
    for sign in EQUALITY.finditer(sentence):
        numeral = next(find_numerals(sentence[sign.end() : sign.end() + 100]), None)
        end = sign.end() + numeral.end if numeral else 0
        if numeral and numeral.start <= 20 and not (OPERATION.match(sentence, end) or COMPARISON.match(sentence, end)):
            result = canonical_number(numeral.value)
    return result


def _has_numeral(text: str) -> bool:
    return next(find_numerals(text), None) is not None
