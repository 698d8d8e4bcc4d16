"""Vision towers: one file per family of blocks.

Each file in `families/` has `find_towers`, `refusal`, `surgery_parts` and `DESCRIPTION`. To add a family,
put its file there.
"""

from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from clip_surgery_hub.towers import families
from clip_surgery_hub.towers.tower import Surgery, Tower

__all__ = ["FAMILY_FILES", "Surgery", "Tower", "find_tower"]

FAMILY_FILES = tuple(
    import_module(f"{families.__name__}.{name}") for _, name, _ in iter_modules(families.__path__)
)


def find_tower(model: nn.Module) -> Tower:
    """The vision tower of `model`, found by the classes of its modules.

    `model` may be a full model, its vision part, or either inside a wrapper (DDP, PEFT, a LightningModule).

    Raises:
        TypeError: when `model` has no tower of a known family, more than one, or a head that reads the
            patch tokens which surgery replaces. The message names what was found and what is supported.
    """
    supported = "; ".join(file.DESCRIPTION for file in FAMILY_FILES)
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; supported are {supported}")
    for file in FAMILY_FILES:
        for module in model.modules():
            if reason := file.refusal(module):
                raise TypeError(f"{reason}. Supported are {supported}")
    towers: dict[str, Tower] = {
        path: tower for file in FAMILY_FILES for path, tower in file.find_towers(model).items()
    }
    if not towers:
        raise TypeError(f"no known vision tower in {type(model).__name__}. Supported are {supported}")
    if len(towers) > 1:
        places = " or ".join(f"model.{path}" for path in towers)
        raise TypeError(
            f"{type(model).__name__} holds {len(towers)} vision towers: pass one of them, {places}"
        )
    return next(iter(towers.values()))
