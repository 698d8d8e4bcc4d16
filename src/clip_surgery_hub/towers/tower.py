"""What the transform and the reader need to know of a vision tower, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate, normalize

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

    @abstractmethod
    def tokens(self, pixel_values: Tensor, interpolation: Interpolation) -> Tensor:
        """Tokens `[B, 1+N, C]` of pixels `[B, 3, H, W]` in the space shared with the texts, of any length.

        The image-level embedding comes first, then the patches in reading order. Position embeddings are
        resized as told where the patch grid is not the native one.
        """

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

    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Pixels to tokens of unit length, which cosine similarity compares with texts.

        Args:
            pixel_values: normalized pixels `[B, 3, H, W]`, any size that holds a patch.
            interpolation: how position embeddings are resized where the patch grid is not the native one;
                "bilinear" as published with CLIP Surgery, "bicubic" as transformers does. No weight changes.

        Returns:
            `[B, 1+N, C]` with N = rows * columns of `grid(H, W)`, the image-level embedding (CLS) first.

        Raises:
            ValueError: when the image holds no patch, or `interpolation` is neither of the two.
        """
        check_interpolation(interpolation)
        height, width = pixel_values.shape[-2:]
        self.grid(height, width)
        return normalize(self.tokens(pixel_values, interpolation), dim=-1)

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


def check_interpolation(interpolation: str) -> None:
    """Raise ValueError unless position embeddings can be resized so."""
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation={interpolation!r}: it is 'bilinear' or 'bicubic'")


class NewPath:
    """What one modified block is asked, and its answer; lives for one block of one call.

    `prefix` counts the tokens before the patches: 1 for CLS, 0 where there is none. An opaque object, since
    some wrappers copy the containers that go into a block.
    """

    __slots__ = ("cls_only", "grid", "method", "prefix", "update")

    def __init__(self, method: Method, grid: Grid | None, *, cls_only: bool = False, prefix: int = 1) -> None:
        self.method = method
        self.grid = grid
        self.cls_only = cls_only
        self.prefix = prefix
        self.update: Tensor | None = None


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
