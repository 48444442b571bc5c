"""Answers in words: what a response gives as its answer, and whether two of them are the same."""

from __future__ import annotations

import re
import string

from actframe.benchmarks.responses import plain_text, sentences

__all__ = ["extract_text", "same_text"]

STATEMENT = re.compile(r"\banswer\b[^\n:.]{0,40}?(?:\bis\b|:)[ ]?:?", re.I)
ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:St|Dr|Mr|Ms|Mrs|Mt|Jr))\.$")
ARTICLE = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def extract_text(response: str) -> str | None:
    """The answer that a response gives in words, normalised; None where it says nothing.

    The last "the answer is" or `Answer:` decides, up to the end of its sentence; without one it is the first line.

    >>> extract_text("The answer is the Louvre. It is in Paris."), extract_text("Paris!"), extract_text(" ")
    ('louvre', 'paris', None)
    """
    text = plain_text(response)
    statements = list(STATEMENT.finditer(text))
    lines = (text[statements[-1].end() :] if statements else text).strip().splitlines()
    if not lines:
        return None
    return _normal(_sentence(lines[0]) if statements else lines[0]) or None


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same but for case, articles, punctuation and spaces.

    This is the exact match of SQuAD (Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250).

    >>> same_text("The Eiffel Tower", "eiffel tower."), same_text("Paris", "Lyon")
    (True, False)
    """
    return _normal(one) == _normal(other)


def _normal(text: str) -> str:
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def _sentence(text: str) -> str:
    """The first sentence, past the dot of an abbreviation."""
    taken = ""
    for sentence in sentences(text):
        taken = f"{taken} {sentence}".strip()
        if not ABBREVIATION.search(taken):
            break
    return taken
