r"""The formulas that a response gives as its answer, in the order in which `extract_math` looks for them.

LaTeX is part of the answer here, so these read the final part of a response as it is and not as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from actframe.benchmarks.claims import CLAIM_LENGTH, CONCLUSION, NO_ANSWER, affirmed, claim_at, is_open, last_statement
from actframe.benchmarks.expressions import bare_expression
from actframe.benchmarks.responses import with_answer_lines

__all__ = ["boxed_formulas", "closing_formulas", "concluded_formulas", "stated_formulas"]

MOST_WORDS = 3
JOINT_LENGTH = 40

BRACE = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s{0,3}(?:(?P<box>\{)|(?P<bare>-?[\w.]{1,40}))|\\.|[{}]", re.S)
PADDING = re.compile(r"\\(?:text|mbox|q?quad)(?![a-zA-Z])|[\s${}()\[\]\\]")
JOINTS = {",": ",", ";": ",", "and": ",", ",and": ",", "or": "or", ",or": "or"}

CUE = re.compile(
    r"\b(?:answers?|solutions?|final (?:result|value|amount|total))\b[^.:;!?\n=$\\]{0,60}?"
    r"(?:\b(?:is|are|was|be|equals)\b|[:=])\s*",
    re.I,
)
FILLER = re.compile(
    r"(?:(?:therefore|thus|then|also|simply|just|only|exactly|approximately|about|indeed|now|given by|equal to|that)"
    r"\b[,:]?\s*)*",
    re.I,
)
RESULT = re.compile(r"\b(?:is|was|equals|(?<!there )are)\b:?\s*", re.I)
SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
VALUE = re.compile(r"\d|\\[a-zA-Z]")
DISPLAY = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.S)
SET_OFF = re.compile(rf"{DISPLAY.pattern}|\$([^$]+)\$|\\\((.+?)\\\)", re.S)
REASON = re.compile(r",?\s(?:because|since|as|where|which|when|for|so|if|i hope)\s|\s\((?=[a-z]{3})", re.I)
CONJUNCTION = re.compile(r"(?<!\{),?\s(or|and)\s(?!\})|(?<=\$),\s(?=\$)|(?<=\\\)),\s(?=\\\()")
NO_PROSE = re.compile(
    r"\\(?:text|mbox|mathrm|begin|end)\s{0,3}\{[^{}]*\}|\\[a-zA-Z]+|\b(?:sin|cos|tan|log|ln|pi|sqrt)\b"
)
PROSE = re.compile(r"(?<![\w^{(*/+-])[A-Za-z]{2,}(?![\w^}(*/+-])")
MARK = re.compile(r"[\d\\^_=+*/()<>|-]|^[A-Za-z]$")
VAGUE = re.compile(r"\b(?:as|in|on|at|to|by|of|the|this|that|found|given|shown|correct|right|wrong|below)\b|:$", re.I)
UNFINISHED = re.compile(r"(?:[-+*/=(,^_&{<>]|\\(?:times|cdot|frac|div|le|ge|in|pm))$")
ALIGNMENT = re.compile(r"\\(?:begin|end)\{(?:align|gather|equation|split)\w{0,2}\*?\}|&")


def boxed_formulas(text: str) -> set[str]:
    r"""What the last `\boxed{}` with anything in it holds: of `\boxed{2} and \boxed{3}` the list `2, 3`, of `or` both.

    A last box that was never closed was cut off, and gives no answer.
    """
    boxes = _boxes(text)
    if boxes is None:
        return {NO_ANSWER}
    formulas: list[str] = []
    start, joint = len(text), ","
    for box_start, content_start, content_end, box_end in reversed(boxes):
        formula = bare_expression(text[content_start:content_end])
        if formula and formulas:
            gap = text[box_end:start] if start - box_end <= JOINT_LENGTH else "far away"
            found = JOINTS.get(PADDING.sub("", gap))
            if found is None:
                break
            joint = "or" if found == "or" else joint
        if formula:
            formulas.append(formula)
            start = box_start
    return _joined(formulas[::-1], joint)


def stated_formulas(text: str) -> set[str]:
    """What the last statement gives, of those that give anything: "the answer is $x = 5$", `Answer: 5`, `#### 5`."""
    text = with_answer_lines(text).replace("**", "")
    return last_statement([(cue.end(), _claimed(text, cue.end())) for cue in CUE.finditer(text)])


def closing_formulas(text: str) -> set[str]:
    """What a response ends with, where that is nothing but a formula: alone on its line, or displayed."""
    text = text.replace("**", "").rstrip(" \n.")
    line = text.rpartition("\n")[2]
    for opened, closed in ((r"\[", r"\]"), ("$$", "$$")):
        if text.endswith(closed):
            line = text[:-2].rpartition(opened)[2]
    if r"\begin{align" in line or r"\begin{split" in line:
        rows = [ALIGNMENT.sub(" ", row).strip() for row in line.split(r"\\")]
        line = next((row for row in reversed(rows) if row), "")
    formula = bare_expression(line)
    is_answer = _is_formula(formula) and not UNFINISHED.search(line.rstrip(" $\n")) and r"\boxed" not in line
    return {formula} if is_answer else set()


def concluded_formulas(text: str) -> set[str]:
    """What the last sentence comes to, where that is a conclusion: "So the area is $5$."

    Without a verb that says so, a formula counts where it is the only one between dollars: "Thus, $x = 5$."
    """
    sentence = SENTENCE_END.split(text.replace("**", "").rstrip()[-CLAIM_LENGTH:])[-1]
    conclusion = CONCLUSION.match(sentence)
    if conclusion is None or sentence[-1] not in ".!":
        return set()
    results = [found.end() for found in RESULT.finditer(sentence)]
    if results:
        found = _given(sentence[results[-1] :].rstrip(" .!"))
    else:
        found = {bare_expression(formula) for formula in _set_off(sentence)}
    values = {each for each in found if VALUE.search(each) and _is_formula(each) and not UNFINISHED.search(each)}
    return found if len(found) == 1 and values else set()


def _boxes(text: str) -> list[tuple[int, int, int, int]] | None:
    """Where every box and its content begin and end; None where the last one is never closed."""
    closed: list[tuple[int, int, int, int]] = []
    still_open: list[tuple[int, int] | None] = []
    for brace in BRACE.finditer(text):
        if brace["bare"]:
            closed.append((brace.start(), *brace.span("bare"), brace.end()))
        elif brace["box"]:
            still_open.append((brace.start(), brace.end()))
        elif brace[0] == "{":
            still_open.append(None)
        elif brace[0] == "}" and still_open:
            box = still_open.pop()
            if box:
                closed.append((*box, brace.start(), brace.end()))
    closed.sort()
    last_open = max((box[0] for box in still_open if box), default=-1)
    return None if last_open > (closed[-1][0] if closed else -1) else closed


def _claimed(text: str, position: int) -> set[str]:
    """The formula, or the few words, that a claim gives."""
    window = text[position : position + CLAIM_LENGTH]
    position += len(window) - len(window.lstrip(" \n:"))
    displayed = DISPLAY.match(text, position, position + CLAIM_LENGTH)
    if displayed:
        return _joined([bare_expression(displayed[displayed.lastindex or 0])])
    return _given(claim_at(text, position))


def _given(claim: str) -> set[str]:
    if is_open(claim):
        return {NO_ANSWER}
    claim = affirmed(claim)
    claim = claim[_filler_end(claim) :]
    reason = REASON.search(claim, 1)
    if reason:
        return _given(claim[: reason.start()]) or _given(claim[reason.end() :])
    whole = bare_expression(claim)
    if _is_formula(whole):
        return {whole}
    formulas, joint = _leading_formulas(claim)
    if not formulas:
        formulas = [bare_expression(found) for found in _set_off(claim)]
        if len(formulas) > 1:
            return set()
    if not formulas and len(claim.split()) <= MOST_WORDS and not VAGUE.search(claim):
        formulas = [whole]
    return _joined(formulas, joint)


def _leading_formulas(claim: str) -> tuple[list[str], str]:
    """The formulas that a claim begins with, such as `$2$ and $3$, the roots` or `5 apples`, and what joins them."""
    pieces = CONJUNCTION.split(claim)
    formulas: list[str] = []
    joint = ","
    for index in range(0, len(pieces), 2):
        formula = _leading_formula(pieces[index])
        if not formula:
            break
        formulas.append(formula)
        if index and pieces[index - 1] == "or":
            joint = "or"
    return formulas, joint


def _leading_formula(piece: str) -> str:
    set_off = SET_OFF.match(piece)
    if set_off:
        return bare_expression(set_off[set_off.lastindex or 0])
    prose = PROSE.search(NO_PROSE.sub(lambda known: "\0" * len(known[0]), piece))
    formula = bare_expression(piece[: prose.start()] if prose else piece)
    return formula if _is_formula(formula) else ""


def _joined(formulas: list[str], joint: str = ",") -> set[str]:
    """One list of the formulas that are given together, each of those of which only one may be meant."""
    different = [formula for formula in dict.fromkeys(formulas) if formula]
    return set(different) if joint == "or" or not different else {", ".join(different)}


def _set_off(claim: str) -> Iterator[str]:
    return (found[found.lastindex or 0] for found in SET_OFF.finditer(claim))


def _filler_end(claim: str) -> int:
    filler = FILLER.match(claim)
    return filler.end() if filler else 0


def _is_formula(text: str) -> bool:
    return MARK.search(text) is not None and not PROSE.search(NO_PROSE.sub("\0", text))
