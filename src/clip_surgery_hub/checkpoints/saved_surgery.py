"""The surgery that a saved model is read with: a small file beside its weights.

The file is ``clip_surgery.json``. `transformers` does not look at it, so the folder is a plain CLIP there::

    {"format": "clip_surgery_hub surgery", "format_version": 1, "library_version": "0.1.0",
     "method": "clip_surgery", "depth": 6, "interpolation": "bilinear"}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from clip_surgery_hub import __version__
from clip_surgery_hub.checkpoints.json_files import read_json_object
from clip_surgery_hub.methods import METHODS

SURGERY_FILE = "clip_surgery.json"
FORMAT = "clip_surgery_hub surgery"
FORMAT_VERSION = 1
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class SavedSurgery:
    """How a checkpoint wants to be read; the defaults hold for a checkpoint that does not say.

    Attributes:
        method: name of a method of `clip_surgery_hub.methods`.
        depth: how many of the last blocks are modified, None for the method's own depth.
        interpolation: how position embeddings are resized, "bilinear" or "bicubic".
    """

    method: str = "clip_surgery"
    depth: int | None = None
    interpolation: str = "bilinear"

    def but(self, *, method: str | None, depth: int | None, interpolation: str | None) -> SavedSurgery:
        """These settings, with what is given in the place of what was saved.

        The saved depth belongs to the saved method: another method comes with its own.

        Raises:
            ValueError: the saved method is wanted, and there is none of that name here.
        """
        if method is None and self.method not in METHODS:
            raise ValueError(
                f"{SURGERY_FILE} of this checkpoint asks for the method {self.method!r}, which is not known "
                f"here: register it with register_method, or give method= (known are {', '.join(METHODS)})"
            )
        same = method is None or method == self.method
        return SavedSurgery(
            method=self.method if method is None else method,
            depth=self.depth if depth is None and same else depth,
            interpolation=self.interpolation if interpolation is None else interpolation,
        )

    def to_json(self) -> str:
        """The content of the file."""
        about = {"format": FORMAT, "format_version": FORMAT_VERSION, "library_version": __version__}
        return json.dumps(about | asdict(self), indent=2) + "\n"


def read_saved_surgery(path: Path) -> SavedSurgery:
    """Read what :meth:`SavedSurgery.to_json` gave.

    Raises:
        ValueError: for a file of another form, or of a later format.
    """
    values = read_json_object(path)
    try:
        recognized, version = values["format"] == FORMAT, values["format_version"]
        saved = SavedSurgery(
            method=values["method"], depth=values["depth"], interpolation=values["interpolation"]
        )
    except KeyError as error:
        raise ValueError(
            f"{path} is damaged ({error} is missing); save the model again, or delete it."
        ) from error
    if not recognized:
        raise ValueError(f"{path} is not of the format {FORMAT!r}; delete it, or save the model again.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {version!r}, this installation reads {FORMAT_VERSION}. "
            "Upgrade clip-surgery-hub, or save the model again."
        )
    whole = isinstance(saved.method, str) and saved.interpolation in INTERPOLATIONS
    if not whole or not (saved.depth is None or (type(saved.depth) is int and saved.depth >= 1)):
        raise ValueError(
            f"{path} is damaged: method must be a name, depth null or a number from 1 on, and interpolation "
            f"one of {', '.join(INTERPOLATIONS)}; got {saved}. Save the model again, or delete it."
        )
    return saved
