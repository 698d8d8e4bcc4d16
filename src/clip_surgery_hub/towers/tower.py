"""What the transform and the reader need to know of a vision tower, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate

from clip_surgery_hub.functional.scale import at_least_float32, unit_length
from clip_surgery_hub.methods import Method

Interpolation = Literal["bilinear", "bicubic"]
Grid = tuple[int, int]
"""Rows and columns of patches."""


@dataclass(frozen=True)
class Surgery:
    """What is done to a tower, kept on its encoder as long as it is under surgery."""

    method: Method
    depth: int


@dataclass(frozen=True, eq=False)
class Tower(ABC):
    """A vision tower inside a model: where its parts are, and how its tokens are read.

    Attributes:
        name: the class of the tower, as its library calls it.
        vision: the module that turns pixels into tokens.
        encoder: the module inside `vision` that runs the blocks.
        blocks: the blocks, first to last.
        patch_size: side of a patch, in pixels.
        native_size: side of the images the tower was trained on, in pixels.
    """

    name: str
    vision: nn.Module
    encoder: nn.Module
    blocks: nn.ModuleList
    patch_size: int
    native_size: int

    @property
    def surgery(self) -> Surgery | None:
        """What the tower is under, or None."""
        surgery: Surgery | None = vars(self.encoder).get("surgery")
        return surgery

    @abstractmethod
    def apply(self, surgery: Surgery, rollback: ExitStack) -> None:
        """Put the tower under `surgery`; the undoing of each change is on `rollback` before it is made."""

    @abstractmethod
    def restore(self) -> None:
        """Take every change of `apply` back."""

    @property
    @abstractmethod
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The patch grid (rows, columns) of an image of `height` x `width` pixels; a rest is cut off.

        Raises:
            ValueError: when the image holds no whole patch.
        """
        if height < self.patch_size or width < self.patch_size:
            raise ValueError(
                f"an image of {height} x {width} pixels (height x width) holds no patch: both sides need at "
                f"least {self.patch_size} pixels"
            )
        return height // self.patch_size, width // self.patch_size

    @abstractmethod
    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Pixels to tokens of unit length, which cosine similarity compares with texts.

        Args:
            pixel_values: normalized pixels `[B, 3, H, W]`, any size that holds a patch; moved to the device
                and dtype of the tower.
            interpolation: how position embeddings are resized where the patch grid is not the native one;
                "bilinear" as published with CLIP Surgery, "bicubic" as transformers does. No weight changes.

        Returns:
            `[B, 1+N, C]`, float32 at least, in the space shared with the texts, with N = rows * columns of
            `grid(H, W)`: the image-level embedding (CLS) first, then the patches in reading order.

        Raises:
            ValueError: when the image holds no patch, or `interpolation` is neither of the two.
        """

    def prepared(self, pixel_values: Tensor, interpolation: Interpolation) -> tuple[Tensor, Grid]:
        """Pixels on the device and in the dtype of the tower, and their patch grid (rows, columns).

        Raises:
            ValueError: as `encode`.
        """
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={interpolation!r}: it is 'bilinear' or 'bicubic'")
        grid = self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        weight = next(self.vision.parameters())
        return pixel_values.to(weight.device, weight.dtype), grid

    def encode_all(
        self,
        pixel_values: Tensor,
        surgeries: Sequence[Surgery],
        *,
        interpolation: Interpolation = "bilinear",
    ) -> list[Tensor]:
        """The tokens of the same pixels under each surgery, whatever surgery the tower is under.

        Families whose new paths can be computed from one pass of the original path do so; the others go
        through the tower once per surgery. The tower is left under the surgery that it was under.

        Args:
            pixel_values: as `encode` takes them.
            surgeries: methods and depths, in any number and order.
            interpolation: as `encode` takes it.

        Returns:
            `[B, 1+N, C]` per surgery.

        Raises:
            ValueError: as `encode`.
        """
        found = []
        with self._without_surgery():
            for surgery in surgeries:
                with ExitStack() as rollback:  # takes the surgery back at its end
                    self.apply(surgery, rollback)
                    found.append(self.encode(pixel_values, interpolation=interpolation))
        return found

    @contextmanager
    def _without_surgery(self) -> Iterator[None]:
        """A context in which the tower is plain; its surgery comes back on exit."""
        before = self.surgery
        if before is None:
            yield
            return
        self.restore()
        try:
            yield
        finally:
            with ExitStack() as rollback:
                self.apply(before, rollback)
                rollback.pop_all()


class NewPath:
    """What a modified block is asked for besides its output: the updates of the patch tokens by some methods.

    It lives for one block of one call, and is an opaque object, since some wrappers copy the containers that
    go into a block.

    Attributes:
        methods: the methods in use.
        grid: the patch grid, for methods that ask for it.
        prefix: how many tokens are before the patches: 1 for CLS, 0 where there is none.
        cls_only: whether the original path is asked for CLS alone.
        eager: the attention of a block of transformers where no other implementation was chosen.
        updates: what the block adds to the patch tokens, `[B, N, width]` per method; filled by the block.
    """

    __slots__ = ("cls_only", "eager", "grid", "methods", "prefix", "updates")

    def __init__(
        self,
        methods: Sequence[Method],
        grid: Grid | None,
        *,
        prefix: int = 1,
        cls_only: bool = False,
        eager: Callable[..., Any] | None = None,
    ) -> None:
        self.methods = methods
        self.grid = grid
        self.prefix = prefix
        self.cls_only = cls_only
        self.eager: Any = eager
        self.updates: list[Tensor] = []


def unit_tokens(tokens: Tensor) -> Tensor:
    """Tokens `[B, N, C]` of any length at unit length, in float32 at least."""
    return unit_length(tokens.to(at_least_float32(tokens)))


def resized_positions(
    positions: Tensor, native: Grid, grid: Grid, interpolation: Interpolation, *, prefix: int
) -> Tensor:
    """Position embeddings of timm resized from the grid `native` to `grid`; the weight stays as it is.

    Args:
        positions: `[prefix + rows * columns, width]` of the grid `native`.
        native: the grid (rows, columns) they were trained on.
        grid: the grid (rows, columns) they are wanted on.
        interpolation: "bicubic" as timm resizes them, with antialiasing where the grid shrinks; "bilinear"
            as published with CLIP Surgery, without.
        prefix: how many of them belong to tokens before the patches, and stay.

    Returns:
        `[prefix + rows * columns, width]` of the grid `grid`; `positions` itself where it is the native one.
    """
    if grid == native:
        return positions
    on_grid = positions[prefix:].T.unflatten(1, native)[None].float()
    resized = interpolate(
        on_grid, size=grid, mode=interpolation, align_corners=False, antialias=interpolation == "bicubic"
    )
    return cat([positions[:prefix], resized[0].flatten(1).T.to(positions.dtype)])
