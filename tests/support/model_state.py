"""Everything that a model holds, to compare before and after."""

import json
from typing import Any

from torch import nn


def walk(model: nn.Module) -> dict[str, Any]:
    """All state of a model: of each module its identity, class and every entry of its __dict__.

    Containers are taken apart, so that parameters, buffers, children and hooks count by identity;
    tensors also by their bits, `requires_grad` and gradient.
    """
    state: dict[str, Any] = {"config": json.dumps(model.config.to_dict(), default=str)}
    for path, module in model.named_modules():
        state[f"{path}: module"] = (id(module), type(module))
        for key, value in vars(module).items():
            entry = f"{path}: {key}"
            if isinstance(value, dict):
                state[entry] = (id(value), [(name, id(part)) for name, part in value.items()])
            elif isinstance(value, int | float | str | bool | None):
                state[entry] = value
            else:
                state[entry] = (id(value), repr(value))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        bits = tensor.detach().numpy().tobytes()
        state[f"{name}: tensor"] = (id(tensor), tensor.data_ptr(), bits, tensor.requires_grad, tensor.grad)
    return state
