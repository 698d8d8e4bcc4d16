"""The methods by name, and how one more is added."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from clip_surgery_hub.methods.method import Method
from clip_surgery_hub.methods.published import PUBLISHED

_METHODS: dict[str, Method] = {method.name: method for method in PUBLISHED}

#: Every registered method by name, read-only.
METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)


def register_method(method: Method) -> Method:
    """Add `method` to `METHODS` under its name and return it.

    Raises:
        ValueError: when the name is taken.
    """
    if _METHODS.setdefault(method.name, method) is not method:
        raise ValueError(
            f"a method named {method.name!r} is registered already: give yours another name (taken: "
            f"{', '.join(METHODS)})"
        )
    return method


def get_method(name: str) -> Method:
    """The registered method of that name.

    Raises:
        ValueError: when there is none; the message says which name was probably meant.
    """
    if isinstance(name, str) and name in _METHODS:
        return _METHODS[name]
    close = difflib.get_close_matches(str(name), METHODS, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown method {name!r}: {meant}known are {', '.join(METHODS)}")
