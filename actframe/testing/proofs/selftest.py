"""selftest: is this model recorded right?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actframe.capture.available import refused_sites
from actframe.capture.receipt import describe_places
from actframe.capture.sites import family
from actframe.errors import ActframeError, CaptureError, LayoutError, ModelError
from actframe.runs.models import load_model
from actframe.testing.proofs.answers import check_padding, check_positions, check_sequences
from actframe.testing.proofs.forward import check_forward, check_outputs, check_strategies, learn_axes, outputs
from actframe.testing.proofs.reference import Axes
from actframe.testing.proofs.report import Check, Difference, SelfTestReport
from actframe.testing.proofs.subject import Subject
from actframe.testing.proofs.ways import try_ways

__all__ = ["selftest"]


def selftest(
    model: Any,
    tokenizer: Any = None,
    *,
    strategy: str = "hooks",
    inputs: Mapping[str, Any] | None = None,
    ways: bool = True,
    told: Callable[[str], None] | None = None,
) -> SelfTestReport:
    """Hold what is recorded of a model against plain hooks on its modules, and try the ways of running it.

        report = selftest(model, tokenizer)
        assert report.ok, report

    Takes some dozens of short passes. The model is run in eval mode and left as it was.

    Args:
        model: a loaded transformers model, or anything that names one: a hub id, a folder, a GGUF file, `smollm2`.
        tokenizer: makes the prompts; without one they are tokens that the vocabulary has.
        strategy: the capture strategy's name.
        inputs: what to run a model on that takes neither tokens nor pictures, as its forward takes it: three rows.
        ways: whether to try the ways of generating too, which takes most of the time.
        told: is told what is done next.

    Raises:
        UnknownNameError: no such strategy.
        LayoutError: nothing is known of the model's blocks, so there is nothing to test.
        ModelError: it cannot be loaded, or run on these inputs.
    """
    told = told or (lambda _: None)
    subject = Subject(load_model(model, tokenizer), strategy, inputs)
    if not subject.stream:
        raise LayoutError(
            f"no residual stream was found in model {subject.loaded.name!r} for strategy {strategy!r}, so there is "
            "nothing to test; module:<dotted path> sites can be recorded from any model"
        )
    with subject.evaluated():
        told("one pass without a recorder")
        try:
            subject.untouched = outputs(subject)
            axes = learn_axes(subject)
        except ActframeError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ModelError(
                f"model {subject.loaded.name!r} cannot be run on {subject.said}, without any recorder: {reason}"
            ) from error
        refused = {**refused_sites(subject.model, strategy), **_refused_when_run(subject)}
        # From here on: transformers hooks its own modules the first time that hidden states are asked for.
        if subject.may_be_asked:
            subject.forward(subject.standard(), output_hidden_states=True)
        before = subject.attachments()
        checks = [_run(name, check, subject, axes, told) for name, check in _checks(subject).items()]
        tried = try_ways(subject, axes, told) if ways else []
        checks.append(_check_traces(subject, before))
    return SelfTestReport(
        model=subject.loaded.name,
        model_class=type(subject.model).__name__,
        dtype=subject.dtype,
        device=str(subject.loaded.device),
        attn_implementation=getattr(subject.model.config, "_attn_implementation", None),
        strategy=strategy,
        places=describe_places({site: subject.layout.places[site] for site in subject.sites}),
        sites=tuple(subject.sites),
        refused=refused,
        inputs=subject.said,
        checks=tuple(checks),
        ways=tuple(tried),
    )


def _refused_when_run(subject: Subject) -> dict[str, str]:
    """Sites that are offered, and refused as soon as they run, with the reasons. They are tested no further."""
    if _refusal(subject, subject.sites) is None:
        return {}
    families: dict[str, list[str]] = {}
    for site in subject.sites:
        families.setdefault(family(site)[0], []).append(site)
    refused = {
        site: reason
        for sites in families.values()
        if (reason := _refusal(subject, sites)) is not None
        for site in sites
    }
    if all(site in refused for site in subject.stream):
        return {}  # Then nothing is left to test, and the checks say so.
    subject.sites = [site for site in subject.sites if site not in refused]
    return refused


def _refusal(subject: Subject, sites: list[str]) -> str | None:
    try:
        with subject.recorder(sites):
            subject.forward(subject.standard())
    except CaptureError as refusal:
        return str(refusal)
    return None


_Check = Callable[[str, Subject, Axes], Check]


def _checks(subject: Subject) -> dict[str, _Check]:
    checks: dict[str, _Check] = {
        "recorded is what the modules give": check_forward,
        "outputs are unchanged": check_outputs,
        "strategies agree": check_strategies,
    }
    if subject.takes_tokens:
        checks["whole sequences are as hooks saw them"] = check_sequences
        checks["each position is its own token's"] = check_positions
        checks["padding does not matter"] = check_padding
    return checks


def _run(name: str, check: _Check, subject: Subject, axes: Axes, told: Callable[[str], None]) -> Check:
    """A check; what is refused, or raises, in the middle of one is a failure: these are the plainest ways there are."""
    told(name)
    try:
        return check(name, subject, axes)
    except ActframeError as error:
        return Check(name, "failed", "", Difference(f"the recorder refuses it: {error}"))
    except Exception as error:
        return Check(name, "failed", "", Difference(f"it raises {type(error).__name__}: {error}"))


def _check_traces(subject: Subject, before: list[tuple[str, list[int]]]) -> Check:
    """Nothing that was attached to the model is there any more."""
    name = "no trace is left on the model"
    for (path, was), (_, now) in zip(before, subject.attachments(), strict=True):
        if was != now:
            return Check(name, "failed", "", Difference(f"{path or 'the model'} has other hooks than before"))
    return Check(name, "ok", f"hooks of {len(before)} modules are those from before")
