"""How an explanation was made: the settings that travel with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def installed_versions() -> dict[str, str]:
    """The versions of the packages that the numbers depend on, by package name."""
    return {name: _version_of(name) for name in ("clip-surgery-hub", "torch", "transformers")}


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source folder that was never installed, as torch.hub does
        return "not installed"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an explanation was made.

    Attributes:
        model: name, folder or hub id of the checkpoint.
        method: name of the surgery method; "none" is raw CLIP.
        depth: how many of the last vision blocks it covers, None where the method has none.
        templates: "paper", the templates themselves, None for the bare text, "given" for embeddings.
        redundant: the feature taken away: "auto", "class_set", "empty_text", "given" (a tensor) or "none".
        size: short side in pixels that was asked for, None for the checkpoint's own.
        max_side: the longest side allowed in pixels, None for the default.
        interpolation: how the position embeddings were resized.
        window: side of the sliding window in pixels, None for the whole image at once.
        stride: step of the sliding window in pixels, None without a window.
        versions: package name -> version, of the installation that made it.
    """

    model: str
    method: str
    depth: int | None = None
    templates: str | tuple[str, ...] | None = "paper"
    redundant: str = "auto"
    size: int | None = None
    max_side: int | None = None
    interpolation: str = "bilinear"
    window: int | None = None
    stride: int | None = None
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def to_dict(self) -> dict[str, Any]:
        """The settings in plain values that JSON can hold."""
        values = asdict(replace(self, versions=dict(self.versions)))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """The settings that :meth:`to_dict` wrote.

        Raises:
            TypeError: for names that are missing or unknown.
        """
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)
