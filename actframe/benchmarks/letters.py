"""The letters that a response gives as its answer, in the order in which `extract_choice` looks for them."""

from __future__ import annotations

import re

from actframe.benchmarks.claims import CONCLUSION, claim_at, last_statement
from actframe.benchmarks.options import Item, NamedOptions
from actframe.benchmarks.responses import sentences

__all__ = ["line_letters", "other_letters", "stated_letters"]

LINE_LENGTH = 300

ANSWER_CUE = re.compile(
    r"(?<!\w)(?P<which>(?:first|second|third|fourth|last|next|other|each|every|this|that|another|one)\s)?"
    r"(?:answer|solution|(?:correct|right|best) \w{1,20}|antwort|réponse|respuesta"
    r"|(?P<strict>option|choice|letter|response))\b"
    r"(?P<between>[^.:;!?\n]{0,60}?)(?:\b(?:is|are|was|be|ist|est|es)\b|[:=])\s*",
    re.I,
)
REASON = re.compile(r"\b(?:because|since|which)\b", re.I)
DECISION_CUE = re.compile(
    r"\b(?P<certain>choose|chose|pick|picked|select|selected|go with|going with|go for|opt for|settle on|guess|say"
    r"|conclude that|conclude|lean towards?|answer(?:\s-)?|left with)\s(?:it(?:'s| is)\s)?"
    r"|\b(?:yes|so|thus|hence|therefore|leaves|leaving|it's|it is|it must be|it has to be|that's|that is|must be"
    r"|i think|i believe)\b,?\s(?:(?:only|just|actually|indeed|clearly|probably|definitely|most likely|that|it's|it is"
    r"|it must be|i think|i believe|us with|we have)\s){0,2}",
    re.I,
)
VERDICT = re.compile(
    r"\s(?:is|was|would be|must be|has to be|seems|appears)\s"
    r"(?:(?:also|therefore|thus|hence|clearly|indeed|definitely|probably|likely|most likely|the|my|our|a|only)\s){0,4}"
    r"(?:(?:correct|right|best|true|final|accurate|proper)\b|(?:most\s\w{1,20}\s)?(?:answer|choice|option)\b)",
    re.I,
)
RULED_OUT = re.compile(
    r"\b(?:not|cannot|never|neither|nor|incorrect|wrong|false|eliminat\w+|rul(?:e|ed|es|ing) out|unlikely|except"
    r"|rather than|instead of|unlike)\b|n't\b",
    re.I,
)
RETRACTED = re.compile(
    r"\b(?:this|that)(?:\s(?:answer|option|choice|statement))?\s(?:is|was)"
    r"(?:\s(?:incorrect|wrong|false)|(?:n't|\snot)\s(?:correct|right|true|the (?:correct|right|best)))\b",
    re.I,
)
CLAUSE_END = re.compile(r"[;,]\s(?:but|while|whereas|so|yet|instead)\s|;\s|,?\sand\s(?=not\b)")


def stated_letters(text: str, names: NamedOptions, items: list[Item]) -> set[str]:
    """The letters of the last statement that gives any: "the answer is C", "I choose C", "C is correct", a bare `C`."""
    statements = [(item.start, {item.letter}) for item in items if item.alone and not item.listed]
    lists = {item.start for item in items if item.listed}
    for cue in ANSWER_CUE.finditer(text):
        if not cue["which"] and cue.end() not in lists and not REASON.search(cue["between"]):
            claim = claim_at(text, cue.end())
            statements.append((cue.end(), names.claimed(claim, anywhere=not cue["strict"])))
    for cue in DECISION_CUE.finditer(text):
        claim = claim_at(text, cue.end())
        if cue["certain"] or names.ends_claim(claim):
            statements.append((cue.end(), names.claimed(claim)))
    for verdict in VERDICT.finditer(text):
        statements.append((verdict.start(), _subject(text, verdict.start(), names)))
    return last_statement(statements)


def line_letters(text: str, items: list[Item]) -> set[str]:
    """The letters at the beginnings of lines, but for lists of the options and for what is taken back."""
    ends = [*(item.start for item in items[1:]), len(text)]
    return {
        item.letter
        for item, end in zip(items, ends, strict=False)
        if not item.listed and not RETRACTED.search(text, item.end, end)
    }


def other_letters(text: str, names: NamedOptions, items: list[Item]) -> set[str]:
    """The letters set apart, else the options mentioned, in what rules nothing out and is no line of `items`."""
    clauses = [clause for clause in _clauses(text, items) if not _rules_out(clause, names)]
    return names.marked("\n".join(clauses)) or _mentioned(clauses, names)


def _subject(text: str, position: int, names: NamedOptions) -> set[str]:
    """What "is correct" at `position` is said about: the option right before it, else the one its line begins with."""
    line = text[max(0, position - LINE_LENGTH) : position].rpartition("\n")[2]
    subject = names.subject(line)
    if not subject and not RULED_OUT.search(line):
        return {item.letter for item in names.items(line)}
    return subject


def _rules_out(clause: str, names: NamedOptions) -> bool:
    return any(not names.is_text(word[0]) for word in RULED_OUT.finditer(clause))


def _clauses(text: str, items: list[Item]) -> list[str]:
    starts = [0, *(item.end for item in items)]
    ends = [*(item.start for item in items), len(text)]
    rest = "\n".join(text[start:end] for start, end in zip(starts, ends, strict=True))
    return [clause for sentence in sentences(rest) for clause in CLAUSE_END.split(sentence)]


def _mentioned(clauses: list[str], names: NamedOptions) -> set[str]:
    """The only option mentioned; of several, the one of the last conclusion or else of the first clause."""
    everywhere = names.mentioned("\n".join(clauses))
    if len(everywhere) > 1:
        conclusions = [clause for clause in clauses if CONCLUSION.match(clause)]
        for clause in (*conclusions[-1:], *clauses[:1]):
            mentioned = names.mentioned(clause)
            if len(mentioned) == 1:
                return mentioned
    return everywhere
