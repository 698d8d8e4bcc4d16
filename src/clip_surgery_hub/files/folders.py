"""Folders that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_place", "try_to_write", "whole_folder"]


@contextmanager
def whole_folder(folder: Path, *, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its place when the body ends without an error.

    When the body raises, nothing is left of it, and what was at ``folder`` before is still there, untouched.

    Args:
        folder: where the result is to be; missing parents are created.
        replaceable: says whether an existing folder with something in it may be replaced.

    Raises:
        OSError: as :func:`check_place`, before anything is written.
    """
    folder = Path(os.path.realpath(folder))
    check_place(folder, replaceable=replaceable)
    created = _make_parents(folder)
    # In the same parent, so that the final renaming stays on one file system; short, so never too long.
    temporary = folder.parent / f".part-{secrets.token_hex(6)}"
    try:
        temporary.mkdir()
        yield temporary
        _take_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in created:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise


def check_place(folder: Path, *, replaceable: Callable[[Path], bool]) -> None:
    """Find out whether a folder could be written, and leave no trace of the trial.

    Raises:
        FileExistsError: if ``folder`` is a file, or holds something that may not be replaced.
        OSError: if its parent cannot be written to.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists():
        if not folder.is_dir():
            raise FileExistsError(f"{folder} is a file where a folder was expected. Name another folder.")
        if any(folder.iterdir()) and not replaceable(folder):
            raise FileExistsError(
                f"{folder} holds other files and was left as it is. Name a new or empty folder, or move them."
            )
    parent = next(parent for parent in folder.parents if parent.exists())
    try:
        try_to_write(parent)
    except OSError as error:
        raise type(error)(
            f"{parent} cannot be written to ({error.strerror}). Name another folder."
        ) from error


def try_to_write(folder: Path) -> None:
    """Make a folder in a folder and remove it: permissions say nothing of read-only disks.

    Raises:
        OSError: if it cannot be written to.
    """
    trial = folder / f".part-{secrets.token_hex(6)}"
    trial.mkdir()
    trial.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Create the missing parents of a folder; returns those created, innermost first."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _take_place(temporary: Path, folder: Path) -> None:
    """Move a finished folder to its place; what was there comes back if that fails, and is deleted if not."""
    if not folder.exists():
        os.rename(temporary, folder)
        return
    earlier = folder.parent / f".part-{secrets.token_hex(6)}"
    os.rename(folder, earlier)
    try:
        os.rename(temporary, folder)
    except BaseException:
        os.rename(earlier, folder)
        raise
    shutil.rmtree(earlier)
