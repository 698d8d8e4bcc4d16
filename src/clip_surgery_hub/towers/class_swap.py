"""Modules under surgery stay the objects they are and swap their class; here is how, and how it is undone.

The class with surgery is a subclass of the plain one, which it keeps as `plain`. It is made the first time it
is asked for, under the name `<class>WithSurgery`, and lives in this file, where pickle finds it. What it adds
to the plain class is said by the family that the plain class belongs to (`surgery_parts` of its file).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import nn

SUFFIX = "WithSurgery"


@dataclass(frozen=True)
class SurgeryParts:
    """What a class with surgery is made of.

    Attributes:
        before: a class with the forward of surgery; what it defines goes before what `plain` does.
        plain: the class of the module as its library makes it.
        attributes: of the class, for `before` to use.
    """

    before: type[nn.Module]
    plain: type[nn.Module]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def surgery_class(name: str) -> type[nn.Module]:
    """The class `<name>WithSurgery` of the plain class `name` of a family."""
    if name + SUFFIX not in globals():
        __getattr__(name + SUFFIX)
    found: type[nn.Module] = globals()[name + SUFFIX]
    return found


def __getattr__(name: str) -> Any:
    """Make a class with surgery the first time it is asked for, by `surgery_class` or by pickle."""
    if not name.endswith(SUFFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clip_surgery_hub.towers import FAMILY_FILES

    plain = name.removesuffix(SUFFIX)
    parts = next((found for file in FAMILY_FILES if (found := file.surgery_parts(plain))), None)
    if parts is None:
        raise AttributeError(f"no family of towers has a class {plain!r}")
    library = parts.plain.__module__.split(".", maxsplit=1)[0]
    body = {"__module__": __name__, "__doc__": f"{plain} of {library} under surgery.", "plain": parts.plain}
    made = type(name, (parts.before, parts.plain), body | dict(parts.attributes))
    return globals().setdefault(name, made)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has without surgery."""
    found: type[nn.Module] = vars(type(module)).get("plain", type(module))
    return found


def swap_classes(changes: Mapping[nn.Module, type[nn.Module]], rollback: ExitStack) -> None:
    """Give each module its new class, in order; the way back is on `rollback` before each change."""
    for module, swapped in changes.items():
        rollback.callback(setattr, module, "__class__", type(module))
        module.__class__ = swapped


def restore_classes(modules: Iterable[nn.Module]) -> None:
    """Give those of the modules that are under surgery their plain classes back, in order.

    Raises:
        RuntimeError: when something has put a forward of its own on one of these; then none is changed.
    """
    modified = [module for module in modules if "plain" in vars(type(module))]
    refuse_replaced_forward(*modified)
    for module in modified:
        module.__class__ = plain_class(module)


def remove_hooks(module: nn.Module, *hooks: Callable[..., Any]) -> None:
    """Take hooks off `module` that were registered with keyword arguments, by what they call."""
    for called, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, hook in called.items() if hook in hooks]:
            del called[key], with_kwargs[key]


def refuse_replaced_forward(*modules: nn.Module) -> None:
    """The class decides what a module's forward does, unless the instance has one of its own.

    Raises:
        RuntimeError: when one has.
    """
    for module in modules:
        if "forward" in vars(module):
            raise RuntimeError(
                f"the forward of a {type(module).__name__} was replaced on the module itself, as accelerate "
                "does for device_map and offloading, so that surgery cannot be put in or taken out: do so "
                "while it is not (accelerate.hooks.remove_hook_from_submodules), and dispatch afterwards"
            )
