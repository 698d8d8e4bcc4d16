"""The folders that a command writes its results to: one per image, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from clip_surgery_hub.cli.options import OUT
from clip_surgery_hub.cli.outputs import RESULT_NAMES
from clip_surgery_hub.files.folders import check_place, whole_folder


def image_folders(
    images: Sequence[Path], out: Path | None, *, command: str, as_json: bool
) -> Sequence[Path | None]:
    """A folder for the results of each image, named after it, and checked to be writable.

    Args:
        images: the files.
        out: the folder that they are in; None: that of the command, or with ``as_json`` none for any image.
        command: its name.
        as_json: whether the results are printed as JSON.

    Raises:
        OSError: if one of them could not be written, or holds other files than results of these commands.
    """
    if out is None and as_json:
        return [None] * len(images)
    parent = (out or OUT / command).expanduser()
    chosen: list[Path] = []
    taken: set[str] = set()
    for image in images:
        name, number = image.stem, 1
        while name.casefold() in taken:  # some file systems know no difference between A and a
            number += 1
            name = f"{image.stem}-{number}"
        taken.add(name.casefold())
        chosen.append(parent / name)
    check_place(parent, replaceable=lambda existing: True)
    for folder in chosen:
        check_place(folder, replaceable=_holds_only_results)
    return chosen


def results_folder(folder: Path) -> AbstractContextManager[Path]:
    """A place to write an image's results to that becomes their folder when the body ends without an error.

    All or nothing: when it raises, nothing is left of them. Earlier results in the folder are replaced.

    Args:
        folder: one of :func:`image_folders`.

    Raises:
        OSError: if it cannot be written.
    """
    return whole_folder(folder, replaceable=_holds_only_results)


def _holds_only_results(folder: Path) -> bool:
    return all(RESULT_NAMES.fullmatch(path.name) for path in folder.iterdir())
