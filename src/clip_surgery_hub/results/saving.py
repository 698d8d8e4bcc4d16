"""The parts of an explanation, kept in one folder.

A saved explanation is a folder of three things::

    explanation.json        texts, settings, and a digest of every other file
    tensors.safetensors     the numbers, float32
    images/000000.png       the images, without loss, one file each; none where only their sizes are kept
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_surgery_hub.files.folders import whole_folder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

RECORD = "explanation.json"
TENSORS = "tensors.safetensors"
IMAGES = "images"
FORMAT = "clip_surgery_hub explanation"
FORMAT_VERSION = 2


def write_parts(
    folder: str | Path,
    *,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    images: Sequence[np.ndarray] | None,
    overwrite: bool = False,
) -> None:
    """Write a saved explanation, all or nothing.

    An earlier saved explanation at ``folder`` is replaced; any other folder with something in it is refused.

    Args:
        folder: where to write.
        record: what JSON can hold.
        tensors: name -> tensor.
        images: uint8 arrays ``[H, W, 3]``, or None where only their sizes are known.
        overwrite: replace the folder, with all that is in it, also if it is not a saved explanation.

    Raises:
        FileExistsError: if ``folder`` is a file, or holds something else and ``overwrite`` is False.
        OSError: if it cannot be written.
    """
    from PIL import Image
    from safetensors.torch import save_file

    def replaceable(existing: Path) -> bool:
        return overwrite or _holds_only_an_explanation(existing)

    with whole_folder(Path(folder), replaceable=replaceable) as temporary:
        # Clones: safetensors refuses tensors that share memory, as the parts of one batch do.
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, temporary / TENSORS)
        if images is not None:
            (temporary / IMAGES).mkdir()
        for index, image in enumerate(images or ()):
            Image.fromarray(image).save(temporary / IMAGES / _image_name(index), compress_level=3)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        digests = {path.relative_to(temporary).as_posix(): _digest(path) for path in files}
        whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **record}
        whole["images"] = None if images is None else len(images)
        text = json.dumps(whole | {"sha256": digests}, indent=2, ensure_ascii=False)
        (temporary / RECORD).write_text(text + "\n", encoding="utf-8")


def read_parts(
    folder: str | Path,
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[np.ndarray, ...] | None]:
    """Read what :func:`write_parts` wrote: ``(record, tensors, images)``.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no saved explanation.
        ValueError: if the folder is damaged: a file is missing, changed or cut short, or of a later format.
    """
    import numpy as np
    from PIL import PngImagePlugin
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{folder} holds no saved explanation ({RECORD} is not there).")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        recognized, version = record["format"] == FORMAT, record["format_version"]
        if recognized and version == FORMAT_VERSION:  # another version may have other fields
            digests = dict(record["sha256"])
            names = [f"{IMAGES}/{_image_name(index)}" for index in range(record["images"] or 0)]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{RECORD} cannot be read") from error
    if not recognized:
        raise _damaged(folder, f"{RECORD} is not of the format {FORMAT!r}")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder} is of format version {version}, this installation reads {FORMAT_VERSION}: explain the "
            "images again and save that."
        )
    for name in (TENSORS, *names):
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
        if digests.get(name) != _digest(folder / name):
            raise _damaged(folder, f"{name} is not what was saved")
    images = []
    for name in names:
        # The class itself rather than Image.open: the file is known to be ours, however large the image is.
        with PngImagePlugin.PngImageFile(folder / name) as image:
            images.append(np.array(image))
    return record, load_file(folder / TENSORS), None if record["images"] is None else tuple(images)


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"The explanation saved in {folder} is damaged: {what}. Save it again.")


def _image_name(index: int) -> str:
    return f"{index:06d}.png"


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _holds_only_an_explanation(folder: Path) -> bool:
    """Whether nothing but a saved explanation would be lost by replacing the folder."""
    if not (folder / RECORD).is_file():
        return False
    known = {RECORD, TENSORS, IMAGES}
    top = {path.name for path in folder.iterdir()}
    inner = list((folder / IMAGES).iterdir()) if (folder / IMAGES).is_dir() else []
    return top <= known and all(path.suffix == ".png" and path.stem.isdigit() for path in inner)
