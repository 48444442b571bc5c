"""How claims are put, whatever they are about: the part of extraction that letters and numbers share."""

from __future__ import annotations

import re

__all__ = ["CLAIM_LENGTH", "CONCLUSION", "NO_ANSWER", "affirmed", "claim_at", "is_open", "last_statement"]

CLAIM_LENGTH = 300

END_OF_CLAIM = re.compile(r"(?<!\b[A-Za-z])[.!?](?=\s|$)|\n|;")
NEGATION = re.compile(
    r"\s?(?:definitely\s|clearly\s)?(?:not|neither|none|never|incorrect|wrong|unclear|unknown)\b", re.I
)
OPEN = re.compile(
    r"(?:not|un|in)\s?(?:provided|given|known|clear|available|stated|listed|possible|determined|determinable)\b"
    r"|(?:cannot|can't|can not) be (?:known|given|found|determined|calculated)\b|none of\b|neither\b",
    re.I,
)
CONTRARY = re.compile(r"\b(?:but|rather|instead)\b:?,?\s", re.I)
CONCLUSION = re.compile(
    r"(?:so|therefore|thus|hence|finally|overall|altogether|in total|in conclusion|in the end|consequently"
    r"|(?:this|that) means)\b",
    re.I,
)


NO_ANSWER = "?"
"""What a statement gives that says there is no answer: it decides like any other statement."""


def claim_at(text: str, position: int) -> str:
    """The claim that begins at `position`, such as the words after "the answer is", to the end of its sentence.

    The dot after a letter (`C. Jupiter`) belongs to the claim. No claim is longer than 300 characters, so that reading
    all of a text's claims takes time linear in the text.
    """
    window = text[position : position + CLAIM_LENGTH].lstrip(" \n:\"'")
    end = END_OF_CLAIM.search(window)
    return window[: end.start()] if end else window


def affirmed(claim: str) -> str:
    """The part of a claim that is not denied.

    >>> affirmed("(C)"), affirmed("not (B) but (C)"), affirmed("not (B)")
    ('(C)', '(C)', '')
    """
    negation = NEGATION.match(claim)
    if not negation:
        return claim
    contrary = CONTRARY.search(claim, negation.end())
    return claim[contrary.end() :] if contrary else ""


def is_open(claim: str) -> bool:
    """Whether a claim says that there is no answer: "not given", "unknown", "none of these"."""
    return OPEN.match(claim) is not None


def last_statement(statements: list[tuple[int, set[str]]]) -> set[str]:
    """What the last statement gives, of those that give anything; each is a position in the text and what it gives."""
    return max((one for one in statements if one[1]), key=lambda one: one[0], default=(0, set[str]()))[1]
