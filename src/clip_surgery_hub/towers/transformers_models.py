"""Models of transformers: which class of its models a module is of, and what is around a tower."""

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from clip_surgery_hub.towers.class_swap import plain_class


def modeling(package: str) -> Any:
    """The module `transformers.models.<package>.modeling_<package>`."""
    return import_module(f"transformers.models.{package}.modeling_{package}")


def transformers_class(module: nn.Module) -> str | None:
    """The name of the class of transformers' models that `module` is or descends from, or None."""
    transformers_models = (
        base.__name__ for base in type(module).__mro__ if base.__module__.startswith("transformers.models.")
    )
    return next(transformers_models, None)


def parents(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules around the one at `path`, the nearest first, `model` itself last."""
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:depth])) for depth in reversed(range(len(parts)))]


def refuse_unknown_parents(model: nn.Module, path: str, tower: str, known: Collection[str]) -> None:
    """A model of transformers around a tower must read only what surgery leaves as it was.

    Args:
        model: which holds the tower.
        path: of the tower in it.
        tower: name of the tower's class.
        known: names of the models that are known to.

    Raises:
        TypeError: for another.
    """
    for parent in parents(model, path):
        name = transformers_class(parent)
        if name is not None and name not in known and not name.endswith("PreTrainedModel"):
            raise TypeError(
                f"{name} holds a {tower}, but it is not known to read only what surgery leaves as it "
                f"was: to modify the tower all the same, pass it by itself, model.{path}"
            )


def refuse_replaced_parts(vision: nn.Module, tower: str, expected: Mapping[str, type[nn.Module]]) -> None:
    """The parts of a tower that surgery deals with must be what transformers makes them.

    Args:
        vision: the tower.
        tower: name of its class.
        expected: the plain class of each part, by its path in the tower.

    Raises:
        TypeError: for a part of another class.
    """
    parts = dict(vision.named_modules())
    for part, plain in expected.items():
        found = plain_class(parts[part]) if part in parts else type(None)
        if found is not plain:
            raise TypeError(
                f"the {part} of {tower} is a {found.__name__}, but surgery is known to work on "
                f"{plain.__name__} of transformers only: apply it before that part is replaced"
            )
