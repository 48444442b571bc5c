"""What several answers to each question say together: pass@k, the vote of the majority, and how far they agree.

Each function looks at the answers to one question. Two answers are the same if both are right, or if both say the same,
as their benchmark sees it (`vote`); one that could not be extracted is like no other, and has no vote.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["agreement", "majority", "pass_at", "sample_sizes"]

Answer = Mapping[str, Any]


def sample_sizes(trials: int) -> Iterator[int]:
    """The k of pass@k: powers of two, and the number of trials.

    >>> list(sample_sizes(6))
    [1, 2, 4, 6]
    """
    k = 1
    while k < trials:
        yield k
        k *= 2
    yield trials


def pass_at(k: int, right: int, trials: int) -> float:
    """The probability that at least one of k answers is right, drawn from `trials` of which so many are right.

    1 - C(trials - right, k) / C(trials, k), of which the mean over questions is an unbiased estimate of pass@k: M. Chen
    et al., "Evaluating large language models trained on code" (2021), arXiv:2107.03374, equation 1.

    >>> pass_at(2, right=1, trials=4)
    0.5
    """
    return 1 - math.comb(trials - right, k) / math.comb(trials, k)


def majority(answers: Sequence[Answer]) -> float:
    """Whether the answer that was given most often is right.

    A tie is drawn by lot: it counts the share of right ones among the answers that were given equally often. Without
    any vote it is wrong.
    """
    votes = Counter(vote for vote in map(_vote, answers) if vote is not None)
    most = max(votes.values(), default=0)
    winners = [vote for vote, count in votes.items() if count == most]
    return winners.count(RIGHT) / len(winners) if winners else 0.0


def agreement(answers: Sequence[Answer]) -> float:
    """The share of pairs of answers that are the same; there must be two or more."""
    votes = Counter(vote for vote in map(_vote, answers) if vote is not None)
    return sum(math.comb(count, 2) for count in votes.values()) / math.comb(len(answers), 2)


RIGHT = "right"


def _vote(answer: Answer) -> str | None:
    """What tells an answer from others; None for one that has no vote."""
    if answer["correct"] == 1:
        return RIGHT
    said = answer.get("extracted_answer") if answer.get("vote") is None else answer["vote"]
    # A text, encoded, begins with a quotation mark, so that none is taken for the right answer.
    return None if said is None or answer.get("unparsed") else json.dumps(said, sort_keys=True, default=str)
