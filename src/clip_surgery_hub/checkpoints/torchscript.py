"""The tensors of a TorchScript archive, read without executing anything of it.

An archive is a zip of ``<name>/data.pkl``, a pickle of nested modules (`script_pickle` walks through it), and
``<name>/data/<key>``, the bytes of their tensors.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.script_pickle import STORAGES, Name, PickleRefused, ScriptModule, walk

_MOST_PICKLE_BYTES = 4 * 2**20  # a tree of modules without its numbers: ten thousand would fit
_MOST_MODULES = 100_000
_DEEPEST = 64


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip with the constants that only TorchScript writes."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return False


def read_torchscript(path: Path) -> dict[str, ScriptModule]:
    """The modules of an archive by name, outermost first (its name is empty).

    Raises:
        ValueError: one line that names the file, for anything that is damaged, too large, or no TorchScript.
        OSError: for a file that cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            modules = dict(_modules(_Archive(archive, path).read()))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise _refused(path, shortened(error)) from error
    except PickleRefused as error:
        raise _refused(path, str(error)) from error
    tensors = named_tensors(modules).values()
    # One storage may be seen by many tensors, but all of them are copied in the end.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > 2 * path.stat().st_size:
        raise _refused(path, "its tensors claim more bytes than it has")
    return modules


def named_tensors(modules: dict[str, ScriptModule]) -> dict[str, Tensor]:
    """The tensors of modules as ``state_dict`` names them."""
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, module in modules.items()
        for name, value in module.attributes.items()
        if isinstance(value, Tensor)
    }


def _modules(outermost: ScriptModule) -> Iterator[tuple[str, ScriptModule]]:
    waiting = [("", outermost)]
    count = 0
    while waiting:
        prefix, module = waiting.pop()
        count += 1
        if count > _MOST_MODULES or prefix.count(".") > _DEEPEST:
            raise PickleRefused("its modules hold themselves, or are too many")
        yield prefix, module
        for name, value in module.attributes.items():
            if isinstance(value, ScriptModule):
                waiting.append((f"{prefix}.{name}".lstrip("."), value))


class _Archive:
    """A zip whose parts are judged before they are read."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive = archive
        entries = archive.infolist()
        self.members = {entry.filename: entry for entry in entries}
        if len(self.members) < len(entries):
            raise PickleRefused("it holds files of the same name")
        pickles = [name for name in self.members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise PickleRefused(f"it holds {len(pickles)} files data.pkl, one is expected")
        self.folder = pickles[0].removesuffix("data.pkl")
        read = (pickles[0], f"{self.folder}data/", f"{self.folder}byteorder")
        stored = [entry for name, entry in self.members.items() if name.startswith(read)]
        for entry in stored:  # torch never compresses them; what is compressed could unfold without end
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise PickleRefused(f"{shortened(entry.filename)} in it is compressed")
        if sum(entry.file_size for entry in stored) > path.stat().st_size:
            raise PickleRefused("its parts overlap")
        self.storages: dict[str, Tensor] = {}

    def read(self) -> ScriptModule:
        """The outermost module."""
        name, order = f"{self.folder}data.pkl", f"{self.folder}byteorder"
        if self.members[name].file_size > _MOST_PICKLE_BYTES:
            raise PickleRefused(f"its data.pkl has more than {_MOST_PICKLE_BYTES} bytes")
        if order in self.members and self.archive.read(order).strip() != b"little":
            raise PickleRefused("its numbers are not little endian")
        module = walk(self.archive.read(name), storage=self.storage, view=_view)
        if not isinstance(module, ScriptModule):
            raise PickleRefused(f"it holds {type(module).__name__}, not a module")
        return module

    def storage(self, reference: tuple[Any, ...]) -> Tensor:
        """The numbers `[N]` of a storage, read once however many tensors see it."""
        if len(reference) != 5 or reference[0] != "storage" or not isinstance(reference[1], Name):
            raise PickleRefused("its data.pkl refers to something that is no storage")
        _, kind, key, _, count = reference
        dtype = STORAGES.get(kind.name)
        if dtype is None or not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,9}", key):
            raise PickleRefused("its data.pkl refers to something that is no storage")
        if key not in self.storages:
            self.storages[key] = self.numbers(f"{self.folder}data/{key}", dtype)
        storage = self.storages[key]
        if storage.dtype is not dtype or type(count) is not int or storage.numel() != count:
            raise PickleRefused(
                f"its data/{key} holds {storage.numel()} numbers of {storage.dtype}, which is not what its "
                "data.pkl says"
            )
        return storage

    def numbers(self, name: str, dtype: torch.dtype) -> Tensor:
        """The content of a file as numbers `[N]`."""
        if name not in self.members:
            raise PickleRefused(f"{shortened(name)} is not in it")
        content = bytearray(self.archive.read(name))
        if len(content) % dtype.itemsize:
            raise PickleRefused(f"{shortened(name)} has {len(content)} bytes, no whole number of {dtype}")
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A view of a storage that lies within it and is no larger."""
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (-1,)
    if not isinstance(storage, Tensor) or any(type(number) is not int or number < 0 for number in numbers):
        raise PickleRefused("its data.pkl describes a tensor by no sensible numbers")
    if len(size) != len(stride) or len(size) > 8:
        raise PickleRefused(f"its data.pkl describes a tensor of {len(size)} and {len(stride)} dimensions")
    amount = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if amount > storage.numel() or (amount and last >= storage.numel()):
        raise PickleRefused(
            f"its data.pkl describes a tensor {shortened(list(size))} of {storage.numel()} numbers"
        )
    return storage.as_strided(size, stride, offset) if amount else storage[:0].reshape(size)


def _refused(path: Path, why: str) -> ValueError:
    return ValueError(
        f"the archive {path} is refused: {why}; get the file again from where it was published."
    )
