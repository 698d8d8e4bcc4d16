"""The pickle of a TorchScript archive, walked through without Python's unpickler.

A pickle is a program for a stack machine. This machine has only the steps that TorchScript writes, and what
they can make is numbers, texts, tuples, lists, dictionaries, tensors and `ScriptModule`. A name in a pickle
is looked up nowhere: it is compared with the few that are known. So there is nothing that a file could call.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clip_surgery_hub.checkpoints.json_files import shortened

#: Makes the numbers `[N]` of a storage from the five parts of a reference to it.
Storage = Callable[[tuple[Any, ...]], Tensor]
#: Makes a tensor from a storage, an offset, a size and a stride.
View = Callable[[Any, Any, Any, Any], Tensor]

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = frozenset(("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class PickleRefused(ValueError):
    """A pickle holds what is no module of tensors; the message is one line, without the name of the file."""


@dataclass(frozen=True)
class Name:
    """A name that a pickle says: `module` and `name` of something that is not looked up."""

    module: str
    name: str


@dataclass(eq=False)
class ScriptModule:
    """A module of an archive: the name of its class, and its attributes."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


def walk(content: bytes, *, storage: Storage, view: View) -> Any:
    """What a pickle makes.

    Args:
        content: the pickle.
        storage: called with a reference to a storage.
        view: called with what makes a tensor.

    Raises:
        PickleRefused: for steps and names that are not those of TorchScript's modules, and for a pickle that
            is cut off.
    """
    machine = _Machine(storage, view)
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except PickleRefused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise PickleRefused(f"its data.pkl makes no sense ({shortened(error)})") from error
    raise PickleRefused("its data.pkl is cut off")


class _Machine:
    def __init__(self, storage: Storage, view: View) -> None:
        self.storage, self.view = storage, view
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Take one step of the pickle."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in _TUPLES:
            stack.append(tuple(self.last(_TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            values = self.since_mark() if name == "APPENDS" else self.last(1)
            _of(list, stack[-1]).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.since_mark() if name == "SETITEMS" else self.last(2))
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif name == "BINPERSID":
            stack.append(self.storage(_of(tuple, stack.pop())))
        elif name in ("REDUCE", "NEWOBJ"):
            maker, given = self.last(2)
            stack.append(self.made(_of(Name, maker), _of(tuple, given), new=name == "NEWOBJ"))
        elif name == "BUILD":
            state = _of(dict, stack.pop())
            _of(ScriptModule, stack[-1]).attributes = state
        elif name != "PROTO":
            raise PickleRefused(f"its data.pkl has a step {name}, which TorchScript never writes")

    def since_mark(self) -> list[Any]:
        """Take everything off the stack down to the last mark."""
        above = (count for count, value in enumerate(reversed(self.stack)) if value is _MARK)
        if (count := next(above, None)) is None:
            raise PickleRefused("its data.pkl makes no sense (there is no mark on the stack)")
        values = self.last(count)
        self.stack.pop()
        return values

    def last(self, count: int) -> list[Any]:
        """Take the last values off the stack, in their order."""
        if count > len(self.stack):
            raise PickleRefused("its data.pkl makes no sense (the stack is empty)")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def set_items(self, values: list[Any]) -> None:
        """Put keys and values, in turn, into the dictionary on top."""
        target = _of(dict, self.stack[-1])
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise PickleRefused(f"its data.pkl has a key of the kind {type(key).__name__}")
            target[key] = value

    def made(self, maker: Name, given: tuple[Any, ...], *, new: bool) -> Any:
        """What a known name makes of values: a module where it is `new`, else a tensor or a container."""
        if maker.module.split(".")[0] == "__torch__":
            if new and not given:
                return ScriptModule(f"{maker.module}.{maker.name}")
        elif not new and maker.name == "_rebuild_tensor_v2":
            return self.view(*given[:4])
        elif not new and maker.name == "OrderedDict" and not given:
            return {}
        elif not new and maker.name in (*_LISTS, "restore_type_tag", "_rebuild_parameter"):
            return given[0]
        raise PickleRefused(f"its data.pkl makes something of {maker.module}.{maker.name} that is unknown")


def _known(module: str, name: str) -> Name:
    """A name, if it is one of those that TorchScript writes."""
    known = {
        "torch": STORAGES.keys(),
        "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
        "torch.jit._pickle": _LISTS | {"restore_type_tag"},
        "collections": {"OrderedDict"},
    }
    if module.split(".")[0] != "__torch__" and name not in known.get(module, ()):
        raise PickleRefused(
            f"its data.pkl names {shortened(f'{module}.{name}')}, which is neither a tensor nor a module of "
            "TorchScript; nothing of it was executed"
        )
    return Name(module, name)


def _of(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise PickleRefused(f"its data.pkl has {type(value).__name__} where {kind.__name__} must be")
    return value
