"""What a self-test found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Check", "Difference", "SelfTestReport", "Way"]


@dataclass(frozen=True)
class Difference:
    """The first place where something is not what it has to be.

    Attributes:
        what: in words.
        site, position: where; None where it is about neither.
        row: which sequence of the batch.
        size: the largest difference of a number there; None where it is not about numbers.
    """

    what: str
    site: str | None = None
    position: int | None = None
    row: int | None = None
    size: float | None = None

    def __str__(self) -> str:
        places = [("", self.site), ("position ", self.position), ("row ", self.row)]
        where = ", ".join(f"{name}{place}" for name, place in places if place is not None)
        size = "" if self.size is None else f", by up to {self.size:.3g}"
        return f"{where}: {self.what}{size}" if where else f"{self.what}{size}"


@dataclass(frozen=True)
class Check:
    """One thing that must be true of every model.

    Attributes:
        name: what is checked.
        status: `"note"` where it is not as one would wish, by the model's own doing; `"skipped"` where it does not
            apply.
        said: what it was checked on, or why not.
        difference: where it failed.
    """

    name: str
    status: Literal["ok", "note", "skipped", "failed"]
    said: str
    difference: Difference | None = None


@dataclass(frozen=True)
class Way:
    """One way of running the model.

    Attributes:
        name: of the way.
        status: `"exact"`, or `"refused"` by the recorder before or while it ran; `"not run"` where the model itself
            cannot do it.
        said: the reason, or how close a replay came.
        difference: where what was recorded is wrong.
    """

    name: str
    status: Literal["exact", "refused", "not run", "failed"]
    said: str
    difference: Difference | None = None


@dataclass(frozen=True)
class SelfTestReport:
    """What a self-test found. As text, it says it in one line for each check and way.

    Attributes:
        model, model_class, dtype, device, attn_implementation: what was tested.
        strategy: the capture strategy's name.
        places: where in the model the sites are, as records have it.
        sites: those that can be recorded.
        refused: those that cannot as the model is loaded, with the reasons.
        inputs: what it was tested on.
        checks, ways: what was found.
    """

    model: str
    model_class: str
    dtype: str
    device: str
    attn_implementation: str | None
    strategy: str
    places: dict[str, str]
    sites: tuple[str, ...]
    refused: dict[str, str]
    inputs: str
    checks: tuple[Check, ...]
    ways: tuple[Way, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that was recorded is wrong."""
        return self.first_failure is None

    @property
    def first_failure(self) -> Check | Way | None:
        """The first check, or else the first way, that failed."""
        return next((each for each in self._found if each.status == "failed"), None)

    @property
    def _found(self) -> list[Check | Way]:
        return [*self.checks, *self.ways]

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.model_class}, {self.dtype} on {self.device}, strategy {self.strategy!r}"]
        for each in self._found:
            lines.append(f"{each.status:>8}  {each.name}: {each.difference or each.said}")
        return "\n".join(lines)
