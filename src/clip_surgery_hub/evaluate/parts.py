"""An evaluation on disk: rows of the metrics in parts, written whole, so that a killed one can be resumed.

A part holds the rows of some images under all variants and the numbers of these images. Parts can be put
together in any order, whichever ranks wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clip_surgery_hub.files.durable import replace_whole

__all__ = ["EvaluationFolder"]

_SETTINGS = "settings.json"
_FOLDER = "parts"

Content = TypeVar("Content")


class EvaluationFolder:
    """The folder of one evaluation.

    Args:
        path: where it is.
        settings: what the metrics depend on, in plain values; a folder with others is not resumed.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))

    def check(self) -> None:
        """Raise ValueError for a folder that holds other things, or an evaluation with other settings."""
        found = self.path / _SETTINGS
        if found.exists():
            kept = json.loads(found.read_text())
            names = [name for name in self.settings | kept if kept.get(name) != self.settings.get(name)]
            if names:
                said = ", ".join(
                    f"{name} {_short(kept.get(name))}, now {_short(self.settings.get(name))}"
                    for name in names[:3]
                )
                raise ValueError(
                    f"The folder {self.path} holds an evaluation with other settings ({said}): name another "
                    "folder, or remove it."
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"The folder {self.path} holds other things: name another one.")

    def create(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            ValueError: as :meth:`check`.
            OSError: it cannot be written to.
        """
        self.check()
        (self.path / _FOLDER).mkdir(parents=True, exist_ok=True)
        if not (self.path / _SETTINGS).exists():
            content = json.dumps(self.settings, indent=2).encode()
            replace_whole(self.path / _SETTINGS, content, part=self.path / f".{_SETTINGS}")

    def write(self, rows: Mapping[str, Mapping[str, Tensor]], images: list[int]) -> None:
        """Record what is known of some images; when this returns it survives a crash.

        Args:
            rows: columns by variant.
            images: numbers of the images, those without a row too.

        Raises:
            OSError: it cannot be written.
        """
        flat = {
            f"{variant}/{column}": values.contiguous().cpu()
            for variant, columns in rows.items()
            for column, values in columns.items()
        }
        name = f"{min(images):08d}-{uuid4().hex}.safetensors"
        content = save(flat, metadata={"images": json.dumps(images)})
        replace_whole(self.path / _FOLDER / name, content, part=self.path / _FOLDER / f".{name}")

    def images(self) -> set[int]:
        """The numbers of the images that are recorded.

        Raises:
            ValueError: a part is damaged.
        """
        return {number for numbers in self._of_each_part(_numbers) for number in numbers}

    def rows(self) -> list[dict[str, dict[str, Tensor]]]:
        """The rows of each part, by variant and column.

        Raises:
            ValueError: a part is damaged.
        """
        return self._of_each_part(_rows)

    def _of_each_part(self, read: Callable[[Any], Content]) -> list[Content]:
        found = []
        for path in sorted((self.path / _FOLDER).glob("[0-9]*.safetensors")):
            try:
                with safe_open(path, "pt") as part:
                    found.append(read(part))
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"The part {path} is damaged ({error}): remove it and start the same command again."
                ) from error
        return found


def _numbers(part: Any) -> list[int]:
    return [int(number) for number in json.loads(part.metadata()["images"])]


def _rows(part: Any) -> dict[str, dict[str, Tensor]]:
    rows: dict[str, dict[str, Tensor]] = {}
    for key in part.keys():  # noqa: SIM118  # it is no mapping
        variant, column = key.rsplit("/", 1)
        rows.setdefault(variant, {})[column] = part.get_tensor(key)
    return rows


def _short(value: Any) -> str:
    """A value in a message."""
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:39]}…"
