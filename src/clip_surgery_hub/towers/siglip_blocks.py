"""Two paths through the last blocks of a SigLIP encoder of transformers.

The pooling head behind the encoder reads all patches of the original path, so the encoder under surgery
returns that path, in full, and nothing on the way to the image embedding changes. The new path, which runs
beside it as in `clip_blocks`, is laid into a `NewTokens` that came with the call; a hook on the vision tower
puts its patches into the output.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from clip_surgery_hub.towers.clip_blocks import next_patches, run_block
from clip_surgery_hub.towers.tower import Grid, NewPath, Surgery

if TYPE_CHECKING:  # the mixin below stands before this, see `class_swap`
    from clip_surgery_hub.towers.clip_blocks import Encoder
else:
    Encoder = nn.Module


class NewTokens:
    """Where a modified encoder leaves the patches of the new path; lives for one call.

    `patches` is `[B, N, width]` before the post-layernorm, or None as long as no modified encoder has run.
    """

    __slots__ = ("grid", "patches")

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.patches: Tensor | None = None


class SiglipEncoderWithSurgery(Encoder):
    """Goes before the encoder class of transformers; its attribute `surgery` tells what it is under."""

    surgery: Surgery
    eager_attention_forward: Callable[..., Any]

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        new_tokens: NewTokens | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run all blocks on the original path and the last `surgery.depth` on the new path too.

        Args:
            inputs_embeds: patch tokens before the first block, `[B, N, width]`.
            attention_mask: as the plain class takes it.
            new_tokens: takes the patches of the new path; None where nobody reads them.
            kwargs: passed on to the blocks.

        Returns:
            `last_hidden_state` `[B, N, width]` of the original path.
        """
        method, depth = self.surgery.method, self.surgery.depth
        if depth == 0 or new_tokens is None:
            return cast(BaseModelOutput, super().forward(inputs_embeds, attention_mask, **kwargs))
        blocks: list[Any] = list(self.layers)
        original = inputs_embeds
        for block in blocks[:-depth]:
            original = block(original, attention_mask, **kwargs)
        patches = original
        for block in blocks[-depth:]:
            new_path = NewPath((method,), new_tokens.grid, prefix=0, eager=self.eager_attention_forward)
            original = run_block(block, original, attention_mask, new_path, **kwargs)
            patches = next_patches(block, method, patches, new_path.updates[0])
        new_tokens.patches = patches
        return BaseModelOutput(last_hidden_state=original)


def ask_for_new_tokens(
    vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A forward pre-hook on a vision tower: its encoder is to lay the new path into a `NewTokens`."""
    pixel_values = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
    height, width = pixel_values.shape[-2:]
    patch = vision.config.patch_size
    return args, {**kwargs, "new_tokens": NewTokens((height // patch, width // patch))}


def give_new_tokens(vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """A forward hook on a vision tower: `last_hidden_state` becomes the new path's, post-normed as it was."""
    new_tokens = kwargs.get("new_tokens")
    if new_tokens is None or new_tokens.patches is None:  # a call that began before surgery
        return output
    normed = vision.post_layernorm(new_tokens.patches)
    if isinstance(output, tuple):
        return (normed, *output[1:])
    output.last_hidden_state = normed
    return output
