"""Modules under surgery stay the objects they are and change their class; here is how, and how it is undone.

The class with surgery is a subclass of the plain one, which it keeps as `plain`. It is made the first time it
is asked for and lives in the file of its family under the name `<class>WithSurgery`, where pickle finds it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

SUFFIX = "WithSurgery"


def make_surgery_class(
    before: type[nn.Module], plain: type[nn.Module], home: str, **attributes: Any
) -> type[nn.Module]:
    """The class `<plain>WithSurgery`: what `before` defines goes before what `plain` does.

    Args:
        before: a class with the forward of surgery.
        plain: the class of the module as its library makes it.
        home: name of the module of this package that the class is found in.
        attributes: of the class, for `before` to use.
    """
    library = plain.__module__.split(".", maxsplit=1)[0]
    body = {
        "__module__": home,
        "__doc__": f"{plain.__name__} of {library} under surgery.",
        "plain": plain,
        **attributes,
    }
    return type(plain.__name__ + SUFFIX, (before, plain), body)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has without surgery."""
    found: type[nn.Module] = vars(type(module)).get("plain", type(module))
    return found


def change_classes(changes: Mapping[nn.Module, type[nn.Module]], rollback: ExitStack) -> None:
    """Give each module its new class, in order; the way back is on `rollback` before each change."""
    for module, modified in changes.items():
        rollback.callback(setattr, module, "__class__", type(module))
        module.__class__ = modified


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
