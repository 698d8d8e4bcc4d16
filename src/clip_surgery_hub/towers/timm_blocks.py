"""Two paths through the last blocks of a vision transformer of timm.

The original path runs as timm wrote it. The new path of the patch tokens is accumulated beside it: each
modified block is handed a `NewPath`, in which it leaves what it adds to the patch tokens by the method in
use. So blocks are called as the modules they are (with their hooks and their gradient checkpointing), nothing
is kept on a module between calls, and threads do not meet.

timm runs its blocks in `forward_features` of the model itself, so the model changes its class, and so do the
modified blocks and their attentions. What a family does in its own way is left to its subclasses of the three
classes here. On the new path nothing is dropped at random, except inside an MLP where a method takes one.
"""

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from clip_surgery_hub.towers.tower import Grid, NewPath, Surgery

if TYPE_CHECKING:  # the mixins below stand before these, see `class_swap`

    class TimmAttention(nn.Module):
        """What the attention classes of timm's vision transformers have in common."""

        num_heads: int
        scale: float
        fused_attn: bool
        attn_drop: nn.Dropout
        norm: nn.Module
        proj: nn.Module
        proj_drop: nn.Module

    class Block(nn.Module):
        """What the block classes of timm's vision transformers have in common."""

        norm1: nn.Module
        attn: nn.Module
        drop_path1: nn.Module
        norm2: nn.Module
        mlp: nn.Module
        drop_path2: nn.Module

    class Model(nn.Module):
        """What timm's vision transformers have in common."""

        patch_embed: Any
        blocks: Any
        norm: nn.Module
        num_prefix_tokens: int
        grad_checkpointing: bool

        def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            """Normed tokens of pixels."""
            raise NotImplementedError
else:
    TimmAttention = Block = Model = nn.Module


class AttentionOnTwoPaths(TimmAttention):
    """Goes before an attention class of timm and mixes the tokens for the new path when asked to."""

    def heads(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `[B, heads, tokens, head_dim]`, as the original path compares and mixes them.

        Args:
            args: what the attention reads, `[B, tokens, width]`, and what it is called with besides.
            kwargs: what it is called with besides.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, new_path: NewPath | None = None, **kwargs: Any) -> Tensor:
        """Attention of the original path, `[B, tokens, width]`; that of the new path goes into `new_path`.

        Args:
            x: what the attention reads, `[B, tokens, width]`.
            args: as the plain class takes them.
            new_path: what is asked of this block; None for the plain attention.
            kwargs: as the plain class takes them.
        """
        if new_path is None:
            return cast(Tensor, super().forward(x, *args, **kwargs))
        query, key, value = self.heads(x, *args, **kwargs)
        offered = {"query": query, "key": key, "value": value, "normed": x, "scale": self.scale}
        offered |= {"grid": new_path.grid}
        # Before the original path, so that a hook on proj that keeps the last value keeps the original's.
        new_path.updates = [
            self.projected(
                x[:, new_path.prefix :],
                method.mix(**{name: offered[name] for name in method.arguments})[:, :, new_path.prefix :],  # type: ignore[misc]
            )
            for method in new_path.methods
        ]
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            original = scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        else:
            original = self.attn_drop((query * self.scale @ key.mT).softmax(dim=-1)) @ value
        return cast(Tensor, self.proj_drop(self.projected(x, original)))

    def projected(self, normed: Tensor, mixed: Tensor) -> Tensor:
        """`W_o mixed + b_o`, `[B, tokens, width]`, with the norm and the gate before it where there are any.

        Args:
            normed: what the attention reads, of the same tokens, `[B, tokens, width]`.
            mixed: mixed values, `[B, heads, tokens, head_dim]`.
        """
        tokens: Tensor = self.norm(mixed.transpose(1, 2).flatten(2))
        gate = getattr(self, "gate", None)  # the oldest timm allowed has none
        if gate is not None:
            tokens = tokens * gate(normed).sigmoid()
        return cast(Tensor, self.proj(tokens))


class BlockOnTwoPaths(Block):
    """Goes before a block class of timm and leaves its update of the patch tokens when asked to."""

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention reads of the tokens `x`, `[B, tokens, width]`."""
        raise NotImplementedError

    def attention_branch(self, attended: Tensor) -> Tensor:
        """What is added to the tokens for what the attention gives, `[B, tokens, width]`."""
        raise NotImplementedError

    def mlp_branch(self, x: Tensor) -> Tensor:
        """What the MLP adds to the tokens `x`, `[B, tokens, width]`."""
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, new_path: NewPath | None = None, **kwargs: Any) -> Tensor:
        """The block on the original path, `[B, tokens, width]`; its update goes into `new_path`.

        Args:
            x: tokens of the original path, `[B, tokens, width]`.
            args: as the plain class takes them.
            new_path: what is asked of this block; None for the plain block.
            kwargs: as the plain class takes them.
        """
        if new_path is None:
            return cast(Tensor, super().forward(x, *args, **kwargs))
        attended = self.attn(self.attention_input(x), *args, new_path=new_path, **kwargs)
        new_path.updates = [self.attention_branch(update) for update in new_path.updates]
        x = x + self.drop_path1(self.attention_branch(attended))
        tokens: Tensor = x + self.drop_path2(self.mlp_branch(x))
        return tokens


class ModelOnTwoPaths(Model):
    """Goes before a vision transformer of timm; its attribute `surgery` tells what it is under."""

    surgery: Surgery

    def before_blocks(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Tokens before the first block, `[B, tokens, width]`, and what else the blocks are called with."""
        raise NotImplementedError

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Normed tokens `[B, tokens, width]` of pixels: what is before the patches as ever, and new patches.

        Args:
            x: pixels `[B, 3, H, W]`, of a size that the plain model takes.
            args: as the plain class takes them.
            kwargs: as the plain class takes them.

        Raises:
            ValueError: for an attention mask, of which the new path would know nothing.
        """
        if self.surgery.depth == 0:
            return super().forward_features(x, *args, **kwargs)
        if any(given is not None and given is not False for given in (*args, *kwargs.values())):
            raise ValueError(
                f"{type(self).__name__} takes no attention mask and is not causal: call remove_surgery first"
            )
        grid = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        tokens, extras = self.before_blocks(x)
        tokens = through_blocks(self, tokens, grid, self.surgery, extras)
        return cast(Tensor, self.norm(tokens))


def through_blocks(
    vision: Any, tokens: Tensor, grid: Grid, surgery: Surgery | None, extras: dict[str, Any]
) -> Tensor:
    """Run all blocks on the original path and the last `surgery.depth` on the new path, too.

    Args:
        vision: the vision transformer of timm whose blocks they are.
        tokens: before the first block, `[B, tokens, width]`, the patches last.
        grid: the patch grid (rows, columns).
        surgery: what `vision` is under, or None.
        extras: what the blocks are called with besides their tokens.

    Returns:
        `[B, tokens, width]` before the last norm: what is before the patches from the original path, patches
        of the new one.

    Raises:
        ValueError: when the method asks for the grid, but patches were dropped.
    """
    prefix: int = vision.num_prefix_tokens
    blocks = list(vision.blocks)
    depth = 0 if surgery is None else surgery.depth

    def run(block: nn.Module, x: Tensor, **asked: Any) -> Tensor:
        if vision.grad_checkpointing:
            # Not reentrant: what leaves such a checkpoint by the side door keeps its gradient.
            return cast(Tensor, checkpoint(block, x, use_reentrant=False, **extras, **asked))
        return cast(Tensor, block(x, **extras, **asked))

    original = tokens
    for block in blocks[: len(blocks) - depth]:
        original = run(block, original)
    if surgery is None or depth == 0:
        return original
    method = surgery.method
    patches = original[:, prefix:]
    if "grid" in method.arguments and patches.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"method {method.name!r} needs the whole patch grid of {grid[0]} x {grid[1]}, but "
            f"{patches.shape[1]} patches are left: patch_drop_rate drops some in training, so build the "
            "model without it, or call eval()"
        )
    for block in blocks[-depth:]:
        new_path = NewPath((method,), grid, prefix=prefix)
        original = run(block, original, new_path=new_path)
        (update,) = new_path.updates
        patches = patches + update if method.residual else update
        if method.mlp:
            patches = patches + block.mlp_branch(patches)
    return cat([original[:, :prefix], patches], dim=1)
