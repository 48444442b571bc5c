"""Reads the instructions of a pickle without the power to run any code.

A pickle is a program for a stack machine, and Python's own machine imports and calls what the program names. This one
has no way to do that: a name stays a `Global`, and a call is a look-up in a table of functions of ours. Nothing is
believed before it is checked against the bytes that are there, and the number of instructions is limited, so that a
file costs no more memory than its size explains.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from actframe.errors import FormatError, UnsafeFileError

__all__ = ["Budget", "Build", "Global", "PickleMachine", "Rules"]

Build = Callable[[Any, Any], None]
"""Gives an object the state that the pickle has for it."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle mentions. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Rules(NamedTuple):
    """What a pickle may ask for: names it may mention, calls it may make, states and persistent ids it may use."""

    names: frozenset[Global]
    calls: Mapping[Global, Callable[..., Any]]
    build: Build | None = None
    persistent: Callable[[Any], Any] | None = None


class Budget:
    """How many steps reading one file may still take. An instruction is a step, and more where it takes memory.

    Some instructions are a byte long and make what takes sixty: that is what the steps limit. The limit leaves room
    for the ids of some million tokens.
    """

    def __init__(self, steps: int = 1 << 23) -> None:
        self.limit = self.left = steps

    def spend(self, count: int) -> None:
        """Take `count` steps from what is left."""
        self.left -= count
        if self.left < 0:
            raise UnsafeFileError(f"its pickle takes more than {self.limit} steps to read")


_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4 = struct.Struct("<i")
_F8 = struct.Struct(">d")
_STOP = ord(".")

_MARK = object()
_CONTAINER_STEPS = 16
_LONGEST_INT = 16
_LONGEST_LINE = 4096


class PickleMachine:
    """Reads one pickle after the other from `data`.

    Byte strings are views of `data`, so what is read keeps it alive.
    """

    def __init__(self, data: memoryview, rules: Rules, budget: Budget) -> None:
        self.data = data
        self.position = 0
        self._rules = rules
        self._budget = budget
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the pickle that begins at `position`, which is moved to its end.

        Raises:
            FormatError: it is no pickle, or it is cut short.
            UnsafeFileError: it asks for something that the rules do not allow.
        """
        self._stack, self._memo = [], {}
        instructions = _INSTRUCTIONS
        while True:
            opcode = self.take(1)[0]
            self._budget.spend(1)
            if opcode == _STOP:
                return self._pop()
            instruction = instructions.get(opcode)
            if instruction is None:
                raise UnsafeFileError(
                    f"its pickle has the instruction {chr(opcode)!r} ({opcode:#04x}), which is not read"
                )
            instruction(self)

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise FormatError(f"its pickle ends at byte {len(self.data)}, where {count} more were expected: cut short")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def _line(self) -> str:
        near = bytes(self.data[self.position : self.position + _LONGEST_LINE])
        length = near.find(b"\n")
        if length < 0:
            raise FormatError("its pickle has a line without an end: damaged, or cut short")
        self.position += length + 1
        return near[:length].decode("ascii", "replace")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise FormatError("its pickle takes a value that is not there: damaged")
        return self._stack.pop()

    def _duplicate(self) -> None:
        value = self._pop()
        self._stack += [value, value]

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise FormatError("its pickle goes back to a mark that is not there: damaged")

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise FormatError(f"its pickle adds to a {kind.__name__} that is not there: damaged")
        return self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise FormatError(f"its pickle refers to value {index}, which it has not stored: damaged")
        self._push(self._memo[index])

    def _contain(self, container: Any) -> None:
        self._budget.spend(_CONTAINER_STEPS)
        self._stack.append(container)

    def _put(self, index: int) -> None:
        self._budget.spend(_CONTAINER_STEPS)
        self._memo[index] = self._pop()
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        self._contain(tuple([self._pop() for _ in range(count)][::-1]))

    def _text(self, count: int) -> None:
        try:
            self._push(str(self.take(count), "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise FormatError(f"its pickle has text that is not UTF-8: {error}") from error

    def _integer(self, count: int) -> None:
        if count > _LONGEST_INT:
            raise UnsafeFileError(f"its pickle has an integer of {count} bytes; {_LONGEST_INT} are the most")
        self._push(int.from_bytes(self.take(count), "little", signed=True))

    def _set_items(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2 or not all(map(_is_key, values[::2])):
            raise FormatError("its pickle has a dictionary with keys that are neither strings nor small integers")
        target.update(zip(values[::2], values[1::2], strict=True))

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _extend(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _global(self, module: Any, name: Any) -> None:
        wanted = Global(module, name)
        if wanted not in self._rules.names and wanted not in self._rules.calls:
            raise UnsafeFileError(
                f"its pickle asks for {str(wanted)!r:.200}, which unpickling would import; only tensors, NumPy arrays "
                f"and plain data are loaded"
            )
        self._push(wanted)

    def _global_of_lines(self) -> None:
        module = self._line()
        self._global(module, self._line())

    def _global_of_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafeFileError("its pickle asks for a name that is not text")
        self._global(module, name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        call = self._rules.calls.get(function) if isinstance(function, Global) else None
        if call is None or type(arguments) is not tuple:
            what = str(function) if isinstance(function, Global) else f"a {type(function).__name__}"
            raise UnsafeFileError(f"its pickle calls {what!r:.200}, which is not allowed")
        try:
            self._push(call(*arguments))
        except TypeError as error:
            raise UnsafeFileError(f"its pickle calls {function} with arguments that do not fit: {error}") from error

    def _build(self) -> None:
        state, value = self._pop(), self._pop()
        if self._rules.build is None:
            raise UnsafeFileError(f"its pickle sets the state of a {type(value).__name__}, which is not allowed")
        self._rules.build(value, state)
        self._push(value)

    def _persistent(self) -> None:
        if self._rules.persistent is None:
            raise UnsafeFileError("its pickle refers to objects outside of itself, which is not allowed")
        self._push(self._rules.persistent(self._pop()))

    def _frame(self) -> None:
        size = self._number(_U8)
        if size > len(self.data) - self.position:
            raise FormatError(f"its pickle declares a frame of {size} bytes, and fewer follow: cut short")


def _is_key(value: Any) -> bool:
    # Large integers can be chosen to have one hash, which makes a dictionary of them take time without end.
    return type(value) is str or (type(value) is int and abs(value) < 1 << 31)


_BY_SIGN: dict[str, Callable[[PickleMachine], object]] = {
    "(": lambda it: it._push(_MARK),
    "0": PickleMachine._pop,
    "1": PickleMachine._pop_to_mark,
    "2": PickleMachine._duplicate,
    "N": lambda it: it._push(None),
    "\x88": lambda it: it._push(True),
    "\x89": lambda it: it._push(False),
    "J": lambda it: it._push(it._number(_I4)),
    "K": lambda it: it._push(it._number(_U1)),
    "M": lambda it: it._push(it._number(_U2)),
    "G": lambda it: it._push(it._number(_F8)),
    "\x8a": lambda it: it._integer(it._number(_U1)),
    "\x8b": lambda it: it._integer(it._number(_U4)),
    "X": lambda it: it._text(it._number(_U4)),
    "\x8c": lambda it: it._text(it._number(_U1)),
    "\x8d": lambda it: it._text(it._number(_U8)),
    "B": lambda it: it._push(it.take(it._number(_U4))),
    "C": lambda it: it._push(it.take(it._number(_U1))),
    "\x8e": lambda it: it._push(it.take(it._number(_U8))),
    "\x96": lambda it: it._push(it.take(it._number(_U8))),
    ")": lambda it: it._push(()),
    "\x85": lambda it: it._tuple(1),
    "\x86": lambda it: it._tuple(2),
    "\x87": lambda it: it._tuple(3),
    "t": lambda it: it._contain(tuple(it._pop_to_mark())),
    "]": lambda it: it._contain([]),
    "a": PickleMachine._append,
    "e": PickleMachine._extend,
    "}": lambda it: it._contain({}),
    "s": PickleMachine._set_item,
    "u": lambda it: it._set_items(it._pop_to_mark()),
    "q": lambda it: it._put(it._number(_U1)),
    "r": lambda it: it._put(it._number(_U4)),
    "\x94": lambda it: it._put(len(it._memo)),
    "h": lambda it: it._get(it._number(_U1)),
    "j": lambda it: it._get(it._number(_U4)),
    "c": PickleMachine._global_of_lines,
    "\x93": PickleMachine._global_of_stack,
    "R": PickleMachine._call,
    "b": PickleMachine._build,
    "Q": PickleMachine._persistent,
    "\x80": lambda it: it._number(_U1),
    "\x95": PickleMachine._frame,
}

_INSTRUCTIONS = {ord(sign): instruction for sign, instruction in _BY_SIGN.items()}
