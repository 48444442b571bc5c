"""Compiled models: what torch.compile made runs past the hooks of the modules in it.

Hooks on a compiled module itself run outside its compiled code, those on the modules in it do not run, or have become
part of the code of an earlier block. So a compiled model is refused before its forward, and blocks that are compiled
one by one are recorded exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from actframe.capture.layout import ModelLayout, Place
from actframe.errors import CaptureError

__all__ = ["call_uncompiled", "never_compiled", "refuse_compiled_inside"]

_frames: Any = torch._C._dynamo.eval_frame

_WHAT_TO_DO = (
    "compiled code runs past the hooks of a recorder. Run the block inside `with torch.compiler.set_stance("
    "'force_eager')`, which runs the model as it is written; or compile its blocks one by one (`for block in "
    "model.model.layers: block.compile()`), which is recorded as it runs; or, where generate() compiles a model with "
    "a static cache by itself, pass disable_compile=True"
)


def never_compiled(*functions: Callable[..., Any]) -> None:
    """Have torch.compile, where it is in use, leave functions as they are; what they call may be compiled."""
    dynamo: Any = sys.modules.get("torch._dynamo.decorators")
    if dynamo is not None:
        for function in functions:
            dynamo.skip(function)


def call_uncompiled(hook: Callable[..., Any], module: nn.Module, arguments: tuple[Any, ...], *, whole: bool) -> Any:
    """Call a hook of a module so that nothing that it does is compiled.

    Args:
        hook: takes the module and the arguments.
        module: which runs, or is about to.
        arguments: of the hook.
        whole: whether the module must run as it is written, because modules in it are recorded.

    Raises:
        CaptureError: it runs compiled, where it must not.
    """
    compile_frame = _frames.get_eval_frame_callback()
    if compile_frame is None:
        return hook(module, *arguments)
    _frames.set_eval_frame(None)
    try:
        if whole:
            raise CaptureError(f"this {type(module).__name__} runs compiled, and {_WHAT_TO_DO}")
        return hook(module, *arguments)
    finally:
        _frames.set_eval_frame(compile_frame)


def refuse_compiled_inside(model: nn.Module, layout: ModelLayout, sites: Mapping[str, Place]) -> None:
    """Refuse sites that lie inside compiled modules, before anything runs.

    Raises:
        CaptureError: one of them does, and torch.compile is not told to run what is compiled as it is written.
    """
    compiled = [path for path, module in model.named_modules() if _is_compiled(module)]
    if not compiled or _is_switched_off():
        return
    roots = [tower.root for tower in layout.towers] or [""]
    for path in compiled:
        for site, place in sites.items():
            if any(_is_in(path, root) for root in roots) and place.module != path and _is_in(place.module, path):
                name = type(model.get_submodule(path)).__name__
                raise CaptureError(f"{site} lies in {path or 'the model'}, a compiled {name}, and {_WHAT_TO_DO}")


def _is_compiled(module: nn.Module) -> bool:
    """Whether it was compiled in place, or its forward was."""
    if module._compiled_call_impl is not None:
        return True
    forward = vars(module).get("forward")
    return hasattr(forward, "_torchdynamo_orig_callable") and not getattr(forward, "_torchdynamo_disable", False)


def _is_switched_off() -> bool:
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    return getattr(getattr(dynamo, "_stance", None), "stance", None) == "force_eager"


def _is_in(path: str, other: str) -> bool:
    return not other or f"{path}.".startswith(f"{other}.")
