"""From weights by name to a module that holds them, all of them and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clip_surgery_hub.checkpoints.json_files import plural, shortened
from clip_surgery_hub.checkpoints.weights import check_values


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


def load_state(
    build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], *, source: str, dtype: torch.dtype
) -> nn.Module:
    """Build a module and put weights into it.

    Args:
        build: makes the module; called without initialization.
        tensors: every parameter and persistent buffer by name, and nothing else.
        source: the checkpoint, for messages.
        dtype: what floating point numbers become.

    Returns:
        The module in eval mode.

    Raises:
        ValueError: naming weights that are missing, left over, of another shape, not numbers or not finite.
    """
    try:
        with without_initialization():
            module = build()
    except (RuntimeError, MemoryError) as error:  # more memory than there is
        raise ValueError(
            f"the model of {source} cannot be built ({shortened(error)}); is its configuration right?"
        ) from error
    wanted = module.state_dict()
    # Counters of batches, of which OpenAI's archives have none, are read in training only.
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith(".num_batches_tracked")}
    tensors = counters | dict(tensors)
    _refuse(f"{source} lacks", wanted.keys() - tensors.keys(), type(module).__name__)
    _refuse(f"{source} holds what is no part of it:", tensors.keys() - wanted.keys(), type(module).__name__)
    for name, tensor in tensors.items():
        if wanted[name].is_floating_point() and not tensor.is_floating_point():
            raise ValueError(
                f"the weight {name} of {source} is of {tensor.dtype}, but must be of a floating point dtype; "
                "copy the file again."
            )
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"the weight {name} of {source} has shape {shortened(list(tensor.shape))}, but "
                f"{list(wanted[name].shape)} is what its configuration says; give files that belong together."
            )
    own = {
        name: tensor.to(dtype if wanted[name].is_floating_point() else wanted[name].dtype, copy=True)
        for name, tensor in tensors.items()
    }
    check_values(own, source)
    module.load_state_dict({name: tensor.contiguous() for name, tensor in own.items()}, assign=True)
    module.to(dtype)
    return module.eval()


def _refuse(what: str, names: set[str], module: str) -> None:
    if names:
        some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"the checkpoint {what} {plural(len(names), 'weight')} of {module} ({shortened(some)[1:-1]}); "
            "give a complete checkpoint and the configuration that belongs to it."
        )
