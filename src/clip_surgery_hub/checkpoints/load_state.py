"""Weights and the model that is to hold them: all of them and nothing else, asked before there is memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from clip_surgery_hub.checkpoints.json_files import plural, shortened
from clip_surgery_hub.checkpoints.weights import Weights, check_values

# A model may have weights that its files lack since they are tied to others, and files may hold the rest of a
# larger model: this factor between what is asked for and what is held is no reason to refuse them unread.
_FACTOR = 4
_FEW = 2**20  # numbers that are too few to matter


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


class _WithoutInitialization(TorchFunctionMode):
    """Leaves out what is written into a parameter."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and args and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_initialization() -> Iterator[None]:
    """A context in which modules are built, but their parameters are not filled with random numbers.

    The memory of a parameter is never touched, buffers are real, and torch's generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]), _WithoutInitialization():
        yield


def load_state(build: Callable[[], nn.Module], weights: Weights, *, dtype: torch.dtype) -> nn.Module:
    """Build a module, put weights into it, and set it to eval mode.

    Args:
        build: makes the module; called without initialization, at first on the meta device.
        weights: every parameter and persistent buffer by its name in the module, and nothing else.
        dtype: what floating point numbers become.

    Raises:
        ValueError: naming weights that are missing, left over, of another shape, not numbers or not finite.
    """
    with torch.device("meta"):
        wanted = _built(build, weights.path)
    # Counters of batches, of which OpenAI's archives have none, are read in training only.
    counters = [name for name in wanted.state_dict() if name.endswith(".num_batches_tracked")]
    tensors = dict.fromkeys(counters, torch.tensor(0)) | dict(weights.tensors)
    weights = Weights(weights.path, tensors, weights.files)
    check_kinds(wanted, weights)
    _refuse_other_names(wanted, weights, "its configuration")
    module = _built(build, weights.path)
    own = {
        name: tensors[name].to(dtype if entry.is_floating_point() else entry.dtype, copy=True)
        for name, entry in module.state_dict().items()
    }
    check_values(own, weights.path)
    module.load_state_dict({name: tensor.contiguous() for name, tensor in own.items()}, assign=True)
    module.to(dtype)
    return module.eval()


def _built(build: Callable[[], nn.Module], source: Path) -> nn.Module:
    try:
        with without_initialization():
            return build()
    except (RuntimeError, MemoryError) as error:  # larger than any memory
        raise ValueError(
            f"the model of {source} cannot be built ({shortened(error)}); is its configuration right?"
        ) from error


def check_kinds(model: nn.Module, weights: Weights) -> None:
    """Refuse whole numbers where the model has real ones, which would be converted.

    Raises:
        ValueError: names the weight.
    """
    entries = [*model.named_parameters(), *model.named_buffers()]
    whole = {name.rsplit(".", 1)[-1] for name, entry in entries if not entry.is_floating_point()}
    for name, tensor in weights.tensors.items():
        if not tensor.is_floating_point() and name.rsplit(".", 1)[-1] not in whole:
            raise ValueError(
                f"the weight {shortened(name)} of {weights.file_of(name)} is of {tensor.dtype}, but must be "
                "of a floating point dtype; copy the file again."
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
    if asked > _FACTOR * held + _FEW or held > _FACTOR * most + _FEW or are_many:
        _refuse_other_names(model, weights, config)


def _numbers(model: nn.Module) -> int:
    return sum(entry.numel() for entry in (*model.parameters(), *model.buffers()))


def _refuse_other_names(model: nn.Module, weights: Weights, config: Path | str) -> None:
    """Refuse weights that have not the very names and shapes of the model, which is on the meta device."""
    shapes = {name: list(entry.shape) for name, entry in model.state_dict().items()}
    in_files = {name: list(tensor.shape) for name, tensor in weights.tensors.items()}
    both = shapes.keys() & in_files.keys()
    refuse_misfit(
        model,
        weights,
        config,
        mismatched=[(name, in_files[name], shapes[name]) for name in both if in_files[name] != shapes[name]],
        missing=shapes.keys() - both,
        unexpected=in_files.keys() - both,
    )


def refuse_misfit(
    model: nn.Module,
    weights: Weights,
    config: Path | str,
    *,
    mismatched: Collection[tuple[str, Collection[int], Collection[int]]],
    missing: Collection[str],
    unexpected: Collection[str],
) -> None:
    """Refuse weights that do not fit, if anything is wrong with them.

    Args:
        model: that is to hold them.
        weights: as the files have them.
        config: what describes the model, for the message.
        mismatched: name, shape in the file and shape in the model where the two differ.
        missing: names of weights of the model that the files lack.
        unexpected: names in the files that the model has no weight for, and that it does not ignore.

    Raises:
        ValueError: names some of the weights, their file and the class of the model.
    """
    kind = type(model).__name__
    if mismatched:
        name, in_file, in_model = min(mismatched, key=lambda entry: entry[0])
        others = f" (and {len(mismatched) - 1} more do not fit)" if len(mismatched) > 1 else ""
        raise ValueError(
            f"the weight {name} of {weights.file_of(name)} has shape {shortened(list(in_file))}, but "
            f"{list(in_model)} is what {config} says{others}; give files that belong together."
        )
    if missing:
        raise ValueError(
            f"the checkpoint {weights.path} lacks {plural(len(missing), 'weight')} of {kind} "
            f"({_some(missing)}), so its results would be random; give a complete checkpoint and the "
            "configuration that belongs to it."
        )
    if unexpected:
        raise ValueError(
            f"the checkpoint {weights.path} holds {plural(len(unexpected), 'weight')} that {kind} of "
            f"{config} has no place for ({_some(unexpected)}); give files that belong together."
        )


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(shortened(name)[1:-1] for name in first) + (", ..." if len(names) > len(first) else "")
