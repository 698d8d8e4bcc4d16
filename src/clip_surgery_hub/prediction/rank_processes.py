"""Which ranks started which: Lightning lets the first of a machine start the others if nobody else does."""

from __future__ import annotations

import os
from dataclasses import dataclass

import lightning
import torch

__all__ = ["RankProcesses"]


@dataclass(frozen=True)
class RankProcesses:
    """What this rank is to the others of its machine.

    Attributes:
        parent: number of the process that started this one if that is a rank too, else None.
        children: how many ranks this one started.
    """

    parent: int | None = None
    children: int = 0

    @classmethod
    def of(cls, trainer: lightning.Trainer) -> RankProcesses:
        """Find out, together with all other ranks."""
        own = torch.tensor(
            [trainer.node_rank, os.getpid(), os.getppid()], device=trainer.strategy.root_device
        )
        ranks = trainer.strategy.all_gather(own).reshape(-1, 3).tolist()
        here = [(process, parent) for node, process, parent in ranks if node == trainer.node_rank]
        return cls(
            parent=os.getppid() if os.getppid() in (process for process, _ in here) else None,
            children=sum(parent == os.getpid() for _, parent in here),
        )

    @property
    def parent_lives(self) -> bool:
        """Whether there is a rank that started this one, and it has not ended."""
        return self.parent is not None and os.getppid() == self.parent
