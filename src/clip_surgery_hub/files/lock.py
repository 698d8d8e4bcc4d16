"""One run at a time in a folder: locks of the operating system, which end with the process that holds them.

Rank 0 holds ``lock`` alone while it lives; every rank holds ``ranks.lock`` together with the others, so that
the next start can wait for ranks that outlived a killed rank 0.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK = "lock"
RANKS_LOCK = "ranks.lock"
_POLL = 0.05
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class RunError(OSError):
    """The folder of a run cannot be used, written or read; the message is one line that says what to do."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run.

    Attributes:
        pid: number of the process of rank 0.
        host: name of its machine.
        since: when it took the lock, ISO 8601 in UTC.
        session: name of the start.
    """

    pid: int
    host: str
    since: str
    session: str

    def is_known_to_live(self) -> bool:
        """Whether the process is on this machine and runs."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return True


class FolderLock:
    """A lock file that is open and may be locked; a child made by fork does not hold it on."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self._path = path
        self._handle: int | None = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        _open_locks.add(self)

    def take(self, *, shared: bool) -> bool:
        """Try to lock, without waiting; whether it is locked now.

        Raises:
            RunError: on a file system that has no such locks.
        """
        import fcntl

        assert self._handle is not None
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise RunError(
                f"{self._path.parent} lies on a file system without file locks ({error}), which keep two "
                "runs apart. Choose another --out, or mount it with flock."
            ) from error
        return True

    def write(self, text: str) -> None:
        """Replace what the file says; once it is closed, as in a child made by fork, this does nothing."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)

    def close(self) -> None:
        """Let the lock go; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


_open_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_open_locks):
        lock.close()


# A lock lives as long as any process that has the file open: workers that outlive a killed run would hold it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def hold_run(run: Path, session: str, *, wait: float) -> Iterator[None]:
    """Hold a run alone, as rank 0 does.

    Args:
        run: the folder.
        session: name of this start, which the other ranks look for.
        wait: seconds to wait for what a killed run left behind, or for a process on another machine that may
            be dead; for a process that is known to live there is no waiting.

    Raises:
        RunError: if another run holds it, or its ranks do after the waiting.
        OSError: if the lock files cannot be written.
    """
    deadline = time.monotonic() + wait
    with closing(FolderLock(run / LOCK)) as lock, closing(FolderLock(run / RANKS_LOCK)) as ranks:
        while not lock.take(shared=False):
            holder = read_holder(run)
            if (holder is not None and holder.is_known_to_live()) or time.monotonic() >= deadline:
                raise RunError(_held(run, holder))
            time.sleep(_POLL)
        try:
            lock.write("")  # so that ranks of a killed run see that theirs is over
            while not ranks.take(shared=False):
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"Ranks of an earlier run still write to {run} ({wait:g} s were waited for them). "
                        "End these processes, or choose another --out."
                    )
                time.sleep(_POLL)
            ranks.take(shared=True)
            holder = Holder(os.getpid(), socket.gethostname(), stamp(datetime.now(UTC)), session)
            lock.write(json.dumps(asdict(holder)))
            yield
        finally:
            lock.write("")


@contextmanager
def hold_rank(run: Path, session: str, *, wait: float) -> Iterator[None]:
    """Hold a run together with its rank 0, as the other ranks do.

    Args:
        run: the folder.
        session: name of the start, as rank 0 has it.
        wait: seconds to wait until the start is seen, on a shared disk that shows changes late.

    Raises:
        RunError: if another start holds the run, or none.
        OSError: if there is no such folder.
    """
    deadline = time.monotonic() + wait
    with closing(FolderLock(run / RANKS_LOCK, create=False)) as ranks:
        while not ((holder := read_holder(run)) and holder.session == session and ranks.take(shared=True)):
            if time.monotonic() >= deadline:
                raise RunError(
                    f"The start {session} does not hold {run}"
                    + (f", {holder.session} does" if holder else "")
                    + ". Start rank 0 with the other ranks, on a disk that all of them share."
                )
            time.sleep(_POLL)
        yield


def refuse_if_held(run: Path) -> None:
    """Refuse a run that a process of this machine writes to.

    Raises:
        RunError: that names the process.
    """
    holder = read_holder(run)
    if holder is not None and holder.is_known_to_live() and is_held(run):
        raise RunError(_held(run, holder))


def is_held(run: Path) -> bool:
    """Whether a rank 0 lives that holds the run."""
    try:
        with closing(FolderLock(run / LOCK, create=False)) as lock:
            return not lock.take(shared=True)
    except FileNotFoundError:
        return False


def read_holder(run: Path) -> Holder | None:
    """Who holds the run, or held it when it was killed; None after an end in good order."""
    try:
        values: dict[str, Any] = json.loads((run / LOCK).read_text())
        return Holder(**{field.name: values[field.name] for field in fields(Holder)})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _held(run: Path, holder: Holder | None) -> str:
    who = f" (process {holder.pid} on {holder.host} since {holder.since})" if holder else ""
    return f"Another run is writing to {run}{who}. Wait until it ends, or choose another --out."


def stamp(moment: datetime) -> str:
    """A moment as the files of a run write it: ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
