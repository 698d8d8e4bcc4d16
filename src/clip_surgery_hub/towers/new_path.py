"""What an operated block is handed besides its tokens, and answers on."""

from torch import Tensor

from clip_surgery_hub.methods import Method

#: Rows and columns of patches.
Grid = tuple[int, int]


class NewPath:
    """What one operated block is asked, and its answer; lives for one block of one call.

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
