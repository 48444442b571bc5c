"""Our own strategies, storage backends, benchmarks and engine: an ordinary plugin, and an example of one."""

from __future__ import annotations

from collections.abc import Iterable

from actframe.extension import Extension
from actframe.hookspecs import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Extension]]:
    """Everything that comes with actframe."""
    from actframe.capture.forward_hooks import ForwardHooks
    from actframe.capture.hidden_states import OutputHiddenStates
    from actframe.runs.engines import LocalEngine
    from actframe.storage.pickle_ import PickleBackend
    from actframe.storage.safetensors_ import SafetensorsBackend
    from actframe.storage.zstd_ import ZstdBackend

    return [
        ForwardHooks,
        OutputHiddenStates,
        LocalEngine,
        PickleBackend,
        SafetensorsBackend,
        ZstdBackend,
        *_benchmarks(),
    ]


def _benchmarks() -> list[type[Extension]]:
    from actframe.benchmarks.arc_challenge import ARCChallenge
    from actframe.benchmarks.arc_easy import ARCEasy
    from actframe.benchmarks.arithmetic import Arithmetic
    from actframe.benchmarks.boolq import BoolQ
    from actframe.benchmarks.commonsense_qa import CommonsenseQA
    from actframe.benchmarks.general import General
    from actframe.benchmarks.gpqa import GPQA
    from actframe.benchmarks.gsm8k import GSM8K
    from actframe.benchmarks.hellaswag import HellaSwag
    from actframe.benchmarks.jsonl import OwnFile
    from actframe.benchmarks.math500 import MATH500
    from actframe.benchmarks.mmlu import MMLU
    from actframe.benchmarks.mmlu_pro import MMLUPro
    from actframe.benchmarks.openbookqa import OpenBookQA
    from actframe.benchmarks.piqa import PIQA
    from actframe.benchmarks.truthfulqa import TruthfulQA
    from actframe.benchmarks.winogrande import WinoGrande

    return [
        ARCChallenge,
        ARCEasy,
        Arithmetic,
        BoolQ,
        CommonsenseQA,
        General,
        GPQA,
        GSM8K,
        HellaSwag,
        OwnFile,
        MATH500,
        MMLU,
        MMLUPro,
        OpenBookQA,
        PIQA,
        TruthfulQA,
        WinoGrande,
    ]
