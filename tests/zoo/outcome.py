"""One class of transformers, built, run and recorded: what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from actframe import ActivationRecorder
from actframe.errors import ActframeError
from zoo.configs import HIDDEN, tiny_configs
from zoo.inputs import COLUMNS, DECODER_COLUMNS, ROWS, tiny_inputs
from zoo.truth import Calls, equal, known_blocks, watched
from zoo.words import OTHER_STATES, POSITIONS_LAST

STREAMS = 4


@dataclass
class Outcome:
    """What came of one class.

    Attributes:
        kind: its model type.
        name: of the class.
        verdict: `exact`, `refused`, `not run`, `not built`, or `wrong`.
        why: the message, for all but the first.
        proof: how the blocks were known: by the hidden `states` that the model returns, or as a `chain` of calls.
    """

    kind: str
    name: str
    verdict: str
    why: str = ""
    proof: str = ""


def try_class(kind: str, name: str) -> Outcome:
    """Build, run and record one class."""
    with torch.random.fork_rng():
        try:
            model = build(kind, name)
        except Exception as error:
            return Outcome(kind, name, "not built", reason(error))
        try:
            inputs = accepted_inputs(kind, model)
        except Exception as error:
            return Outcome(kind, name, "not run", reason(error))
        return _record(kind, name, model, inputs)


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def build(kind: str, name: str) -> Any:
    """The class with random weights, from the first of its configurations that it takes.

    Raises:
        Exception: what building it from the first one raised.
    """
    first: Exception | None = None
    for config in tiny_configs(kind, name):
        torch.manual_seed(0)
        try:
            return getattr(transformers, name)(config).eval()
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def accepted_inputs(kind: str, model: nn.Module) -> dict[str, Any]:
    """The first way to call the model that its forward accepts.

    Raises:
        Exception: what the forward raised for the shortest way.
    """
    first: Exception | None = None
    torch.manual_seed(1)
    for inputs in tiny_inputs(kind, model):
        try:
            run(model, inputs)
        except Exception as error:
            first = first or error
        else:
            return inputs
    raise first or NotImplementedError("the test does not know its arguments")


def run(model: nn.Module, inputs: dict[str, Any], **more: Any) -> Any:
    """One seeded forward pass: some models are random in evaluation too."""
    torch.manual_seed(2)
    with torch.no_grad():
        return model(**inputs, **more)


def _record(kind: str, name: str, model: nn.Module, inputs: dict[str, Any]) -> Outcome:
    plain = run(model, inputs)
    try:
        recorder = ActivationRecorder(model)
        with watched(model) as seen, recorder:
            output = run(model, inputs)
        activations = stacked(recorder.records)
    except ActframeError as error:
        return Outcome(kind, name, "refused", str(error))
    except Exception as error:
        return Outcome(kind, name, "wrong", f"recording raised {reason(error)}")
    if not activations:
        return Outcome(kind, name, "wrong", "nothing was recorded, and nothing was said")
    if not same_outputs(plain, output):
        return Outcome(kind, name, "wrong", "recording changed the output")
    known = {} if name in OTHER_STATES else known_blocks(*_asked(model, inputs))
    wrong, proofs = [], set()
    for prefix, path in taken_from(recorder.records).items():
        tower = prefix.replace(".", "_")
        if tower in known or "" in known:
            proofs.add("states")
            if (expected := known.get(tower, known.get(""))) != path:
                wrong.append(f"took {path} for {expected}")
        elif path in seen and seen[path].is_chain():
            proofs.add("chain")
        else:
            wrong.append(f"nothing shows that {path} are the blocks")
        wrong += differences(prefix, seen.get(path, Calls()), activations, last=kind in POSITIONS_LAST)
    return Outcome(kind, name, "wrong" if wrong else "exact", "; ".join(wrong), "+".join(sorted(proofs)))


def stacked(records: list[Any]) -> dict[str, Tensor]:
    """The recorded tensors with the rows of the batch together again; an encoder may have records of its own."""
    sites = dict.fromkeys(site for each in records for site in each.activations)
    return {
        site: torch.stack([each.activations[site] for each in records if site in each.activations]) for site in sites
    }


def taken_from(records: list[Any]) -> dict[str, str]:
    """The list of modules that records say their layers were taken from, by the prefix of the sites."""
    first = {site: each for each in records for site in each.activations if site.endswith("layer_0")}
    return {site.removesuffix("layer_0"): each.place_of(site).rpartition(".")[0] for site, each in first.items()}


def differences(prefix: str, calls: Calls, activations: dict[str, Tensor], *, last: bool) -> list[str]:
    """What was not recorded of one stack, or not as it passed."""
    passed = {f"{prefix}embeddings": calls.given[0] if calls.given else None}
    passed |= {f"{prefix}layer_{number}": made for number, made in enumerate(calls.made)}
    own = {site for site in activations if site.startswith(prefix)} if prefix else set(activations)
    found = [f"{site} was not recorded" for site in passed if site not in activations]
    found += [f"{site} never passed" for site in own - set(passed)]
    for site in set(passed) & own:
        if not any(equal(activations[site], form) for form in forms(prefix, passed[site], last)):
            found.append(f"{site} is not what passed")
    return sorted(found)


def forms(prefix: str, tensor: Tensor | None, last: bool) -> list[Tensor]:
    """A tensor with its rows and columns first, in the ways in which models lay them out; no two sizes are the same.

    Of more columns than were fed, those that were fed are the first ones, or the `last`.
    """
    if tensor is None:
        return []
    found = [tensor]
    columns = DECODER_COLUMNS if prefix == "decoder." else COLUMNS
    if tensor.ndim == 2:
        found.append(tensor[None])
    if tensor.ndim == 3 and tensor.shape[1] == ROWS != tensor.shape[0]:
        found.append(tensor.transpose(0, 1))
    if tensor.ndim == 3 and tensor.shape[0] == ROWS and tensor.shape[1] > columns:
        found.append(tensor[:, -columns:] if last else tensor[:, :columns])
    if tensor.ndim == 3 and tensor.shape[2] == STREAMS * HIDDEN:
        found.append(tensor.unflatten(2, (STREAMS, HIDDEN)))
    if tensor.ndim == 4 and tensor.shape[1] == ROWS != tensor.shape[0]:
        found.append(tensor.permute(1, 2, 0, 3))
    return found


def same_outputs(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors, at any depth."""
    ours, theirs = list(_tensors(one)), list(_tensors(other))
    return len(ours) == len(theirs) and all(equal(*both) for both in zip(ours, theirs, strict=True))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _asked(model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Calls], Any]:
    """What passed through the lists of modules, and the output, when hidden states were asked for."""
    try:
        with watched(model) as seen:
            return seen, run(model, inputs, output_hidden_states=True, return_dict=True)
    except Exception:
        return {}, None
