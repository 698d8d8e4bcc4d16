"""Two paths through the last blocks of a CLIP encoder of transformers.

The original path runs as transformers wrote it. The new path of the patch tokens is accumulated beside it:
the encoder hands each modified block a `NewPath`, which travels as a keyword argument through the block into
its attention, where the queries, keys and values are; the attention leaves the update of the patch tokens
in it. So blocks are called as the modules they are (with their hooks and their gradient checkpointing),
nothing is kept on a module between calls, and threads do not meet.

The last block's original path is needed for CLS only. Where nobody looks into that block, its query, output
projection and MLP are computed for CLS alone.
"""

from collections.abc import Callable, Sequence
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

if TYPE_CHECKING:  # the mixins below stand before these, see `class_swap.make_surgery_class`

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
        eager_attention_forward: Callable[..., Any]

    class Encoder(nn.Module):
        """What the encoder classes of transformers' CLIPs have in common."""

        config: Any
        layers: nn.ModuleList
else:
    ClipAttention = Encoder = nn.Module


class AttentionWithSurgery(ClipAttention):
    """Goes before an attention class of transformers and computes the new path's update when asked to."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        new_path: NewPath | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of the original path; the update of the new path goes into `new_path`.

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
        output, weights, (new_path.update,) = attend_with_updates(
            self,
            (new_path.method,),
            new_path.grid,
            hidden_states,
            attention_mask,
            prefix=new_path.prefix,
            cls_only=new_path.cls_only,
            eager=self.eager_attention_forward,
            **kwargs,
        )
        return output, weights


class EncoderWithSurgery(Encoder):
    """Goes before an encoder class of transformers; its attribute `surgery` tells what it is under."""

    surgery: Surgery

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
            new_path = NewPath(method, patch_grid, cls_only=cls_only)
            original, update = on_both_paths(block, original, attention_mask, new_path, **kwargs)
            patches = moved_on(block, method, patches, update)
        return BaseModelOutput(last_hidden_state=cat([original[:, :1], patches], dim=1))


def on_both_paths(
    block: Any, original: Tensor, attention_mask: Tensor | None, new_path: NewPath, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """A block's output on the original path, and what it adds to the patch tokens on the new one."""
    if block.training and block.gradient_checkpointing:
        # A tensor that leaves a checkpointed block by the side door could lose its gradient.
        from_input = partial(
            update_from_input,
            block.self_attn,
            new_path.method,
            new_path.grid,
            block.layer_norm1,
            prefix=new_path.prefix,
        )
        update = block._gradient_checkpointing_func(from_input, original)
        return block(original, attention_mask, **kwargs), update
    run = partial(run_for_cls, block) if new_path.cls_only else block
    output = run(original, attention_mask, new_path=new_path, **kwargs)
    return output, cast(Tensor, new_path.update)


def moved_on(block: Any, method: Method, patches: Tensor, update: Tensor) -> Tensor:
    """The patch tokens of the new path behind a block, `[B, N, width]`, from those before it."""
    patches = patches + update if method.residual else update
    return patches + block.mlp(block.layer_norm2(patches)) if method.mlp else patches


def split_heads(attention: ClipAttention, projected: Tensor) -> Tensor:
    """`[B, tokens, width]` to `[B, heads, tokens, head_dim]`."""
    batch, tokens, _ = projected.shape
    return projected.view(batch, tokens, -1, attention.head_dim).transpose(1, 2)


def attend_with_updates(
    attention: ClipAttention,
    methods: Sequence[Method],
    grid: Grid | None,
    normed: Tensor,
    attention_mask: Tensor | None = None,
    *,
    prefix: int = 1,
    cls_only: bool = False,
    eager: Callable[..., Any],
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Attention of the original path, and what the block adds to the patches on the new path by each method.

    Args:
        attention: the block's attention.
        methods: whose queries, keys and values are those of the original path.
        grid: the patch grid, where a method asks for it.
        normed: LN1 of the block's input on the original path, `[B, 1+N, width]`.
        attention_mask: as the plain class takes it; None in every CLIP tower.
        prefix: how many tokens are before the patches.
        cls_only: whether the original path is asked for CLS alone.
        eager: the attention where no other implementation was chosen.
        kwargs: passed on to the attention implementation.

    Returns:
        Attention output `[B, 1+N, width]`, or `[B, 1, width]` for CLS alone; the attention weights where the
        implementation gives them; an update `[B, N, width]` for each method.
    """
    short_query = cls_only and not any("query" in method.arguments for method in methods)
    query = split_heads(attention, attention.q_proj(normed[:, :1] if short_query else normed))
    key = split_heads(attention, attention.k_proj(normed))
    value = split_heads(attention, attention.v_proj(normed))
    heads = {"query": query, "key": key, "value": value}
    # Before the original path, so that a hook on out_proj that keeps the last value keeps the original's.
    updates = [patch_update(attention, method, grid, normed, heads, prefix=prefix) for method in methods]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)
    output, weights = attend(
        attention,
        query[:, :, :1] if cls_only else query,
        key,
        value,
        attention_mask,
        scaling=attention.scale,
        dropout=attention.dropout if attention.training else 0.0,
        **kwargs,
    )
    return attention.out_proj(output.flatten(2)), weights, updates


def patch_update(
    attention: ClipAttention,
    method: Method,
    grid: Grid | None,
    normed: Tensor,
    heads: dict[str, Tensor],
    *,
    prefix: int = 1,
) -> Tensor:
    """What a block adds to the patch tokens on the new path, `W_o mix(q, k, v) + b_o`, `[B, N, width]`.

    Args:
        attention: the block's attention.
        method: the method in use.
        grid: the patch grid, where the method asks for it.
        normed: LN1 of the block's input on the original path, `[B, 1+N, width]`.
        heads: query, key and value `[B, heads, 1+N, head_dim]`, at least those the method asks for.
        prefix: how many tokens are before the patches.
    """
    offered = {**heads, "normed": normed, "scale": attention.scale, "grid": grid}
    assert method.mix is not None  # a method without mix modifies no block
    mixed = method.mix(**{name: offered[name] for name in method.arguments})
    update: Tensor = attention.out_proj(mixed[:, :, prefix:].transpose(1, 2).flatten(2))
    return update


def update_from_input(
    attention: ClipAttention,
    method: Method,
    grid: Grid | None,
    norm: nn.Module,
    block_input: Tensor,
    *,
    prefix: int = 1,
) -> Tensor:
    """`patch_update` from a block's input on the original path alone, for checkpointing, `[B, N, width]`."""
    normed = norm(block_input)
    projections = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}
    heads = {
        name: split_heads(attention, projection(normed))
        for name, projection in projections.items()
        if name in method.arguments
    }
    return patch_update(attention, method, grid, normed, heads, prefix=prefix)


def run_for_cls(
    block: Any, block_input: Tensor, attention_mask: Tensor | None, new_path: NewPath, **kwargs: Any
) -> Tensor:
    """The original path of a block for CLS alone, `[B, 1, width]` from `[B, 1+N, width]`."""
    attended, _ = block.self_attn(
        hidden_states=block.layer_norm1(block_input),
        attention_mask=attention_mask,
        new_path=new_path,
        **kwargs,
    )
    cls = block_input[:, :1] + attended
    tokens: Tensor = cls + block.mlp(block.layer_norm2(cls))
    return tokens


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
