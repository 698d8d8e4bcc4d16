"""From what was given as data to the source that it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clip_surgery_hub.sources.files import open_folder, open_pattern
from clip_surgery_hub.sources.source import Source

__all__ = ["open_source"]


def open_source(data: Any, *, column: str | None = None, key: str | None = None) -> Source:
    """Open pictures of any kind of origin."""
    if isinstance(data, Source):
        return data
    path = Path(data).expanduser()
    return open_folder(path) if path.is_dir() else open_pattern(os.fspath(data))
