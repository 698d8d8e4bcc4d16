"""Files of weights: read as tensors and nothing else, and judged before anything is allocated for them.

A tensor of a file is a view of the file, so that reading costs what is used of it. Nothing that a file holds
is executed.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip_surgery_hub.checkpoints.json_files import as_json_object, plural, read_json_object, shortened

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
_LFS_POINTER = b"version https://git-lfs.github.com/"


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a checkpoint as its files hold them.

    Attributes:
        path: the file that holds them, or the index of the files that do.
        tensors: by name; not yet read.
        files: by the same names, the file of each where there are several.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    files: Mapping[str, Path]

    def file_of(self, name: str) -> Path:
        """The file that holds a weight, or should."""
        return self.files.get(name, self.path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, in the dtypes and shapes of the file.

    Args:
        path: ``*.safetensors``, or any other name for what `torch.save` writes (zip or legacy): a dictionary
            of tensors, or one that holds it under ``"state_dict"``.

    Raises:
        ValueError: for a file that is damaged, cut off, contradicts itself, or holds more than tensors.
        OSError: for a file that cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading from a pipe would wait for ever
        raise ValueError(f"{path} is no file; the weights of a checkpoint must be one.")
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if not start:
        raise ValueError(f"the weights of {path} are empty; copy the file again.")
    if start == _LFS_POINTER:
        raise ValueError(
            f"{path} is a pointer of Git LFS in place of the weights; fetch them with 'git lfs pull'."
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, status.st_size)


def read_shards(index: Path, find: Callable[[str], Path | None]) -> Weights:
    """The tensors of weights in several files.

    Args:
        index: ``*.index.json``, whose ``"weight_map"`` says which file holds a tensor.
        find: gives a file of the checkpoint by its name, None where there is none.

    Raises:
        ValueError: for files that are damaged or do not hold what the index says, or an index that names
            files outside of its folder.
        OSError: for a file that cannot be read.
    """
    weight_map = _read_weight_map(index)
    tensors: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    for shard in sorted(set(weight_map.values())):
        if (path := find(shard)) is None:
            raise ValueError(f"{index} names {shard}, which is not there; copy it again.")
        for name, tensor in read_weights(path).items():
            if name in files:
                raise ValueError(
                    f"the weight {shortened(name)} is in {files[name]} and in {path}; one of them must go."
                )
            tensors[name], files[name] = tensor, path
    for name, shard in weight_map.items():
        if name not in files or files[name].name != shard:
            raise ValueError(
                f"{index.with_name(shard)} lacks the weight {shortened(name)}, which {index} says it holds; "
                "copy the files of this checkpoint again, all of one version."
            )
    return Weights(index, tensors, files)


def _read_weight_map(index: Path) -> dict[str, str]:
    """What the index of sharded weights says: by name of a tensor the name of the file that holds it."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no 'weight_map' from weights to files; copy it again.")
    ending = "." + index.name.removesuffix(".index.json").rsplit(".", 1)[-1]
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or Path(shard).suffix != ending:
            raise ValueError(
                f"{index} says that {shortened(name)} is in {shortened(shard)}; it must be a file *{ending} "
                "beside it, by its plain name."
            )
    return weight_map


def check_values(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are not finite; those of integers are passed over.

    Raises:
        ValueError: names the first tensor that holds NaN or infinity, and `source`, the file it comes from.
    """
    for name, tensor in tensors.items():
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no order in torch
        extremes = torch.aminmax(values)
        # NaN is in both extremes and infinity is one of them: one pass, no memory, no overflow as in a sum.
        if not all(math.isfinite(float(extreme)) for extreme in extremes):
            wrong = tensor.numel() - int(torch.isfinite(values).sum())
            raise ValueError(
                f"the weight {shortened(name)} of {source} holds {plural(wrong, 'value')} that "
                f"{'is' if wrong == 1 else 'are'} NaN or infinite in {tensor.dtype}; copy the file again, or "
                "load it in float32 if this is a narrower dtype than that of the file."
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            _check_said_once(path)
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, shortened(error)) from error
    except RuntimeError as error:  # of the mapping into memory
        raise ValueError(f"the weights of {path} cannot be read: {shortened(error)}.") from error


def _check_said_once(path: Path) -> None:
    """Refuse a header that names a tensor twice: safetensors takes the last, and checks all else itself."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little"))
    as_json_object(header, f"the header of {path}")


def _read_pickle(path: Path, size: int) -> dict[str, Tensor]:
    in_zip = zipfile.is_zipfile(path)
    if in_zip:
        _judge_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions of pickle; what matters is an error here
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=in_zip)
    except Exception as error:  # the reader raises errors of every kind on damaged files
        # Not its own words: they advise to read the file in a way that executes what it holds.
        raise _damaged(
            path, "it is cut off, no file of torch.save, or holds code or other things than tensors"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not stored:
        raise _damaged(path, f"it holds {type(stored).__name__} in place of tensors by name")
    total = 0
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _damaged(path, f"it holds {type(tensor).__name__} under {shortened(name)}, not a tensor")
        total += tensor.numel() * tensor.element_size()
        # A tensor could repeat its storage without end, or have none; used, it is as large as it says.
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _damaged(path, f"{shortened(name)} is no plain tensor of numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() or total > 2 * size:
            raise _damaged(
                path, f"{shortened(name)} of shape {shortened(list(tensor.shape))} has no data for it"
            )
    return {name: tensor.detach() for name, tensor in stored.items()}


def _judge_zip(path: Path) -> None:
    """Torch stores without compression; what is compressed could unfold without end."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path, shortened(error)) from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise _damaged(path, f"{shortened(entry.filename)} in it is compressed, as torch.save never does")
    if sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise _damaged(path, "its parts overlap")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"the weights of {path} are damaged: {why}; copy the file again.")
