"""Comparing mathematical answers in a process of its own, with bounds on its time and memory.

Computer algebra cannot be bounded from within: `9^{9^{9^9}}` is short, and signals, by which math-verify ends what
takes too long, work in the main thread only. A process can be ended from any thread at any moment. It is started at
the first comparison, kept for the next ones, and started anew after one that had to be ended.

The time that counts is the processor's own, so that what is found equal does not depend on what else the machine does.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from actframe.errors import ActframeError, needs_extra

__all__ = ["Verifier", "shared_verifier"]

CPU_SECONDS = 5
WALL_SECONDS = 120
MEMORY_BYTES = 2**30
LONGEST_FORM = 500
READY = b"ready\n"
HARMLESS = re.compile(r"(?!.*__)[\w.+*/ -]*")


class Verifier:
    """Asks math-verify, in a process of its own, whether LaTeX expressions are equal; from any thread, one at a time.

    Args:
        cpu_seconds: processor time that one comparison may take, where the system counts it.
        wall_seconds: time after which a comparison is ended in any case.
    """

    def __init__(self, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, one: str, other: str) -> bool | None:
        """Whether both are shown to be equal; None where that could not be found out within the bounds.

        Raises:
            ActframeError: math-verify is not installed, or does not start.
        """
        verdict = self._answer([one, other])
        return None if verdict is None else verdict is True

    def normal(self, expression: str) -> str | None:
        """An expression in a form that equal ones share; None where none was found within the bounds.

        Raises:
            ActframeError: as `equal`.
        """
        form = self._answer([expression])
        return form if isinstance(form, str) else None

    def close(self) -> None:
        """Ends the process; the next comparison would start another."""
        with self._lock:
            self._end()

    def leave_to_parent(self) -> None:
        """After a fork, in the child: one process cannot answer two, so the next comparison starts another."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process and process.stdin and process.stdout:
            process.stdin.close()
            process.stdout.close()
            process.returncode = 0

    def _answer(self, expressions: list[str]) -> Any:
        with self._lock:
            answer = self._ask(self._running(), json.dumps(expressions).encode() + b"\n")
            if not answer:
                self._end()
                return None
            return json.loads(answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        with needs_extra("comparing mathematical answers", "math-verify", "math"):
            importlib.metadata.version("math-verify")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "actframe.benchmarks.verifier", str(self._cpu_seconds)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"},
        )
        if self._ask(self._process) != READY:
            self._end()
            raise ActframeError(
                "mathematical answers are compared by math-verify, which is installed but does not start:"
                " `python -m actframe.benchmarks.verifier` shows why"
            )
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], request: bytes = b"") -> bytes:
        """The next line that the process writes, or nothing where it was ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        bound = threading.Timer(self._wall_seconds, process.kill)
        bound.daemon = True
        bound.start()
        try:
            process.stdin.write(request)
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            bound.cancel()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process and process.stdin and process.stdout:
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()


shared_verifier = Verifier()
"""The one that all comparisons of this process ask; a fork of it starts its own."""

atexit.register(shared_verifier.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared_verifier.leave_to_parent)


def main(cpu_seconds: float = CPU_SECONDS) -> None:
    """Answers every line until there are no more: two expressions by `true` or `false`, one by its normal form.

    What takes longer ends the process, as does the end of the one that asks.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    equal, normal = _comparison()
    _bound_memory()
    print(READY.decode(), end="", file=answers, flush=True)
    for line in sys.stdin:
        _bound_time(cpu_seconds)
        try:
            expressions = json.loads(line)
            verdict = equal(*expressions) if len(expressions) == 2 else normal(*expressions)
        # What a library of algebra may raise on any text is not foreseeable, and the process is there to bear it.
        except Exception:
            verdict = False
        _bound_time(0)
        print(json.dumps(verdict), file=answers, flush=True)


def _comparison() -> tuple[Callable[[str, str], bool], Callable[[str], str | None]]:
    """Whether math-verify finds two expressions equal, whichever of them was expected; and what one comes to."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    _refuse_code()
    # Units are taken off before: here `2m` would be 2 metres, and the same as 2.
    normal = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    latex = [LatexExtractionConfig(normalization_config=normal)]

    def read(text: str) -> list[Any]:
        return list(parse(rf"\boxed{{{text}}}", latex, parsing_timeout=None))

    def equal(one: str, other: str) -> bool:
        first, second = read(one), read(other)
        return all(
            verify(expected, given, timeout_seconds=None, allow_set_relation_comp=True)
            for expected, given in ((first, second), (second, first))
        )

    # What is only loaded at the first comparison should not count against its time.
    equal("x^2", "2x")
    return equal, lambda text: _normal_form(next(iter(read(text)), None))


def _normal_form(expression: Any) -> str | None:
    """A fraction as such, anything else as SymPy would make it; of `x = 5` the 5."""
    import sympy

    if not isinstance(expression, sympy.Basic | sympy.MatrixBase):
        return None
    if isinstance(expression, sympy.Eq) and expression.lhs.is_Symbol and not expression.rhs.free_symbols:
        expression = expression.rhs
    exact = expression.xreplace({each: sympy.Rational(str(each)) for each in expression.atoms(sympy.Float)})
    simple = sympy.simplify(exact.doit())
    simple = sympy.expand(simple) if isinstance(simple, sympy.Expr) else simple
    form = str(simple) if getattr(simple, "is_Rational", False) else sympy.srepr(simple)
    return form if len(form) <= LONGEST_FORM else None


def _refuse_code() -> None:
    """Lets SymPy read names and numbers only: where it is handed a text, it evaluates that as Python.

    The grammar by which LaTeX is read hands it digits alone; this holds whatever else a grammar lets through.
    """
    from sympy.parsing import sympy_parser

    parse_expr = sympy_parser.parse_expr

    def parse_harmless(text: str, *arguments: Any, **options: Any) -> Any:
        if not HARMLESS.fullmatch(text):
            raise ValueError(f"{text!r} is more than a name or a number")
        return parse_expr(text, *arguments, **options)

    sympy_parser.parse_expr = parse_harmless


def _bound_time(cpu_seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def _bound_memory() -> None:
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if hard < 0 else min(MEMORY_BYTES, hard), hard))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
