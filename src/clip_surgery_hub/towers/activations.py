"""What the blocks compute on the original path, recorded during a call of the tower.

The hooks are there for as long as the context lasts, whatever happens in it, and hear only the thread that
opened it, so that calls from other threads neither disturb the record nor find their way into it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn

from clip_surgery_hub.methods.mixing import value_value_attention
from clip_surgery_hub.towers.clip_blocks import split_heads
from clip_surgery_hub.towers.families.clip import ClipTower
from clip_surgery_hub.towers.tower import Tower


@dataclass
class BlockActivations:
    """The activations of one call; the lists are by block, first to last.

    Attributes:
        normed: LN1 of each block's input, `[B, 1+N, width]`: what queries, keys and values are made of.
        attended: what each block's attention adds to the tokens, `[B, 1+N, width]`.
        fed: what each block's MLP adds to the tokens, `[B, 1+N, width]`.
        final: the tokens that each call of the last block gave, `[B, 1+N, width]`, before the post-layernorm.
    """

    normed: list[Tensor] = field(default_factory=list)
    attended: list[Tensor] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)
    final: list[Tensor] = field(default_factory=list)


def clip_tower(tower: Tower) -> ClipTower:
    """`tower`, when it is built of CLIP's blocks as transformers writes them.

    Raises:
        TypeError: when it is not.
    """
    if not isinstance(tower, ClipTower):
        raise TypeError(
            f"{tower.name} cannot be looked into: only towers built of CLIP's blocks in transformers can"
        )
    return tower


@contextmanager
def recorded_output(tower: ClipTower) -> Iterator[BlockActivations]:
    """A context in which one call of `tower` is recorded; its record holds `final` of the original path only.

    Raises:
        RuntimeError: on exit, when not exactly one call was recorded.
    """
    record = BlockActivations()
    with ExitStack() as hooks:
        _install_hook(tower.blocks[-1], lambda _kwargs, _args, output: record.final.append(output), hooks)
        yield record
    if len(record.final) != 1:
        raise RuntimeError(
            f"one call of {tower.name} was to be recorded, but its last block told of {len(record.final)}. "
            "A compiled model passes hooks by: look into the model as it was before torch.compile"
        )


@contextmanager
def recorded_blocks(tower: ClipTower) -> Iterator[BlockActivations]:
    """A context in which one call of `tower` is recorded; its record is complete, whatever the method.

    Raises:
        RuntimeError: on exit, when not exactly one call was recorded.
    """
    with recorded_output(tower) as record, ExitStack() as hooks:
        for block in tower.blocks:
            _install_hook(block.get_submodule("self_attn"), _record_attention(record), hooks)
            _install_hook(block.get_submodule("mlp"), _record_mlp(record), hooks)
        yield record


def attention_weights(
    tower: ClipTower, record: BlockActivations, index: int, compared: tuple[str, str], tokens: Tensor
) -> Tensor:
    """How some tokens attend to all tokens in a block: `softmax_m(scale * a_n . b_m)` per head.

    Args:
        tower: that was recorded.
        record: of :func:`recorded_blocks`.
        index: of the block.
        compared: what a and b are, each "query", "key" or "value".
        tokens: numbers of the P attending tokens, 0 for CLS, `[P]` int64.

    Returns:
        `[B, heads, P, 1+N]` float32 on the CPU; each row sums to 1.
    """
    attention: Any = tower.blocks[index].get_submodule("self_attn")
    of, to = (projected_heads(attention, record.normed[index], name).float() for name in compared)
    chosen = of[:, :, tokens.to(of.device)]
    weights: Tensor = (attention.scale * chosen @ to.mT).softmax(-1)
    return weights.cpu()


def value_attended(tower: ClipTower, record: BlockActivations, index: int) -> Tensor:
    """What value-value attention would add to the patches in a block, `W_o softmax(scale VV') V + b_o`.

    Args:
        tower: that was recorded.
        record: of :func:`recorded_blocks`.
        index: of the block.

    Returns:
        `[B, N, width]`, as the new path of the method "clip_surgery" adds it.
    """
    attention: Any = tower.blocks[index].get_submodule("self_attn")
    value = projected_heads(attention, record.normed[index], "value")
    mixed = value_value_attention(value, attention.scale)
    update: Tensor = attention.out_proj(mixed[:, :, 1:].transpose(1, 2).flatten(2))
    return update


def projected_heads(attention: Any, normed: Tensor, name: str) -> Tensor:
    """The "query", "key" or "value" of a block's attention per head, `[B, heads, 1+N, head_dim]`."""
    return split_heads(attention, getattr(attention, f"{name[0]}_proj")(normed))


def direct_contribution(tower: ClipTower, update: Tensor) -> Tensor:
    """What an update of the tokens contributes to their embeddings, up to a positive factor per token.

    The embedding before it is brought to unit length is `P LN(x)`. With the length that LN divides by held
    fixed, that is linear in x, so that the updates of all blocks add up to it: an update u contributes
    `P (gamma * (u - mean(u)))`, gamma being LN's weights and P the projection.

    Args:
        tower: whose post-layernorm and projection are read through.
        update: `[B, N, width]`.

    Returns:
        `[B, N, C]`; the factor is the spread of the update's own channels.
    """

    def read(tokens: Tensor) -> Tensor:
        normed: Tensor = tower.post_norm(tokens)
        return normed if tower.projection is None else cast(Tensor, tower.projection(normed))

    # Whatever is added, such as LN's bias, is what a zero token becomes.
    return read(update) - read(torch.zeros_like(update[:, :1]))


def _record_attention(record: BlockActivations) -> Callable[..., None]:
    def record_call(kwargs: dict[str, Any], args: tuple[Any, ...], output: Any) -> None:
        record.normed.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        record.attended.append(output[0])

    return record_call


def _record_mlp(record: BlockActivations) -> Callable[..., None]:
    def record_call(kwargs: dict[str, Any], args: tuple[Any, ...], output: Tensor) -> None:
        # A method may send the new path through the MLP too, after the block itself has done so.
        if len(record.fed) < len(record.attended):
            record.fed.append(output)

    return record_call


def _install_hook(module: nn.Module, hook: Callable[..., None], hooks: ExitStack) -> None:
    """Call `hook` after each call of `module` from this thread, for as long as `hooks` lasts."""
    thread = get_ident()

    def hook_of_thread(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if get_ident() == thread:
            hook(kwargs, args, output)

    hooks.callback(module.register_forward_hook(hook_of_thread, with_kwargs=True).remove)
