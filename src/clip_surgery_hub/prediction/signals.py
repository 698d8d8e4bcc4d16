"""Ending early in good order: a signal asks for it, the batch under way is finished and written first.

All ranks have to end. Lightning lets the first of a machine start the others if nobody else does: which
started which decides who tells whom.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import lightning
import torch

__all__ = ["RankProcesses", "RunStopped", "StopRequest"]

RESUME_ME = 75
"""Exit code of a run that was asked to stop, has written everything it did, and wants to be started again."""


class RunStopped(SystemExit):
    """The run was asked to stop and did, with everything recorded; ends the process with `RESUME_ME`."""

    def __init__(self, code: int = RESUME_ME) -> None:
        super().__init__(code)


class StopRequest:
    """Takes SIGTERM and Ctrl+C as wishes, from :meth:`install` to :meth:`restore`.

    A second Ctrl+C ends the process at once, as it does without this.

    Args:
        same: a request that is made when this one is, and the other way round; None: there is no other.
    """

    def __init__(self, same: StopRequest | None = None) -> None:
        self._came: list[int] = [] if same is None else same._came
        self._before: dict[signal.Signals, Any] = {}
        self._pass_on: Callable[[int], object] | None = None

    @property
    def made(self) -> bool:
        """Whether a signal came."""
        return bool(self._came)

    def install(self, pass_on: Callable[[int], object] | None = None) -> None:
        """Take signals from now on; does nothing outside of the main thread, which Python signals alone.

        Args:
            pass_on: called with the number of a SIGTERM, to tell processes that would not get it.
        """
        self._pass_on = pass_on
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Give the signals back; after a request SIGTERM stays taken, for the process is about to end."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            if handler is not None and not (self.made and number is signal.SIGTERM):
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.made:
            raise KeyboardInterrupt
        first = not self.made
        self._came.append(number)
        if first and number == signal.SIGTERM and self._pass_on is not None:
            with suppress(OSError):  # a process that has ended needs no telling
                self._pass_on(number)


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
