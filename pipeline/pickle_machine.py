"""A machine that follows a pickle's instructions and has nothing to call: names stay names, objects stay records.

Python's own unpickler imports and calls what a file names. Here a name is a text that is looked up in a list, and what
the list has for it is given plain values and makes plain values.
"""

from __future__ import annotations

import mmap
import pickletools  # nosec B403  # it reads instructions and follows none
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, BinaryIO


class Refused(Exception):
    """What is wrong with a pickle, in one line, and the name that is to blame."""

    def __init__(self, message: str, given: object = None) -> None:
        self.message, self.given = message, given
        super().__init__(message)


@dataclass(frozen=True)
class Name:
    """A module and something in it, as the file names it. Nobody has looked whether it exists."""

    full: str


@dataclass(eq=False)
class Record:
    """An object as a pickle stores it: the name of its class, what it was made from, its state."""

    name: str
    state: Any = None
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Names:
    """Everything that a file may name.

    `calls` make a value from a call's arguments. `records` are classes whose objects are kept as `Record`s, `dicts`
    those whose objects are dicts. `inert` may be named, as an argument of a call, and no more.
    """

    calls: Mapping[str, Callable[..., Any]]
    records: AbstractSet[str]
    dicts: AbstractSet[str]
    inert: AbstractSet[str]

    def name(self, full: str) -> Name:
        """The name, if it is listed."""
        if full not in self.calls and full not in self.records and full not in self.dicts and full not in self.inert:
            raise Refused("names something that no network is stored with; nothing of it was run", full[:200])
        return Name(full)


class _Mark:
    """Where a run of values begins on the stack."""


def follow(file: BinaryIO | mmap.mmap, names: Names, outside: Callable[[Any], Any]) -> Any:
    """The value of the pickle that begins here; the file is left at its end. `outside` answers for references.

    Raises:
        Refused: a name that is not listed, or an instruction that no network is stored with.
        Exception: whatever Python raises where an instruction has not the values that it needs.
    """
    machine = _Machine(names, outside)
    opcode: Any
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]  # a map is read like a file
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("no end")


def keys(values: list[Any]) -> list[Any]:
    """The values, if each can be a key. A tuple may be nested so deeply that hashing it ends the process."""
    if not all(value is None or isinstance(value, str | int | float | bytes) for value in values):
        raise TypeError("no key")
    return values


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, names: Names, outside: Callable[[Any], Any]) -> None:
        self.names, self.outside = names, outside
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name == "MARK":
            stack.append(_Mark())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(self.names.name(argument.replace(" ", ".", 1)))
        elif name == "INST":
            made = argument.replace(" ", ".", 1)[:200]
            raise Refused("makes an object as old pickles do; nothing of it was run", made)
        elif name in _STEPS:
            _STEPS[name](self)
        elif name not in ("PROTO", "FRAME"):
            raise Refused("uses an instruction of pickle that no network is stored with", name)

    def marked(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        taken = []
        while not isinstance(value := self.stack.pop(), _Mark):
            taken.append(value)
        return taken[::-1]

    def collect(self, count: int) -> None:
        """The last `count` values become one."""
        taken = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(taken[::-1])

    def named(self) -> None:
        """A name from two texts."""
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.names.name(f"{module}.{name}"))

    def extend(self, values: list[Any]) -> None:
        """Values for the list below them."""
        self._last(list).extend(values)

    def add(self, values: list[Any]) -> None:
        """Values for the set below them."""
        self._last(set).update(keys(values))

    def update(self, flat: list[Any]) -> None:
        """Keys and values, in turn, for the dict below them."""
        self._last(dict).update(zip(keys(flat[::2]), flat[1::2], strict=True))

    def call(self) -> None:
        """What the list has for a name, given the arguments above it."""
        name, arguments = self._name_and_arguments()
        if name not in self.names.calls:
            raise Refused("calls what it may only name; nothing of it was run", name)
        self.stack.append(self.names.calls[name](*arguments))

    def make(self) -> None:
        """An empty object of a class."""
        name, arguments = self._name_and_arguments()
        if name in self.names.dicts and not arguments:
            self.stack.append({})
        elif name in self.names.records and not arguments:
            self.stack.append(Record(name))
        else:
            raise Refused("makes an object of what it may only name; nothing of it was run", name)

    def build(self) -> None:
        """A state for a record, once."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record) and target.state is None:
            target.state = state
        elif not isinstance(target, dict):  # a dict's own attributes are dropped
            given = target.full if isinstance(target, Name) else type(target).__name__
            raise Refused("sets the state of what has none; nothing of it was run", given)

    def refer(self) -> None:
        """What `outside` has for a reference."""
        self.stack.append(self.outside(self.stack.pop()))

    def _name_and_arguments(self) -> tuple[str, tuple[Any, ...]]:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError("no call")
        return name.full, arguments

    def _last(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"no {kind.__name__}")
        return self.stack[-1]


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"}
_LITERALS |= {"BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_STEPS: dict[str, Callable[[_Machine], Any]] = {
    "STACK_GLOBAL": _Machine.named,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": _Machine.marked,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine: machine.collect(1),
    "TUPLE2": lambda machine: machine.collect(2),
    "TUPLE3": lambda machine: machine.collect(3),
    "APPEND": lambda machine: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine: machine.extend(machine.marked()),
    "SETITEM": lambda machine: machine.update([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine: machine.update(machine.marked()),
    "ADDITEMS": lambda machine: machine.add(machine.marked()),
}
