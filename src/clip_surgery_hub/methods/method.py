"""What a method is, which there are by name, and how one more is added."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

#: What a mixing function may ask for, by the names of its parameters.
ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "query": "queries of the original path, [B, heads, tokens, head_dim], the N patches last",
        "key": "keys of the original path, [B, heads, tokens, head_dim]",
        "value": "values of the original path, [B, heads, tokens, head_dim]",
        "normed": "LN1 of the block's input on the original path, [B, tokens, width]",
        "scale": "the block's own attention scale, head_dim ** -0.5",
        "grid": "the patch grid (rows, columns), rows * columns == N",
    }
)


@dataclass(frozen=True)
class Method:
    """How the patch tokens are read: an entry of `METHODS`.

    Attributes:
        name: what `apply_surgery(model, method=name)` is given.
        mix: a module-level function (so that models under surgery can be pickled) which mixes the tokens of a
            block. Its parameters name what it needs out of `ARGUMENTS`; it returns all tokens
            `[B, heads, tokens, head_dim]`, of which the last N are read. None only for a method that
            modifies no block.
        default_depth: how many of the last blocks are modified; a tower with fewer has all of its blocks
            modified. 0 leaves the tower as it is.
        residual: whether the new path adds to what it was, or starts afresh, so that only the last block
            counts.
        mlp: whether the new path also takes the block's MLP.
        reference: the publication.
        arguments: the names `mix` asks for, read from its signature.

    Raises:
        ValueError: when the entry contradicts itself; the message names what was given and what is allowed.
    """

    name: str
    mix: Callable[..., Tensor] | None
    default_depth: int
    residual: bool = True
    mlp: bool = False
    reference: str = ""
    arguments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        asked = tuple(inspect.signature(self.mix).parameters) if self.mix else ()
        if unknown := set(asked) - set(ARGUMENTS):
            raise ValueError(
                f"method {self.name!r}: mix asks for {', '.join(sorted(unknown))}; "
                f"it can be given {', '.join(ARGUMENTS)}"
            )
        if (self.mix is None) != (self.default_depth == 0):
            raise ValueError(
                f"method {self.name!r}: a method without mix modifies no block (default_depth 0) and one "
                f"with mix on at least one, but default_depth is {self.default_depth}"
            )
        if self.default_depth < 0 or (not self.residual and self.default_depth > 1):
            raise ValueError(
                f"method {self.name!r}: default_depth is {self.default_depth}, but it must be 0 or more, "
                "and 1 for a method without residual, which keeps nothing of the blocks before the last"
            )
        object.__setattr__(self, "arguments", asked)

    def resolve_depth(self, depth: int | None, blocks: int) -> int:
        """The number of last blocks to modify in a tower of `blocks` blocks.

        Args:
            depth: as asked for; None for the method's own, or all blocks where there are fewer.
            blocks: how many blocks the tower has.

        Raises:
            ValueError: when `depth` is out of the method's range for this tower.
        """
        if depth is None:
            return min(self.default_depth, blocks)
        if self.mix is None:
            raise ValueError(
                f"depth={depth!r} was given, but method {self.name!r} modifies no block: leave depth out"
            )
        deepest = blocks if self.residual else 1
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= deepest:
            reason = "" if self.residual else ", since without residual only the last block counts"
            raise ValueError(
                f"depth={depth!r} is out of range: method {self.name!r} takes an integer from 1 to {deepest} "
                f"on this tower of {blocks} blocks{reason}"
            )
        return depth


_METHODS: dict[str, Method] = {}

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
