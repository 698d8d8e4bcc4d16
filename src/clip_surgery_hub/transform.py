"""The transform: surgery on a model in place, and its exact undoing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from clip_surgery_hub.methods import get_method
from clip_surgery_hub.towers import Surgery, find_tower

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class SurgeryState:
    """What a model is under: the method's name and how many of its last blocks are modified."""

    method: str
    depth: int


def apply_surgery(model: Model, method: str = "clip_surgery", depth: int | None = None) -> Model:
    """Let the vision tower of `model` give patch tokens that can be read, in place.

    Afterwards `last_hidden_state` of the tower `[B, 1+N, width]` holds CLS of the original path and the
    patches of the new path (see `methods`), both before the post-layernorm; `find_tower(model).embed` maps
    them into the space of the texts. Image embeddings, logits, and `hidden_states` and `attentions` where
    asked for are those of the plain model. A SigLIP has no CLS: there `last_hidden_state` holds the patches
    alone, post-normed. In timm `forward_features` gives CLS and patches, normed; CLIP's ResNets are read with
    `find_tower(model).encode` only. Weights, state dict keys and parameters stay the same objects:
    only the classes of the encoder and of the modified attention modules change. The output projection of
    a modified block runs once per path, so forward hooks on it fire twice, the original path's last.

    Args:
        model: a CLIP or SigLIP of transformers, its vision model, a tower of timm, or any of them inside a
            wrapper; see `find_tower`.
        method: a name out of `METHODS`.
        depth: how many of the last blocks are modified, 1 to all; None for the method's own.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` has no vision tower that is supported.
        ValueError: unknown method, or `depth` out of range.
        RuntimeError: `model` is under surgery already.
    """
    tower = find_tower(model)
    if tower.surgery is not None:
        raise RuntimeError(
            f"{type(model).__name__} is under surgery already ({_state(tower.surgery)}): "
            "call remove_surgery(model) first"
        )
    chosen = get_method(method)
    surgery = Surgery(chosen, chosen.resolve_depth(depth, len(tower.blocks)))
    with ExitStack() as rollback:
        tower.apply(surgery, rollback)
        rollback.pop_all()
    return model


def remove_surgery(model: Model) -> Model:
    """Take surgery back: `model` is bit for bit what it was before `apply_surgery`.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` has no vision tower that is supported.
        RuntimeError: `model` is not under surgery.
    """
    tower = find_tower(model)
    if tower.surgery is None:
        raise RuntimeError(f"{type(model).__name__} is not under surgery: there is nothing to remove")
    tower.restore()
    return model


@contextmanager
def surgery(model: Model, method: str = "clip_surgery", depth: int | None = None) -> Iterator[Model]:
    """A context with surgery applied, taken back on exit, also when the body raises.

    `with surgery(model): ...` gives `model` itself.

    It takes what `apply_surgery` takes and raises what that raises. Where the body has removed the surgery
    itself, nothing is done on exit.
    """
    apply_surgery(model, method, depth)
    try:
        yield model
    finally:
        if surgery_state(model) is not None:
            remove_surgery(model)


def surgery_state(model: nn.Module) -> SurgeryState | None:
    """The method and depth that `model` is under, or None.

    Raises:
        TypeError: `model` has no vision tower that is supported.
    """
    surgery = find_tower(model).surgery
    return None if surgery is None else _state(surgery)


def _state(surgery: Surgery) -> SurgeryState:
    return SurgeryState(surgery.method.name, surgery.depth)
