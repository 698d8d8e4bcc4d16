"""Whether weights fit the model that a configuration describes, asked before there is memory for either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from clip_surgery_hub.checkpoints.json_files import plural, shortened

__all__ = ["Misfit", "Weights", "check_amounts", "check_kinds", "refuse_misfit", "without_memory"]

# A model may have weights that its files lack since they are tied to others, and files may hold the rest of a
# larger model: this factor between what is asked for and what is held is no reason to refuse them unread.
_FACTOR = 4
_FEW = 2**20  # numbers that are too few to matter


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a checkpoint as its files hold them.

    Attributes:
        path: the file that holds them, or the index of the files that do.
        tensors: by the names that the files have for them, not yet read.
        files: by the same names, the file that holds each.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Misfit:
    """What `transformers` found when it put weights into a model.

    Attributes:
        missing: names of weights of the model that the files lack.
        mismatched: name, shape in the file and shape in the model where the two differ.
        unexpected: names in the files that the model has no weight for, and that it does not ignore.
    """

    missing: Collection[str]
    mismatched: Collection[tuple[str, Collection[int], Collection[int]]]
    unexpected: Collection[str]


class _TooManyWeights(Exception):
    """A model that is being made has more weights than it may have."""


def without_memory(make: Callable[[], nn.Module], weights: Weights, config: Path, largest: str) -> nn.Module:
    """A model of empty shapes, on the meta device.

    Args:
        make: makes it.
        weights: those it is to hold; it is given up when it gets many more than these.
        config: the file that describes it, and
        largest: the largest numbers in it, both for the message.

    Raises:
        ValueError: when there is no such model, or it has far more weights than there are.
    """
    most = _FACTOR * len(weights.tensors) + 100
    try:
        with torch.device("meta"), _at_most(most):
            return make()
    except _TooManyWeights as error:
        raise ValueError(
            f"{config} describes a model of more than {most} weights ({largest}), but {weights.path} holds "
            f"{len(weights.tensors)}; give files that belong together."
        ) from error
    except Exception as error:  # whatever numbers that make no sense lead to
        raise ValueError(
            f"{config} describes no model that can be made ({shortened(error)}; its largest numbers: "
            f"{largest}); copy it again."
        ) from error


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """No module that this thread makes gets further parameters when `most` have been given out."""
    thread, given = threading.get_ident(), 0

    def count(*_: Any) -> None:
        nonlocal given
        given += threading.get_ident() == thread
        if given > most and threading.get_ident() == thread:
            raise _TooManyWeights

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_kinds(model: nn.Module, weights: Weights) -> None:
    """Refuse whole numbers where the model has real ones, which `transformers` would convert.

    Raises:
        ValueError: names the weight.
    """
    entries = [*model.named_parameters(), *model.named_buffers()]
    whole = {name.rsplit(".", 1)[-1] for name, entry in entries if not entry.is_floating_point()}
    for name, tensor in weights.tensors.items():
        if not tensor.is_floating_point() and name.rsplit(".", 1)[-1] not in whole:
            raise ValueError(
                f"the weight {shortened(name)} of {weights.files[name]} is of {tensor.dtype}, but must be of "
                "a floating point dtype; copy the file again."
            )


def check_amounts(model: nn.Module, whole: nn.Module, weights: Weights, config: Path) -> None:
    """Refuse weights that are far fewer or far more than those of the model, before memory is taken.

    Args:
        model: on the meta device.
        whole: the larger model that the files may hold, likewise; or again the model.
        weights: as the files have them.
        config: the file that describes the model.

    Raises:
        ValueError: names weights that do not fit.
    """
    held = sum(tensor.numel() for tensor in weights.tensors.values())
    asked, most = _numbers(model), max(_numbers(model), _numbers(whole))
    are_many = len(weights.tensors) > _FACTOR * len(whole.state_dict()) + 1000
    if asked <= _FACTOR * held + _FEW and held <= _FACTOR * most + _FEW and not are_many:
        return
    shapes = {name: list(entry.shape) for name, entry in model.state_dict().items()}
    in_files = {name: list(tensor.shape) for name, tensor in weights.tensors.items()}
    both = shapes.keys() & in_files.keys()
    mismatched = [(name, in_files[name], shapes[name]) for name in both if in_files[name] != shapes[name]]
    found = Misfit(shapes.keys() - both, mismatched, in_files.keys() - both)
    refuse_misfit(found, type(model).__name__, weights, config)


def _numbers(model: nn.Module) -> int:
    return sum(entry.numel() for entry in (*model.parameters(), *model.buffers()))


def refuse_misfit(found: Misfit, model: str, weights: Weights, config: Path) -> None:
    """Refuse weights that do not fit, if anything is wrong with them.

    Raises:
        ValueError: names some of the weights, their file and the class of the model.
    """
    if found.mismatched:
        name, in_file, in_model = min(found.mismatched, key=lambda entry: entry[0])
        others = f" (and {len(found.mismatched) - 1} more do not fit)" if len(found.mismatched) > 1 else ""
        raise ValueError(
            f"the weight {name} of {weights.files.get(name, weights.path)} has shape {list(in_file)}, but "
            f"{config} asks for {list(in_model)}{others}; give files that belong together."
        )
    if found.missing:
        raise ValueError(
            f"the checkpoint {weights.path} lacks {len(found.missing)} weights of {model} "
            f"({_some(found.missing)}), so its results would be random; give a complete checkpoint."
        )
    if found.unexpected:
        raise ValueError(
            f"the checkpoint {weights.path} holds {plural(len(found.unexpected), 'weight')} that {model} of "
            f"{config} has no place for ({_some(found.unexpected)}); give files that belong together."
        )


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(shortened(name)[1:-1] for name in first) + (", ..." if len(names) > len(first) else "")
