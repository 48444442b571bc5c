"""The options of a multiple-choice question, as a response may name them: by letter, by text, or by both."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from actframe.benchmarks.claims import NO_ANSWER, affirmed, is_open
from actframe.benchmarks.responses import plain_text, with_plain_numbers
from actframe.errors import BenchmarkError

__all__ = ["Item", "NamedOptions", "named_options"]

BULLET = re.compile(r"[ \t]*(?:[-*•>]\s)?[\"']?")
ARTICLE = re.compile(r"(?:the|an?)\s+", re.I)
NOUN = r"(?:(?:the\s)?(?:correct\s)?(?:option|choice|letter|answer)\s)?"
LETTER_THAT_IS_A_WORD = r"(?=\s?(?:[.,:;!?)\]\"=]|$|-\s|\(|(?:is|because|since|as|for|due|and|or)\b))"
JOINT = re.compile(r"\s?(?:,\s?)?(?:and|or|&|/|,)\s?(?:also\s|possibly\s|maybe\s|perhaps\s)?", re.I)
REFUTATION = re.compile(
    r",?\s(?:(?:is|was|are|can|could|does|do|would|must|has)\s?(?:be\s|been\s)?"
    r"(?:n't|not|never|incorrect|wrong|false|ruled|eliminated|excluded)|(?:is|ca|does)n't|cannot)",
    re.I,
)
FOREIGN_LETTER = re.compile(r"(?:option\s|letter\s)?(?:\([B-HJ-Z]\)|[B-HJ-Z](?=\s?[.,;!?)]|\s*$))")
VERDICT = re.compile(r"(?:yes|no|true|false)[,.:;!]", re.I)
PART_OF_SPEECH = {"no": r"(?=\s?(?:[^\s\w'-]|$))", "none": r"(?!\w|\sof\b)"}
OPERAND = r"(?:[\d($]|[b-hj-z]\b)"
LOWER_LETTER = re.compile(r"[a-z]\b(?!\))")
END_OF_NAME = re.compile(r"\s?(?:[.,!?;)]|$|because\b|since\b)", re.M)


@dataclass(frozen=True)
class Item:
    """A line that begins with the letter of an option, or has only its text.

    Attributes:
        start, end: the line in the text.
        letter: the capital letter.
        alone: whether the line has nothing else.
        listed: whether it belongs to a run (A, B, ...) that repeats the options from the first one on.
    """

    start: int
    end: int
    letter: str
    alone: bool
    listed: bool = False


@functools.lru_cache(maxsize=1024)
def named_options(options: tuple[str, ...], letters: str) -> NamedOptions:
    """The names of a question's options; made once for questions that come again, as in repeated trials."""
    return NamedOptions(options, letters)


class NamedOptions:
    """Finds options in plain text.

    Args:
        options: their texts in the order of `letters`; empty where only the letters are known.
        letters: capital letters, one for each option.
    """

    def __init__(self, options: tuple[str, ...], letters: str) -> None:
        if not re.fullmatch("[A-Z]{1,26}", letters) or len(set(letters)) < len(letters):
            raise BenchmarkError(f"letters should be capital letters that differ, such as 'ABCD', not {letters!r}")
        self.letters = letters[: len(options)] if options else letters
        upper, lower = re.escape(self.letters), re.escape(self.letters.lower())
        words = "".join(letter for letter in self.letters if letter in "AI")
        plain = "".join(letter for letter in self.letters if letter not in "AI")
        bare = [rf"[{plain}](?![\w']|-\w)"] * bool(plain) + [rf"[{words}]{LETTER_THAT_IS_A_WORD}"] * bool(words)
        self._lead = re.compile(
            rf"{_any_case(NOUN)}(?:[(\[]\s?(?P<marked>[{upper}{lower}])\s?[)\]]|(?P<bare>{'|'.join(bare)})"
            rf"|(?P<lower>[{lower}])(?=\s?(?:[.,:;!?)\]]|$)))(?!\.\w\.)[.):\]]{{0,2}}",
            re.M,
        )
        delimited = r"(?:[.:](?!\w\.)|\s-(?=\s)|[ \t]*$)"
        self._item = re.compile(
            rf"{BULLET.pattern}(?:\(([{upper}{lower}])\){delimited}|([{upper}{lower}])\){{1,2}}"
            rf"|([{upper}{lower}]){delimited}|(\(?[{upper}]\)?)(?=\s))",
            re.M,
        )
        self._marked = re.compile(
            rf"\(([{upper}{lower}])\)|\b{_any_case('(?:option|choice|letter|answer)')}\s([{upper}{lower}])(?![\w'])"
            rf"|(?<![\w'(])([{upper}])\)"
        )
        token = rf"{_any_case('(?:option|choice|letter|answer)?')}\s?(?:\([{upper}{lower}]\)|[{upper}]\)?)"
        self._subject = re.compile(rf"(?:^|(?<=[\s(])){token}(?:{JOINT.pattern}{token}){{0,5}}$")
        self._letter = re.compile(rf"\(([{upper}{lower}])\)|(?<!\w)([{upper}])(?!\w)")
        self._label = re.compile(rf"(?<!\w)([{upper}])[.):]{{1,2}}\s?$")
        self._texts, self._text = _text_pattern(options, self.letters)

    def claimed(self, claim: str, *, anywhere: bool = False) -> set[str]:
        """The letters that a claim, the words after "the answer is", gives: one, several ("A and B"), or none.

        With `anywhere`, the one option whose text stands in the claim's sentence counts, too.
        """
        if not self._text_at(claim, 0):
            if is_open(claim) or (FOREIGN_LETTER.match(claim, 0) and not self._named_at(claim, 0)):
                return {NO_ANSWER}
            claim = affirmed(claim)
        letters: set[str] = set()
        position = 0
        while named := self._named_at(claim, position):
            letter, position = named
            if REFUTATION.match(claim, position):
                return set()
            letters.add(letter)
            joint = JOINT.match(claim, position)
            if not joint:
                break
            position = joint.end()
        if not letters and anywhere:
            mentioned = self.mentioned(claim)
            return mentioned if len(mentioned) == 1 else set()
        return letters

    def ends_claim(self, claim: str) -> bool:
        """Whether a claim says no more than an option: `C.`, `Jupiter`, `(B) because ...`."""
        named = self._named_at(claim, 0)
        if named is None or LOWER_LETTER.match(claim):
            return False
        return claim[named[1] - 1] in ".)" or END_OF_NAME.match(claim, named[1]) is not None

    def items(self, text: str) -> list[Item]:
        """Lines that begin with a letter, as `C. Jupiter`, `(C)` or `C Jupiter`, or have only the text of an option."""
        runs: list[list[Item]] = []
        for start, line in _lines(text):
            item = self._item_of(start, line)
            if item is None:
                continue
            if runs and self._repeats_options(text, runs[-1], item):
                runs[-1].append(item)
            else:
                runs.append([item])
        return [dataclasses.replace(item, listed=len(run) > 1) for run in runs for item in run]

    def _item_of(self, start: int, line: str) -> Item | None:
        match = self._item.match(line)
        if match:
            letter = match[match.lastindex or 0].strip("()").upper()
            if match[4] is None or self._text_at(line, match.end() + 1, letter):
                return Item(start, start + len(line), letter, alone=not line[match.end() :].strip(" .:"))
        bullet = BULLET.match(line)
        named = self._text_at(line, bullet.end() if bullet else 0)
        if named and not line[named[1] :].strip(" .!\"')"):
            return Item(start, start + len(line), named[0], alone=True)
        if named and VERDICT.match(line, bullet.end() if bullet else 0):
            return Item(start, start + len(line), named[0], alone=False)
        return None

    def _repeats_options(self, text: str, run: list[Item], item: Item) -> bool:
        """Whether `item` goes on with a list: on the next line with a later option, or anywhere with the next one."""
        step = self.letters.find(item.letter) - self.letters.find(run[-1].letter)
        if step > 0 and not text[run[-1].end : item.start].strip():
            return True
        return step == 1 and run[0].letter == self.letters[0]

    def subject(self, clause: str) -> set[str]:
        """The letters of the options that a clause ends with: `option B`, `A and B`, `C. Jupiter`."""
        clause = clause.rstrip(" ,")
        letters = self._subject.search(clause, max(0, len(clause) - 60))
        if letters:
            return {(letter[1] or letter[2]).upper() for letter in self._letter.finditer(letters[0])}
        texts = list(self._text.finditer(clause)) if self._text else []
        if not texts or texts[-1].end() < len(clause):
            return set()
        last = texts[-1]
        label = self._label.search(clause, max(0, last.start() - 8), last.start())
        return {label[1]} if label else {self._texts[(last.lastindex or 1) - 1]}

    def marked(self, text: str) -> set[str]:
        """Letters that are set apart: `(C)`, `C)`, `option C`, or followed by the text of their own option."""
        return {(mark[1] or mark[2] or mark[3]).upper() for mark in self._marked.finditer(text)}

    def is_text(self, text: str) -> bool:
        """Whether `text` is that of an option: `false` rules nothing out where it can be chosen."""
        return self._text is not None and self._text.fullmatch(text) is not None

    def mentioned(self, text: str) -> set[str]:
        """The letters of the options whose text stands in `text`; of `nitric acid` and `acid` the longer one."""
        if self._text is None:
            return set()
        return {self._texts[(match.lastindex or 1) - 1] for match in self._text.finditer(text)}

    def _named_at(self, claim: str, position: int) -> tuple[str, int] | None:
        """The option that `claim` names at `position`, by text or by letter, and where its name ends."""
        lead = self._lead.match(claim, position)
        text = self._text_at(claim, position)
        if text and (not lead or (text[1] > lead.end() and lead["marked"] is None and lead.end() - position == 1)):
            return text
        if not lead:
            return None
        letter = (lead["marked"] or lead["bare"] or lead["lower"]).upper()
        beside = self._text_at(claim, lead.end() + (claim[lead.end() : lead.end() + 1] == " "))
        return letter, beside[1] if beside else lead.end()

    def _text_at(self, text: str, position: int, letter: str | None = None) -> tuple[str, int] | None:
        """The option (or that of `letter`) whose text begins at `position`, and where it ends."""
        if self._text is None:
            return None
        article = ARTICLE.match(text, position)
        match = self._text.match(text, article.end() if article else position)
        if not match:
            return None
        found = self._texts[(match.lastindex or 1) - 1]
        return (found, match.end()) if letter in (None, found) else None


def _text_pattern(options: tuple[str, ...], letters: str) -> tuple[list[str], re.Pattern[str] | None]:
    """One pattern with a group for each option, the longest text first, and the letters of its groups.

    Texts that cannot be told apart, and those of a single letter (which would be taken for a label), are left out.
    """
    texts: dict[str, list[str]] = {}
    for letter, option in zip(letters, options, strict=False):
        text = " ".join(with_plain_numbers(plain_text(option)).split()).lower().rstrip(".!?")
        text = text[article.end() :] if (article := ARTICLE.match(text)) else text
        if len(text) > 1 or text.isdigit():
            texts.setdefault(text, []).append(letter)
    unique = sorted((text for text, owners in texts.items() if len(owners) == 1), key=len, reverse=True)
    if not unique:
        return [], None
    return [texts[text][0] for text in unique], re.compile("|".join(_one_text(text) for text in unique), re.I)


def _one_text(text: str) -> str:
    """The pattern of an option's text: whole words, and numbers that are no part of a calculation."""
    words = re.sub(r"(?<=\d)\\ (?=[a-z°%])|(?<=\d)(?=[a-z°%])", r"\\s*", re.escape(text)).replace(r"\ ", r"\s+")
    before, after = r"(?<!\w)", ""
    if text[0].isdigit():
        before = r"(?<![\w/^-])(?<!\d[.,])(?<![\w)][-+*/])(?<![\w)] [-+*/] )"
    if text in PART_OF_SPEECH:
        after = PART_OF_SPEECH[text]
    elif text[-1].isalpha():
        after = r"(?:s|es)?(?![\w^])"
    elif text[-1].isdigit():
        after = rf"(?![\w/^]|[.,]\d|\s?[-+*=]\s?{OPERAND}|\s/\s?{OPERAND}|\sx\s?\d)"
    return f"{before}({words}){after}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _any_case(pattern: str) -> str:
    return f"(?i:{pattern})"
