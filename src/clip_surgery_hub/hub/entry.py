"""What is known of a checkpoint that can be named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Format = Literal["transformers", "open_clip"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint that can be named. Only `name` and one of `source` and `config` are needed.

    Attributes:
        name: ``architecture.tag``, letters, digits, ``_`` and ``-``.
        source: where the files are: a hub id ``owner/name``, or a folder. None: there are no weights, only
            the architecture.
        about: one line for people: what it was trained on.
        config: the modules, for a model with random weights: what config.json of `transformers` says, with
            its ``model_type`` (CLIP where it has none), or OpenCLIP's ``model_cfg``, known by its
            ``vision_cfg``. None: whatever the files at `source` say.
        revision: commit of the hub id whose files were looked at; it is loaded where no other is asked for.
            None: none is known, so that the newest is loaded.
        format: whose files they are: "transformers" (config.json), or "open_clip" (open_clip_config.json,
            beside which some have a config.json as well).
        family: of the vision tower, as docs/models.md lists them.
        native_size: side of the images it was trained on, in pixels.
        patch: side of a patch in pixels; for a ResNet of a cell of its last feature map.
        width: channels of a token inside the vision tower.
        embedding_width: C, the width of the space that images and texts share.
        activation: of the MLPs, by its name in `transformers`, whatever the files say; of a tower of timm: of
            those of its text tower, for timm's name says the rest. "" where nothing is known.
        mean: what is subtracted of red, green and blue in [0, 1].
        std: what they are divided by afterwards.
        license: of the weights, by its name on the hub; "" where none is stated.
        methods: names of those it can be read by; (): every registered one, as all supported towers can.
        reference: where the figures come from.
        short: the architecture by its short name, such as ``vit_b16``, which `list_models` knows too.

    Raises:
        ValueError: the name is not of the form ``architecture.tag``, there is neither source nor config, or
            the format is none of the two.
    """

    name: str
    source: str | None = None
    about: str = ""
    config: Mapping[str, Any] | None = None
    revision: str | None = None
    format: Format = "transformers"
    family: str = ""
    native_size: int | None = None
    patch: int | None = None
    width: int | None = None
    embedding_width: int | None = None
    activation: str = ""
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    license: str = ""
    methods: tuple[str, ...] = ()
    reference: str = ""
    short: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+\.[\w.-]+", self.name):
            raise ValueError(
                f"a model's name is 'architecture.tag', such as 'clip_vit_tiny.scenes', not {self.name!r}"
            )
        if not self.source and self.config is None:
            raise ValueError(
                f"the entry {self.name!r} needs a source (a hub id 'owner/name' or a folder), or a config"
            )
        if self.format not in get_args(Format):
            raise ValueError(
                f"the entry {self.name!r} has the format {self.format!r}; it is one of "
                f"{', '.join(map(repr, get_args(Format)))}"
            )

    @property
    def architecture(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What `list_models` looks for a pattern in: the name, and the same tag after the short name."""
        return (self.name,) if not self.short else (self.name, f"{self.short}.{self.name.partition('.')[2]}")

    def facts(self) -> dict[str, Any]:
        """What is known, by field, ready for JSON; without the configuration."""
        known = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}

    def __repr__(self) -> str:
        known = {key: value for key, value in self.facts().items() if value not in ("", None, [])}
        lines = [f"  {key} = {value!r}," for key, value in known.items()]
        return "\n".join(["Entry(", *lines, ")"])
