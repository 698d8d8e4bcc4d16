"""Two paths through the last blocks of a CLIP encoder of transformers.

The original path runs as transformers wrote it. The new path of the patch tokens is accumulated beside it:
the encoder hands each modified block a `NewPath`, which travels as a keyword argument through the block into
its attention, where the queries, keys and values are; the attention leaves the update of the patch tokens
in it. So blocks are called as the modules they are (with their hooks and their gradient checkpointing),
nothing is kept on a module between calls, and threads do not meet.

The last block's original path is needed for CLS only. Where nobody looks into that block, its query, output
projection and MLP are computed for CLS alone.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, cat, nn
from torch.nn.modules import module as every_module
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from clip_surgery_hub.methods import Method
from clip_surgery_hub.towers.tower import Grid, NewPath, Surgery

#: Hooks of this module record hidden states and attentions, and are left in place once installed.
CAPTURE = "transformers.utils.output_capturing"

if TYPE_CHECKING:  # the mixins below stand before these, see `class_swap`

    class ClipAttention(nn.Module):
        """What the attention classes of transformers' CLIPs have in common."""

        config: Any
        scale: float
        head_dim: int
        dropout: float
        q_proj: nn.Module
        k_proj: nn.Module
        v_proj: nn.Module
        out_proj: nn.Module

    class Encoder(nn.Module):
        """What the encoder classes of transformers' CLIPs have in common."""

        config: Any
        layers: nn.ModuleList
else:
    ClipAttention = Encoder = nn.Module


class AttentionWithSurgery(ClipAttention):
    """Goes before an attention class of transformers and computes the new path's updates when asked to."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        new_path: NewPath | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of the original path; the updates of the new path go into `new_path`.

        What a block adds to the patch tokens on the new path is `W_o mix(q, k, v) + b_o`.

        Args:
            hidden_states: LN1 of the block's input on the original path, `[B, 1+N, width]`.
            attention_mask: as the plain class takes it; None in every CLIP tower.
            new_path: what is asked of this block; None for the plain attention.
            kwargs: passed on to the attention implementation.

        Returns:
            Attention output `[B, 1+N, width]`, or `[B, 1, width]` for CLS alone, and the attention weights
            where the implementation gives them.
        """
        if new_path is None:
            return cast(
                tuple[Tensor, Tensor | None], super().forward(hidden_states, attention_mask, **kwargs)
            )
        asks_for_query = any("query" in method.arguments for method in new_path.methods)
        asking = hidden_states[:, :1] if new_path.cls_only and not asks_for_query else hidden_states
        query = split_heads(self, self.q_proj(asking))
        key = split_heads(self, self.k_proj(hidden_states))
        value = split_heads(self, self.v_proj(hidden_states))
        offered: dict[str, Any] = {"query": query, "key": key, "value": value}
        offered |= {"normed": hidden_states, "scale": self.scale, "grid": new_path.grid}
        # Before the original path, so that a hook on out_proj that keeps the last value keeps the original's.
        new_path.updates = [
            self.out_proj(
                method.mix(**{name: offered[name] for name in method.arguments})[:, :, new_path.prefix :]  # type: ignore[misc]
                .transpose(1, 2)
                .flatten(2)
            )
            for method in new_path.methods
        ]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, new_path.eager)
        output, weights = attend(
            self,
            query[:, :, :1] if new_path.cls_only else query,
            key,
            value,
            attention_mask,
            scaling=self.scale,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(output.flatten(2)), weights


class EncoderWithSurgery(Encoder):
    """Goes before an encoder class of transformers; its attribute `surgery` tells what it is under."""

    surgery: Surgery
    eager_attention_forward: Callable[..., Any]

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        patch_grid: Grid | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run all blocks on the original path and the last `surgery.depth` on the new path too.

        Args:
            inputs_embeds: tokens before the first block, `[B, 1+N, width]`, CLS first.
            attention_mask: as the plain class takes it.
            patch_grid: the patch grid (rows, columns), for methods that ask for it.
            kwargs: passed on to the blocks.

        Returns:
            `last_hidden_state` `[B, 1+N, width]`: CLS of the original path, patches of the new one.
        """
        method, depth = self.surgery.method, self.surgery.depth
        if depth == 0:
            return cast(BaseModelOutput, super().forward(inputs_embeds, attention_mask, **kwargs))
        blocks: list[Any] = list(self.layers)
        original = inputs_embeds
        for block in blocks[:-depth]:
            original = block(original, attention_mask, **kwargs)
        patches = original[:, 1:]
        for block in blocks[-depth:]:
            cls_only = (
                block is blocks[-1]
                and attention_mask is None
                and not asks_for_outputs(self.config, kwargs)
                and not is_watched(block)
            )
            new_path = NewPath((method,), patch_grid, cls_only=cls_only, eager=self.eager_attention_forward)
            original = run_block(block, original, attention_mask, new_path, **kwargs)
            patches = next_patches(block, method, patches, new_path.updates[0])
        return BaseModelOutput(last_hidden_state=cat([original[:, :1], patches], dim=1))


def run_block(
    block: Any, original: Tensor, attention_mask: Tensor | None, new_path: NewPath, **kwargs: Any
) -> Tensor:
    """A block on the original path; what it adds to the patch tokens on the new one goes into `new_path`.

    Args:
        block: a block of transformers' CLIPs whose attention is an `AttentionWithSurgery`.
        original: tokens of the original path, `[B, 1+N, width]`.
        attention_mask: as the block takes it.
        new_path: what is asked of the block.
        kwargs: passed on to the block.

    Returns:
        Tokens of the original path, `[B, 1+N, width]`, or `[B, 1, width]` for CLS alone.
    """
    output: Tensor
    if block.training and block.gradient_checkpointing:
        # A tensor that leaves a checkpointed block by the side door could lose its gradient.
        new_path.updates = [
            block._gradient_checkpointing_func(
                partial(update_from_input, block, method, new_path.grid, new_path.prefix), original
            )
            for method in new_path.methods
        ]
        output = block(original, attention_mask, **kwargs)
    elif new_path.cls_only:
        attended, _ = block.self_attn(
            hidden_states=block.layer_norm1(original),
            attention_mask=attention_mask,
            new_path=new_path,
            **kwargs,
        )
        cls = original[:, :1] + attended
        output = cls + block.mlp(block.layer_norm2(cls))
    else:
        output = block(original, attention_mask, new_path=new_path, **kwargs)
    return output


def next_patches(block: Any, method: Method, patches: Tensor, update: Tensor) -> Tensor:
    """The patch tokens of the new path behind a block, `[B, N, width]`, from those before it."""
    patches = patches + update if method.residual else update
    return patches + block.mlp(block.layer_norm2(patches)) if method.mlp else patches


def split_heads(attention: ClipAttention, projected: Tensor) -> Tensor:
    """`[B, tokens, width]` to `[B, heads, tokens, head_dim]`."""
    batch, tokens, _ = projected.shape
    return projected.view(batch, tokens, -1, attention.head_dim).transpose(1, 2)


def update_from_input(
    block: Any, method: Method, grid: Grid | None, prefix: int, block_input: Tensor
) -> Tensor:
    """What a block adds to the patch tokens, from its input on the original path alone, `[B, N, width]`.

    The same as `AttentionWithSurgery` computes, for where a block is checkpointed or runs as it is.
    """
    attention, normed = block.self_attn, block.layer_norm1(block_input)
    projections = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}
    offered = {"normed": normed, "scale": attention.scale, "grid": grid} | {
        name: split_heads(attention, projection(normed))
        for name, projection in projections.items()
        if name in method.arguments
    }
    assert method.mix is not None  # a method without mix modifies no block
    mixed = method.mix(**{name: offered[name] for name in method.arguments})
    update: Tensor = attention.out_proj(mixed[:, :, prefix:].transpose(1, 2).flatten(2))
    return update


def asks_for_outputs(config: Any, kwargs: dict[str, Any]) -> bool:
    """Whether hidden states or attentions of this call are recorded, by argument or by configuration."""
    return any(
        kwargs.get(name, getattr(config, name, False))
        for name in ("output_hidden_states", "output_attentions")
    )


def is_watched(block: Any) -> bool:
    """Whether someone could tell a block that runs for CLS alone from one that runs in full.

    That is so when anything in it has a hook, except those of transformers that record outputs only when
    asked to; when its forward was replaced; and when attention dropout draws random numbers.
    """
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    if any(getattr(every_module, f"_global_{kind}_hooks") for kind in kinds):
        return True
    if block.training and block.self_attn.dropout > 0:
        return True
    for module in block.modules():
        if "forward" in module.__dict__ or module._forward_pre_hooks:
            return True
        if module._backward_hooks or module._backward_pre_hooks:
            return True
        if any(getattr(hook, "__module__", None) != CAPTURE for hook in module._forward_hooks.values()):
            return True
    return False


def add_patch_grid(vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A forward pre-hook on a vision tower that tells its encoder the patch grid of the pixels."""
    pixel_values = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
    height, width = pixel_values.shape[-2:]
    patch = vision.config.patch_size
    return args, {**kwargs, "patch_grid": (height // patch, width // patch)}
