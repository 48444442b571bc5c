"""The part of a response where its answer is, as plain text: what the extraction of answers reads.

Models wrap answers in thoughts, markdown, LaTeX and typography, and run on into questions of their own. Here all of
that is taken off once, so that the patterns in `answers` need to know one way of writing only. Every pattern runs in
time linear in the text: where a repetition could be rescanned from many places it is bounded.
"""

from __future__ import annotations

import re

__all__ = [
    "CHARACTERS",
    "final_part",
    "plain_text",
    "sentences",
    "thought_is_open",
    "with_answer_lines",
    "with_plain_numbers",
]

END_OF_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.I)
START_OF_THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)

RUN_ON = re.compile(
    r"<\|\w{1,30}\|>|</s>"
    r"|^[ \t]*[#*>_]{0,6}[ \t]*(?:(?:next|new|another)\s)?(?:question|problem|exercise|q|user|human|instruction)"
    r"\s?\d{0,4}\s?[*_]{0,3}[:.][*_]{0,3}(?=\s|\S*\w)"
    r"|(?<=[.!?)])\s(?:Question|Problem|Q|User|Human)(?:\s\d{1,4})?:",
    re.I | re.M,
)

CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2028\u2029\r\x0b\x0c\x85", "\n"),
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94) if offset != 0x0C},
        **{fraction: f" {numerator}/{denominator}" for fraction, numerator, denominator in (
            ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5),
            ("⅗", 3, 5), ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
        )},
        "²": "^2", "³": "^3", "\u00d7": "*", "·": "*", "⋅": "*", "÷": "/", "\u2044": "/", "≈": "=", "≃": "=",
        "\u200b": "", "\ufeff": "",
    }
)  # fmt: skip
DIGIT_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
OTHER_SPACE = re.compile(r"[\u00a0\u2000-\u200a\u202f\u3000\t]")

LATEX_FONT = re.compile(r"\\(?:text|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\w{0,4}\s?\{([^{}]*)\}")
LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
LATEX_BOX = re.compile(r"\\f?boxed?\s?(?:\{([^{}]*)\}?|([\w.,$-]{1,40}))")
LATEX_WORDS = {
    r"\times": "*", r"\cdot": "*", r"\div": "/", r"\approx": "=", r"\circ": " degrees ", r"\pm": "+-",
    r"\left": "", r"\right": "", r"\quad": " ", r"\qquad": " ", r"\therefore": "therefore",
}  # fmt: skip
LATEX_WORD = re.compile(r"\^?\\[a-zA-Z]{1,20}")
LATEX_MARK = re.compile(r"\\([,;:! ()\[\]])|\\([$%#&_{}])|\{,\}")

ANSWER_TAG = re.compile(r"<(/?)(?:final[_ ]?)?answer>", re.I)
ANSWER_LINE = re.compile(r"^[ \t]*####[ \t]*(?=[-+$(\w\\])", re.M)
HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.M)
MARKED_LETTER = re.compile(
    r"\*{1,3}[(\[]?([A-Za-z])[)\]]?\*{1,3}|(?<!\w)__?([A-Za-z])__?(?!\w)|`([A-Za-z])`|\$([A-Za-z])\$"
    r"|\"([A-Za-z])\"|(?<!\w)'([A-Za-z])'(?!\w)|\[([A-Za-z])\]"
)
EMPHASIS = re.compile(r"\*{2,}|(?<!\w)_{2,}|_{2,}(?!\w)|`+|(?<![\w)*\s])\*(?=\w)|(?<=[\w.)])\*(?=\s|$)", re.M)

CURRENCY = re.compile(r"[$€£¥]\s?(?=-?\d)")
GROUPED_DIGITS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3}){1,20}(?!,?\d)")
LAST_ZEROS = re.compile(r"(?<=\d)(?:\.0{1,60}|(\.\d{0,60}[1-9])0{1,60})(?!\d|\.\d)")
PERCENT = re.compile(r"(?<=\d)\sper\s?cent\b", re.I)

SENTENCE_END = re.compile(r"\n+|(?<=[.!?])[\"')\]]{0,3}\s+")
ENUMERATOR = re.compile(r"(?:^\s*\(?\d{1,3}|(?:^|[\s(])[A-Za-z])\.\s*$")


def thought_is_open(response: str) -> bool:
    """Whether a response ends within a thought, and so gives no answer, whatever stands before it.

    >>> thought_is_open("It is B. <think>Or is"), thought_is_open("It is</think>B"), thought_is_open("B")
    (True, False, False)
    """
    return START_OF_THOUGHT.search(_before_run_on(_without_closed_thoughts(response))) is not None


def final_part(response: str) -> str:
    """A response without its thoughts and without what it runs on into: nothing where it ends within a thought.

    Thoughts that were closed are cut first, since they may repeat the question; then everything from a special token
    or a new `Question:` on.
    """
    text = _before_run_on(_without_closed_thoughts(response))
    return "" if START_OF_THOUGHT.search(text) else text


def plain_text(response: str) -> str:
    r"""The final part of a response without markdown and LaTeX.

    A letter set in bold, quotes or a font becomes `(B)`; a `\boxed{}` value and a `#### 42` line become an `Answer:`
    line.
    """
    text = DIGIT_SPACE.sub("", final_part(response)).translate(CHARACTERS)
    return _without_markdown(_without_latex(OTHER_SPACE.sub(" ", text))).strip()


def with_answer_lines(text: str) -> str:
    """A text in which what stands in `<answer>` tags or after `####` follows `Answer: `, at the start of a line."""
    text = ANSWER_TAG.sub(lambda tag: "\n" if tag[1] else "\nAnswer: ", text)
    return ANSWER_LINE.sub("Answer: ", text)


def with_plain_numbers(text: str) -> str:
    """A text whose numbers have no currency, no commas between thousands and no zeros at the end.

    >>> with_plain_numbers("$1,200.50, 2.0 or 50 percent")
    '1200.5, 2 or 50%'
    """
    text = GROUPED_DIGITS.sub(lambda digits: digits[0].replace(",", ""), CURRENCY.sub("", text))
    return PERCENT.sub("%", LAST_ZEROS.sub(lambda zeros: zeros[1] or "", text))


def sentences(text: str) -> list[str]:
    """Plain text in sentences; a line is one, too. The dot of `2.` or `C.` at the start of an item ends none."""
    found: list[str] = []
    start = 0
    for end in SENTENCE_END.finditer(text):
        if "\n" not in end.group() and ENUMERATOR.search(text[max(start, end.start() - 8) : end.start()]):
            continue
        found.append(text[start : end.start()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _without_closed_thoughts(response: str) -> str:
    """What stands outside `<think>` blocks; a closing tag alone ends a thought that the prompt had opened."""
    *thoughts, rest = END_OF_THOUGHT.split(response)
    before = [START_OF_THOUGHT.split(part, maxsplit=1) for part in thoughts]
    return "\n".join([*(part[0] for part in before if len(part) > 1), rest])


def _before_run_on(text: str) -> str:
    """The text up to the first sign of a new question that has something before it."""
    text = text.lstrip()
    for sign in RUN_ON.finditer(text):
        if sign.start() > 0:
            return text[: sign.start()]
    return text


def _without_latex(text: str) -> str:
    if "\\" not in text and "{" not in text:
        return text
    for _ in range(3):
        text = LATEX_FRACTION.sub(r" \1/\2", LATEX_FONT.sub(r"\1", text))
    text = LATEX_MARK.sub(_latex_mark, text)
    text = LATEX_BOX.sub(lambda box: f"\nAnswer: {box[1] or box[2] or ''}\n", text)
    return LATEX_WORD.sub(lambda word: LATEX_WORDS.get(word[0].lstrip("^"), " "), text)


def _latex_mark(mark: re.Match[str]) -> str:
    if mark[2]:
        return mark[2]
    return "," if mark[0] == "{,}" else "" if mark[1] in ",!" else " "


def _without_markdown(text: str) -> str:
    text = HEADING.sub("", with_answer_lines(text))
    text = MARKED_LETTER.sub(lambda letter: f"({letter[letter.lastindex or 0]})", text)
    return EMPHASIS.sub("", text)
