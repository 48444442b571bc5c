"""Accuracy with error bars, broken down by subject. Pure functions over answers, which are dictionaries.

An answer is a line of `answers.jsonl`. Read here are `question_id`, `correct`, and, where they are there, `subject`,
`extracted_answer`, `vote`, `unparsed`, `truncated`, `chance` (the probability of guessing right, None where it makes
no sense) and `metrics` (other figures of the answer, by name).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actframe.errors import BenchmarkError
from actframe.runs.intervals import Mean, bootstrap_interval, mean, mean_of, wilson_interval
from actframe.runs.trials import agreement, majority, pass_at, sample_sizes

__all__ = ["Summary", "summarize", "summarize_by_subject"]

NO_SUBJECT = "(no subject)"

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """What a set of answers says about a model.

    Attributes:
        questions: how many questions were answered.
        answers: how many answers there are: questions times trials, where none is missing.
        accuracy: the mean over questions of the share of right answers (micro): trials are averaged within a question
            first.
        standard_error: of `accuracy`, over questions; None for a single question, which says nothing of its spread.
        low: lower end of the 95 % interval of `accuracy`.
        high: upper end.
        interval: what kind of interval it is.
        macro: the mean of the accuracies of the subjects; None where questions have none.
        unparsed: the share of answers that could not be extracted.
        truncated: the share of answers that the token limit ended.
        chance: the accuracy of guessing; None where a question has no such thing.
        trials: the most answers that a question has.
        complete: how many questions have so many; `pass_at`, `majority` and `agreement` are of them alone.
        pass_at: pass@k as `{"pass@1": ..., "pass@2": ...}`, k in powers of two and the number of trials.
        majority: the share of questions of which the most frequent answer is right; None where records do not say what
            was answered.
        agreement: the share of pairs of answers to one question that are the same; None as `majority`, or at one trial.
        metrics: the mean of each metric that answers carry, over the questions that have it, trials averaged first.
    """

    questions: int
    answers: int
    accuracy: float
    standard_error: float | None
    low: float
    high: float
    interval: Literal["wilson", "bootstrap"]
    macro: float | None
    unparsed: float
    truncated: float
    chance: float | None
    trials: int
    complete: int
    pass_at: dict[str, float]
    majority: float | None
    agreement: float | None
    metrics: dict[str, Mean]


def summarize(answers: Iterable[Answer]) -> Summary:
    """Accuracy over questions with its standard error and 95 % interval, and what several trials say together.

    Answers that nobody judged, because the question has no answer to compare them with, are left out.

    Questions are the sample, whatever the number of trials: two answers to one question are not two questions, and
    counting them so would make error bars too short (E. Miller, "Adding error bars to evals", 2024, arXiv:2411.00640).
    At one trial the interval is Wilson's, with several it is from the bootstrap of questions. Where all questions have
    the same share of right answers, as when all are right, there is nothing to resample, and it is Wilson's again.

    >>> summary = summarize([{"question_id": "a", "correct": True}, {"question_id": "b", "correct": False}])
    >>> summary.accuracy, summary.standard_error
    (0.5, 0.5)

    Raises:
        BenchmarkError: there are no answers that were judged.
    """
    answers = _judged(answers)
    if not answers:
        raise BenchmarkError("no answers that were judged, so there is no accuracy")
    by_question = group_by_question(answers)
    shares = [_share_right(given) for given in by_question.values()]
    accuracy = mean_of(shares)
    trials = max(map(len, by_question.values()))
    complete = [given for given in by_question.values() if len(given) == trials]
    resampled = bootstrap_interval(shares) if trials > 1 else None
    low, high = resampled or wilson_interval(accuracy.mean, len(shares))
    chances: list[Any] = [answer.get("chance") for answer in answers]
    votes = complete if _say_what_was_answered(complete) else []
    return Summary(
        questions=len(shares),
        answers=len(answers),
        accuracy=accuracy.mean,
        standard_error=accuracy.standard_error,
        low=min(low, accuracy.mean),
        high=max(high, accuracy.mean),
        interval="bootstrap" if resampled else "wilson",
        macro=_macro(by_question.values(), shares),
        unparsed=_share_with(answers, "unparsed"),
        truncated=_share_with(answers, "truncated"),
        chance=None if None in chances else mean(chances),
        trials=trials,
        complete=len(complete),
        pass_at={f"pass@{k}": _pass_at(k, complete) for k in sample_sizes(trials)},
        majority=mean([majority(given) for given in votes]) if votes else None,
        agreement=mean([agreement(given) for given in votes]) if votes and trials > 1 else None,
        metrics=_metrics(by_question.values()),
    )


def summarize_by_subject(answers: Iterable[Answer]) -> dict[str, Summary]:
    """A summary of each subject, by name; empty where no answer has one."""
    by_subject: dict[str, list[Answer]] = defaultdict(list)
    for answer in _judged(answers):
        by_subject[answer.get("subject") or NO_SUBJECT].append(answer)
    if set(by_subject) <= {NO_SUBJECT}:
        return {}
    return {subject: summarize(by_subject[subject]) for subject in sorted(by_subject)}


def group_by_question(answers: Iterable[Answer]) -> dict[Any, list[Answer]]:
    """The answers to each question, by its id."""
    by_question: dict[Any, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_question[answer["question_id"]].append(answer)
    return by_question


def _judged(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer["correct"] is not None]


def _share_right(given: Sequence[Answer]) -> float:
    return mean([answer["correct"] for answer in given])


def _share_with(answers: Sequence[Answer], key: str) -> float:
    return sum([1 for answer in answers if answer.get(key)]) / len(answers)


def _macro(questions: Collection[Sequence[Answer]], shares: Sequence[float]) -> float | None:
    by_subject: dict[Any, list[float]] = defaultdict(list)
    for given, share in zip(questions, shares, strict=True):
        by_subject[given[0].get("subject") or NO_SUBJECT].append(share)
    return None if set(by_subject) <= {NO_SUBJECT} else mean([mean(each) for each in by_subject.values()])


def _pass_at(k: int, complete: Sequence[Sequence[Answer]]) -> float:
    right = (sum(answer["correct"] == 1 for answer in given) for given in complete)
    return mean([pass_at(k, each, len(given)) for each, given in zip(right, complete, strict=True)])


def _say_what_was_answered(questions: Iterable[Sequence[Answer]]) -> bool:
    """Whether of each answer that is wrong it is known what it was, or that there was none."""
    return all(
        answer["correct"] == 1 or answer.get("unparsed") or answer.get("extracted_answer") is not None
        for given in questions
        for answer in given
    )


def _metrics(questions: Iterable[Sequence[Answer]]) -> dict[str, Mean]:
    shares: dict[str, list[float]] = defaultdict(list)
    for given in questions:
        of_question: dict[str, list[float]] = defaultdict(list)
        for answer in given:
            for name, value in (answer.get("metrics") or {}).items():
                of_question[name].append(value)
        for name, values in of_question.items():
            shares[name].append(mean(values))
    return {name: mean_of(shares[name]) for name in sorted(shares)}
