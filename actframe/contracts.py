"""Whether a class keeps the contract that it subclasses, and was written for the version that is here.

A contract is a class of actframe that names a `kind`. Its `contract_version` is raised where a class that kept the
contract until then would no longer work. An implementation says what it was written for as `built_for`; one that says
nothing was written for version 1, and counts so for ever. Today that is no work for anybody; after a change a plugin
that was not touched, or whose author forgot the line, is refused with words, and never called in a way it does not
know. See docs/plugins/versions.md for why it is so and not otherwise.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from actframe.errors import PluginError
from actframe.extension import Extension

__all__ = ["check_extension", "claims_of", "classes_in", "contract_of"]

NAME = re.compile(r"[^\s:/\\]+")
"""A name that can be typed: `benchmark:task` and paths mean something else."""


def classes_in(provided: Any) -> Iterable[Any]:
    """What the hook `extensions` returned, as something to go through.

    Raises:
        PluginError: it is no list of classes.
    """
    if provided is None:
        raise PluginError("extensions() returned None: return a list of classes")
    if isinstance(provided, type):
        raise PluginError(f"extensions() returned the class {_name(provided)}: return a list, [{_name(provided)}]")
    if isinstance(provided, str | bytes) or not isinstance(provided, Iterable):
        raise PluginError(f"extensions() returned {provided!r:.200}: return a list of classes")
    return provided


def contract_of(extension: type[Extension]) -> type[Extension] | None:
    """The contract that a class subclasses, or None."""
    ours = (each for each in extension.__mro__ if issubclass(each, Extension) and _is_ours(each))
    return next((each for each in ours if "kind" in vars(each)), None)


def check_extension(extension: object) -> type[Extension]:
    """What a plugin gave, once it is known to be usable.

    Raises:
        PluginError: it is no class of a contract, was built for another version of it, or breaks it; the message says
            what to do.
    """
    if isinstance(extension, Extension):
        raise PluginError(f"extensions() gave an instance of {_name(type(extension))}: give the class itself")
    if not (isinstance(extension, type) and issubclass(extension, Extension)):
        raise PluginError(f"extensions() gave {extension!r:.200}, which is not a subclass of actframe's contracts")
    contract = contract_of(extension)
    if contract is None:
        raise PluginError(
            f"{_name(extension)} subclasses none of actframe's contracts (StorageBackend, CaptureStrategy, "
            "BenchmarkAdapter, ExecutionEngine), so that nothing would ever call it"
        )
    if extension is contract:
        raise PluginError(f"extensions() gave the contract {_name(contract)} itself: give your subclass of it")
    if not _is_ours(extension):
        _check_version(extension, contract)
    _check_attributes(extension, contract)
    if not _is_ours(extension):
        _check_methods(extension, contract)
    return extension


def claims_of(extension: type[Extension]) -> list[str]:
    """What an extension wants to be found by, in words that are the same for all that want the same."""
    values = {each: str(getattr(extension, each)).lower() for each in extension.found_by if each != "name"}
    return [
        f"{extension.kind} {extension.name!r}",
        *(f"the {each} {value!r} of a {extension.kind}" for each, value in values.items()),
    ]


def _is_ours(extension: type) -> bool:
    return extension.__module__.partition(".")[0] == "actframe"


def _name(extension: type) -> str:
    return extension.__qualname__


def _check_version(extension: type[Extension], contract: type[Extension]) -> None:
    built_for, here = extension.built_for, contract.contract_version
    if built_for == here:
        return
    if not isinstance(built_for, int):
        raise PluginError(
            f"built_for of {_name(extension)} is {built_for!r}, not the number of a contract's version "
            f"({_name(contract)} is at {here})"
        )
    if built_for > here:
        raise PluginError(
            f"{_name(extension)} was built for version {built_for} of {_name(contract)}, and this actframe has "
            f"version {here}: update actframe, or install an older release of the plugin"
        )
    silent = all(_is_ours(each) for each in extension.__mro__ if "built_for" in vars(each))
    raise PluginError(
        f"{_name(extension)} was built for version {built_for} of {_name(contract)}, and this actframe has version "
        f"{here}: update the plugin, or install an older actframe. Its author finds what changed under "
        f"'Contract versions' in the documentation, and then sets built_for = {here}"
        + (f"; a class that does not say it counts as built for version {built_for}" if silent else "")
    )


def _check_attributes(extension: type[Extension], contract: type[Extension]) -> None:
    if extension.kind != contract.kind:
        raise PluginError(f"{_name(extension)} sets kind, which is its contract's to say: {contract.kind!r}")
    if missing := sorted(getattr(extension, "__abstractmethods__", ())):
        raise PluginError(f"{_name(extension)} does not implement {', '.join(missing)}")
    for name in _texts(contract):
        value = getattr(extension, name, None)
        if not (isinstance(value, str) and value):
            found = f"{name} = {value!r:.100}" if hasattr(extension, name) else f"no {name!r}"
            raise PluginError(f"{_name(extension)} has {found}; give it a text, as a {contract.kind} must")
    if NAME.fullmatch(extension.name) is None or not extension.name.isprintable():
        raise PluginError(f"{_name(extension)} is called {extension.name!r}: leave out blanks, colons and slashes")


def _texts(contract: type[Extension]) -> list[str]:
    """The attributes that a contract declares as text and leaves to its implementations."""
    declared = [item for each in reversed(contract.__mro__) for item in inspect.get_annotations(each).items()]
    return [name for name, said in declared if said == "ClassVar[str]" and not hasattr(contract, name)]


def _check_methods(extension: type[Extension], contract: type[Extension]) -> None:
    """Every public method of the contract that the class has of its own can be called as actframe calls it."""
    for name in (each for each, value in vars(contract).items() if not each.startswith("_") and _is_method(value)):
        own = inspect.getattr_static(extension, name)
        if own is vars(contract)[name] or _is_written_alike(own, vars(contract)[name]):
            continue
        if not callable(getattr(extension, name)):
            raise PluginError(f"{name} of {_name(extension)} is not a method")
        taken, declared = _signature(extension, name), _signature(contract, name)
        if taken is not None and declared is not None and not _takes(taken, declared):
            raise PluginError(
                f"{_name(extension)}.{name} takes {_plain(taken)}, and is called with {_plain(declared)}: give it "
                "these parameters"
            )


def _is_method(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)


def _is_written_alike(own: object, declared: object) -> bool:
    """Whether two functions have the same parameters to the letter, which most have and is quickly seen."""
    if not (inspect.isfunction(own) and inspect.isfunction(declared)):
        return False
    first, second = (
        (each.__code__.co_varnames[: each.__code__.co_argcount], len(each.__defaults__ or ()))
        for each in (own, declared)
    )
    return first == second and not own.__code__.co_kwonlyargcount + declared.__code__.co_kwonlyargcount


def _signature(of: type, name: str) -> inspect.Signature | None:
    """How a method is called, or None where Python cannot tell."""
    try:
        signature = inspect.signature(getattr(of, name))
    except (TypeError, ValueError):
        return None
    if not inspect.isfunction(inspect.getattr_static(of, name)):
        return signature
    parameters = list(signature.parameters.values())
    takes_self = parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return signature.replace(parameters=parameters[1:] if takes_self else parameters)


def _takes(taken: inspect.Signature, declared: inspect.Signature) -> bool:
    """Whether every call that a contract allows can be made: required arguments by position, others also by name."""
    parameters = declared.parameters.values()
    by_name = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    plain = [each for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    required = [each for each in plain if each.default is inspect.Parameter.empty]
    optional = [each for each in plain if each.default is not inspect.Parameter.empty]
    always = {each.name: None for each in by_name if each.default is inspect.Parameter.empty}
    calls = [
        (len(plain), {each.name: None for each in by_name}),
        (len(required), always),
        (len(required), always | {each.name: None for each in optional}),
    ]
    try:
        for count, names in calls:
            taken.bind(*[None] * count, **names)
    except TypeError:
        return False
    return True


def _plain(signature: inspect.Signature) -> str:
    """A signature without its types."""
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
