"""RunSettings: how a benchmark is run, and how what comes of it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, get_args

from actframe.benchmarks.prompting import SCORINGS, Prompting, Scoring
from actframe.errors import SettingsError
from actframe.runs.generation import GenerationSettings
from actframe.runs.recording import CaptureSettings

__all__ = ["LAYOUTS", "Layout", "RunSettings"]

Layout = Literal["store", "files"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class RunSettings:
    """How a benchmark is run.

    Attributes:
        num_trials: how often each question is answered; more than once needs a temperature above 0.
        limit: answer only so many questions, the first ones.
        subjects: ask only questions of these; None for all.
        generation: how answers are generated. Where choices are ranked nothing is, so `max_new_tokens` becomes 1.
        capture: what is recorded of each answer; None for a plain benchmark run.
        prompting: how questions are put.
        scoring: `"generate"` reads the answer from what the model writes; `"loglikelihood"` ranks the choices.
        record_choices: each choice that is ranked gets a record of its own, of the whole sequence that was compared.
        layout: `"store"` keeps everything in one `ActivationStore`, which resumes; `"files"` writes a line and a
            file of its own for each answer.
        max_disk_bytes: end the run, so that it can be resumed, before its folder takes more than this; None for no
            limit.
        shard_bytes: how large the files of a store become.
        flush_every: how much of a store a crash can cost: so much time, or so many answers; None for a whole shard.
    """

    num_trials: int = 1
    limit: int | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    capture: CaptureSettings | None = None
    prompting: Prompting = field(default_factory=Prompting)
    scoring: Scoring = "generate"
    subjects: tuple[str, ...] | None = None
    layout: Layout = "store"
    max_disk_bytes: int | None = None
    shard_bytes: int = 256 << 20
    flush_every: timedelta | int | None = timedelta(minutes=5)
    record_choices: bool = False

    def __post_init__(self) -> None:
        _check_whole("num_trials", self.num_trials)
        _check_whole("limit", self.limit, " or None for all")
        _check_whole("max_disk_bytes", self.max_disk_bytes, " or None for no limit")
        _check_whole("shard_bytes", self.shard_bytes)
        if isinstance(self.flush_every, timedelta):
            if self.flush_every <= timedelta(0):
                raise SettingsError(f"flush_every is {self.flush_every}; it must be longer than nothing")
        else:
            _check_whole("flush_every", self.flush_every, " a timedelta, or None for whole shards")
        if self.subjects is not None and not (isinstance(self.subjects, tuple) and self.subjects):
            raise SettingsError(f"subjects is {self.subjects!r}; it must be a tuple of names, or None for all")
        if self.layout not in LAYOUTS:
            raise SettingsError(f"no layout {self.layout!r}; there are {', '.join(LAYOUTS)}")
        if self.scoring not in SCORINGS:
            raise SettingsError(f"no scoring {self.scoring!r}; there are {', '.join(SCORINGS)}")
        if self.scoring == "loglikelihood":
            self._draw_nothing()
        if self.record_choices:
            self._check_choices()
        if self.num_trials > 1 and self.generation.temperature == 0:
            raise SettingsError(
                f"{self.num_trials} trials at temperature 0 would give each answer {self.num_trials} times; "
                f"set a temperature above 0, or num_trials to 1"
            )

    @property
    def expected(self) -> str:
        """What comes to a prompt, in words."""
        return "their choices" if self.scoring == "loglikelihood" else f"{self.generation.max_new_tokens} new tokens"

    def _check_choices(self) -> None:
        """Refuse to record choices where there are none, or no room for what they leave."""
        if self.scoring != "loglikelihood":
            raise SettingsError(
                f"record_choices records what is ranked by log-likelihood, and with scoring={self.scoring!r} nothing "
                f"is; leave it out, or use scoring='loglikelihood'"
            )
        if self.capture is None:
            raise SettingsError(
                "record_choices keeps what the model computed of each choice, and nothing is captured; give capture "
                "(--capture-activations) as well, or leave it out"
            )
        if self.layout != "store":
            raise SettingsError(
                f"record_choices keeps several records of each question, which the layout {self.layout!r} has no place "
                f"for; use the layout 'store'"
            )

    def _draw_nothing(self) -> None:
        """Refuse what only matters where answers are drawn."""
        temperature = self.generation.temperature
        if self.num_trials > 1 or temperature:
            asked = f"num_trials={self.num_trials}" if self.num_trials > 1 else f"temperature={temperature}"
            raise SettingsError(
                f"{asked} has no effect where choices are ranked by log-likelihood: nothing is drawn; leave it out, or "
                f"use scoring='generate'"
            )
        object.__setattr__(self, "generation", replace(self.generation, max_new_tokens=1))


def _check_whole(name: str, value: Any, otherwise: str = "") -> None:
    """A number of things; None where the default or `otherwise` allows it."""
    if value is None and otherwise:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        also = f",{otherwise}" if otherwise else ""
        raise SettingsError(f"{name} is {value!r}; it must be a whole number, at least 1{also}")
